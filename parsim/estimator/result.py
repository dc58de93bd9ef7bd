"""What an estimate says of one plan, in SI units; and the same of many plans as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsim.parallel.plan import Plan
from parsim.parallel.plans import Plans

ByteCount = int | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The predicted step of one plan.  Lists run over pipeline ranks; every figure is one rank's, never a sum over ranks.

    `mfu` counts 6 N + 12 L s w FLOPs a token (full attention, N without the input embedding, w = heads x head_dim) against the
    dense peak of the matmul dtype; `mfu_causal` halves attention; `hfu` adds recomputed matmuls and attention, counted alike.
    Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B; Korthikanti et al. 2022, section 6.
    """

    name: str
    plan: Plan
    step_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    mfu: float
    mfu_causal: float
    hfu: float
    breakdown_s: Mapping[str, float]  # of the critical rank; sums to step_s
    critical_rank: int
    memory_bytes: tuple[Mapping[str, int], ...]  # parts, by pipeline rank
    capacity_bytes: int
    host_memory_bytes: Mapping[str, int]  # parts, of the host that holds most; none where nothing is kept on hosts
    host_capacity_bytes: int | None  # None: nobody says
    flops: tuple[int, ...]  # by pipeline rank, one device of it
    hbm_bytes: tuple[int, ...]
    sent_bytes: tuple[Mapping[str, int], ...]  # by pipeline rank, then axis
    busy_s: tuple[float, ...]  # by pipeline rank: its device runs kernels
    layers: tuple[int, ...]  # by (virtual) stage
    num_micro_batches: int

    @property
    def peak_bytes(self) -> int:
        """Of the most loaded rank, with the stack's overheads, which the peaks of a simulated Trace are without."""
        return max(sum(parts.values()) for parts in self.memory_bytes)

    @property
    def host_peak_bytes(self) -> int:
        """Of the host that holds most."""
        return sum(self.host_memory_bytes.values())

    @property
    def host_fits(self) -> bool:
        """Whether every host holds what its ranks keep there; where nobody says what it holds, too."""
        return self.host_capacity_bytes is None or self.host_peak_bytes <= self.host_capacity_bytes

    @property
    def fits(self) -> bool:
        """Whether every rank fits its device, and those of a node their host."""
        return self.peak_bytes <= self.capacity_bytes and self.host_fits

    @property
    def fill(self) -> float:
        """The fullest memory, over what it holds."""
        return float(_fill(self.peak_bytes, self.capacity_bytes, self.host_peak_bytes, self.host_capacity_bytes))


@dataclass(frozen=True, slots=True)
class Estimates:
    """Many plans: one value per plan."""

    plans: Plans
    step_s: NDArray[np.float64]
    peak_bytes: NDArray[np.int64]
    capacity_bytes: int
    host_peak_bytes: NDArray[np.int64]
    host_capacity_bytes: int | None

    @property
    def fill(self) -> NDArray[np.float64]:
        """The fullest memory of each plan, device or host, over what it holds."""
        return np.asarray(_fill(self.peak_bytes, self.capacity_bytes, self.host_peak_bytes, self.host_capacity_bytes))

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which plans fit their device and their host."""
        return self.fill <= 1


def _fill(peak: ByteCount, capacity: int, on_host: ByteCount, host_capacity: int | None) -> NDArray[np.float64] | float:
    device = np.divide(peak, capacity)
    return device if host_capacity is None else np.maximum(device, np.divide(on_host, host_capacity))
