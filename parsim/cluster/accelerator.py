"""What one accelerator can do, and the fitted laws by which it does less; the arithmetic stands in efficiency.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.errors import ScenarioError

WIDE: Final = ("fp32", "tf32", "bf16", "fp16")  # dtypes of multiplications in 16 bits or more


class Law(Struct, frozen=True):
    """A GEMM law: launch + (compute^q + memory^q)^(1/q), q = exponent; efficiency.py states both, by the tiles of the result.

    Source: the p-norm of the two roofs of Williams et al. 2009 (CACM 52(4)); constants by accelerator in the catalog.
    """

    efficiency: float  # of the dense peak, inside a tile of the largest kind
    memory_efficiency: float  # of the HBM bandwidth
    launch_s: float
    exponent: float  # q >= 1; 1 adds the roofs, infinity is the roofline
    tile_edge: float = 0.0  # how much a smaller tile is slower: loads of an edge cost as many elements of its area
    tile_start: float = 0.0  # filling and emptying a tile's pipeline costs as much as so many elements of k


class GroupedLaw(Struct, frozen=True):
    """The law of one kernel that multiplies the tokens of all experts, where a device has such a kernel that was measured.

    It reads tiles of rows in the order of experts: a tile in which one expert ends and the next begins is worked once for each, so that
    an expert costs `tile_rows` more rows than it has.  Cores of a device that take a part of the tokens each read all weights.  A width
    is a tile of its own up to `tile_columns`; a wider one that no tile divides has its last tile masked.
    """

    plain: Law
    tile_rows: int = 0
    tile_columns: int = 0
    cores: int = 1
    masked: float = 1.0  # share of the rate that is left then
    narrow: float | None = None  # in place of the law's efficiency, of 8 and 4 bits

    def law_in(self, dtype: str) -> Law:
        """The law of multiplications in a dtype."""
        return self.plain if self.narrow is None or dtype in WIDE else replace(self.plain, efficiency=self.narrow)


class AttentionLaw(Struct, frozen=True):
    """A flash attention law: launch + FLOPs / (e(head_dim) peak) (1 + ramp / blocks per multiprocessor) + bytes / (e_m bandwidth).

    Source: form fitted to aiconfigurator's attention tables; constants by accelerator in the catalog.
    """

    efficiency_by_head_dim: tuple[tuple[int, float], ...]  # ascending; linear between, constant outside
    launch_s: float
    ramp: float
    memory_efficiency: float
    backward_rate: float  # FLOP/s of the backward kernel over the forward's


class ElementwiseLaw(Struct, frozen=True):
    """A law of kernels that only move bytes: launch + bytes / (memory_efficiency bandwidth)."""

    memory_efficiency: float
    launch_s: float
    gather_efficiency: float | None = None  # in its place where rows are fetched by an index; None: as the former

    @property
    def gathers(self) -> float:
        """Share of the bandwidth at which rows are fetched by an index."""
        return self.memory_efficiency if self.gather_efficiency is None else self.gather_efficiency


class KernelLaw(Struct, frozen=True):
    """A law measured of one kernel by itself: call + matrices x matrix + FLOPs, bytes, written bytes and beyond knees, each / its rate.

    Rates add time to time; an infinite one adds none.

    Source: the linear model of Williams et al. 2009 (CACM 52(4)) with its roofs added; a knee is where a call outgrows a cache.
    """

    call_s: float = 0.0  # of any call, what surrounds the kernel included
    matrix_s: float = 0.0  # a matrix of a batched product
    flops_per_s: float = math.inf
    bytes_per_s: float = math.inf  # of all that is read and written
    written_bytes_per_s: float = math.inf  # on top, of what is written
    knees: tuple[tuple[float, float], ...] = ()  # (bytes, bytes/s): on top, of what one call moves beyond so many bytes


# What switches draws C V^2 f, so that a clock which the voltage follows goes with the cube root of the power, one at the floor of the
# voltage with the power itself.  Of a board's power the former is within 7 % of what was measured: an A100 SXM (400 W) as a PCIe card of
# 300 W multiplies at 0.93 (ML-Engineering, maximum achievable matmul), a V100 of 250 W draws pictures at 200 W 0.93 and at 175 W 0.88 as
# fast (bradrlaw/ai-server, pull request 32), an RTX 3090 of 350 W trains at 280 W at 0.95 (pugetsystems.com, 1974) and reads prompts at
# 250 W at 0.91 and at 180 W at 0.75 (noonghunna/club-3090, issue 104).
VOLTAGE_FOLLOWS: Final = 1 / 3


class Accelerator(Struct, frozen=True):
    """One device: dense peaks by dtype, memory, and the laws of its kernels."""

    name: str
    peak_flops_per_s: Mapping[str, float]  # dense, by dtype of the multiplication
    hbm_bandwidth_bytes_per_s: float
    hbm_capacity_bytes: int  # what a program can allocate
    num_multiprocessors: int
    gemm: Law
    attention: AttentionLaw
    elementwise: ElementwiseLaw
    sustained_factor: float = 1.0  # training sustains this share of the isolated kernel's rate
    source: str = ""
    catalog_row: str = ""  # that it is, or starts from under another name: by it others know the kind of device; "" for one of its own
    tuned_as: str = ""  # the row by which stacks know its sustained_factor; "" where it has one of its own
    l2_bytes: float = 0.0  # the cache in which activations stay, where it is so much faster than memory that kernels show it
    alignment: Mapping[int, float] = field(default_factory=dict)  # share of the GEMM rate by the largest of these that divides all widths
    gemm_by_dtype: Mapping[str, Law] = field(default_factory=dict)  # where a dtype has a law of its own; gemm otherwise
    grouped_gemm: GroupedLaw | None = None  # of experts, where one kernel multiplies for all of them; else the law of matmuls, joined less
    kernels: Mapping[str, KernelLaw] = field(default_factory=dict)  # where a kernel was measured by itself; its family's law otherwise
    busy_kernels: Mapping[str, KernelLaw] = field(default_factory=dict)  # while all devices of the node work, if that makes a difference
    beside: Mapping[str, float] = field(default_factory=dict)  # by operation: what a collective costs compute beside it (cost/beside.py)
    tdp_w: float | None = None  # the power that it is built to draw; None: nobody says
    power_limit_w: float | None = None  # what it is allowed to draw where that is less
    power_exponent: float = VOLTAGE_FOLLOWS  # of the share of its power that is left, in the share of the rate of matmuls that is
    paces_s: Mapping[int, float] = field(default_factory=dict)  # by busy cores: `calibrate`'s fixed work on each, when nothing slowed it

    @property
    def kept_by_limit(self) -> float:
        """Share of the rate of matmuls and attention that a power limit leaves: (limit / design power) to the exponent.

        Memory keeps its clock.  Source: ashalliants/ninfer-3090, pull request 72 (315 W of 350: 9,501 MHz in every sample).

        >>> from msgspec.structs import replace
        >>> from parsim.scenario.rows import read
        >>> [round(replace(read("accelerators", name), power_limit_w=350.0).kept_by_limit, 3) for name in ("a100-sxm4-80gb", "h200")]
        [0.956, 0.5]
        """
        if self.power_limit_w is None or self.tdp_w is None:
            return 1.0
        return float(min(self.power_limit_w / self.tdp_w, 1.0) ** self.power_exponent)

    @property
    def busy_w(self) -> float | None:
        """Watts that it draws while it runs kernels: its design power, or what it is allowed to; None: nobody says.

        >>> from msgspec.structs import replace
        >>> from parsim.scenario.rows import read
        >>> h200 = read("accelerators", "h200")
        >>> h200.busy_w, replace(h200, power_limit_w=350.0).busy_w
        (700.0, 350.0)
        """
        return self.tdp_w if self.tdp_w is None or self.power_limit_w is None else min(self.tdp_w, self.power_limit_w)

    def gemm_law(self, dtype: str) -> Law:
        """The law of multiplications in a dtype: its own, or that of all."""
        return self.gemm_by_dtype.get(dtype, self.gemm)

    def peak(self, dtype: str) -> float:
        """The dense peak for a dtype [FLOP/s].

        Raises:
            ScenarioError: the accelerator does not multiply that dtype.
        """
        if dtype not in self.peak_flops_per_s:
            known = ", ".join(sorted(self.peak_flops_per_s))
            raise ScenarioError(f'accelerator "{self.name}" has no peak for dtype "{dtype}"', remedy=f"It multiplies: {known}.")
        return self.peak_flops_per_s[dtype]
