"""What an estimate says of one plan, in SI units; and the same of many plans as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from parsim import units
from parsim.asynchrony.bounds import Served
from parsim.confidence import verdict
from parsim.errors import ParsimError
from parsim.estimator.parts import ALLOCATED, DEVICE, RESERVED, held_bytes
from parsim.parallel.plan import Plan
from parsim.parallel.plans import Plans
from parsim.plain import Plain, equal, flat

ByteCount = int | NDArray[np.int64]
_AS_SAID: Final = "Give what to_dict returned."
RATES: Final = ("tokens_per_s", "tokens_per_s_per_device", "mfu", "mfu_causal", "hfu")  # of an estimate, all as its 1 / step_s


class Shortage(Plain, frozen=True):
    """Why a plan does not fit: which memory lacks, and what it needs of what that holds."""

    memory: Literal["device", "host"]
    needs_bytes: int
    holds_bytes: int
    parts: Mapping[str, int]  # of what it needs
    stage: int | None  # the pipeline rank of the device; None of a host

    @property
    def lacks_bytes(self) -> int:
        """The margin."""
        return self.needs_bytes - self.holds_bytes

    def __str__(self) -> str:
        parts = sorted(self.parts.items(), key=lambda part: -part[1])[:4]
        sizes = [self.needs_bytes, self.holds_bytes, self.lacks_bytes, *(size for _, size in parts)]
        needs, holds, lacks, *each = (units.format(size, "GiB").removesuffix(" GiB") for size in sizes)
        place = "the fullest host" if self.stage is None else f"stage {self.stage}"
        largest = ", ".join(f"{name} {size}" for (name, _), size in zip(parts, each, strict=True))
        return f"{place} needs {needs} of {holds} GiB, {lacks} too many ({largest})"


class Estimate(Plain, frozen=True):
    """The predicted step of one plan.  Lists run over pipeline ranks; every figure is one rank's, never a sum over ranks.

    `mfu` counts 6 N + 12 L s w FLOPs a token (full attention, N without the input embedding, w = heads x head_dim) against the
    dense peak of the matmul dtype, and of a layer with a window twice the pairs that its mask leaves; `mfu_causal` counts those that masks
    leave, once; `hfu` adds recomputed matmuls and attention, counted as `mfu` does.
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
    precision: str = ""  # in which it trains
    capacities_bytes: tuple[int, ...] = ()  # by pipeline rank, where devices differ; capacity_bytes is that of the fullest
    # Each holds 8 of 10 measured runs that are comparable (parsim/confidence), and the prediction.
    step_interval_s: tuple[float, float] | None = None
    peak_interval_bytes: tuple[int, int] | None = None
    fit_probability: float | None = None  # that what will be measured fits; 0 where a host lacks memory, of which nothing was compared
    served: Served | None = None  # of a plan of parameter servers: what a step takes them, and what binds

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Estimate:
        """The estimate that `to_dict` said.

        Raises:
            ParsimError: a field is missing, unknown, or of another type, or an interval or a probability is none.
        """
        found = super().from_dict({"served": None, **document})
        for name in ("step_interval_s", "peak_interval_bytes"):
            if (ends := getattr(found, name)) is not None and not 0 <= ends[0] <= ends[1] < math.inf:
                raise ParsimError(f"{name} = {list(ends)} is no interval: two numbers from 0, the lower first", remedy=_AS_SAID)
        if found.fit_probability is not None and not 0 <= found.fit_probability <= 1:
            raise ParsimError(f"fit_probability = {found.fit_probability} is no probability: a number from 0 to 1", remedy=_AS_SAID)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them; of servers nothing where there are none."""
        return {name: value for name, value in super().to_dict().items() if name != "served" or value is not None}

    @property
    def peak_bytes(self) -> int:
        """Of the fullest rank, with the stack's overheads, which the peaks of a simulated Trace are without."""
        return sum(self.memory_bytes[self.peak_rank].values())

    @property
    def allocated_bytes(self) -> int:
        """What tensors take of the same rank at its peak, as parts.py defines it."""
        return held_bytes(self.memory_bytes[self.peak_rank], ALLOCATED)

    @property
    def reserved_bytes(self) -> int:
        """What its caching allocator holds."""
        return held_bytes(self.memory_bytes[self.peak_rank], RESERVED)

    @property
    def device_bytes(self) -> int:
        """What the device shows, by which the plan fits: peak_bytes."""
        return held_bytes(self.memory_bytes[self.peak_rank], DEVICE)

    @property
    def peak_rank(self) -> int:
        """The most loaded pipeline rank, the first of equals."""
        sizes = [sum(parts.values()) for parts in self.memory_bytes]
        return fullest(sizes, self.capacities_bytes or (self.capacity_bytes,) * len(sizes))

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
    def fit(self) -> str:
        """The same as people read it: yes, likely, unlikely or no, by `fit_probability`; yes or no where nothing is known of that."""
        return verdict(float(self.fits) if self.fit_probability is None else self.fit_probability)

    @property
    def shortage(self) -> Shortage | None:
        """Why it does not fit; None where it does.  Where both memories lack, the device's."""
        if self.peak_bytes > self.capacity_bytes:
            parts = self.memory_bytes[self.peak_rank]
            return Shortage("device", self.peak_bytes, self.capacity_bytes, parts, self.peak_rank)
        if self.host_capacity_bytes is None or self.host_fits:
            return None
        return Shortage("host", self.host_peak_bytes, self.host_capacity_bytes, self.host_memory_bytes, None)

    def with_step(self, step_s: float) -> Estimate:
        """The same with another step time, and the rates that follow from it; the breakdown stays as it is."""
        gain = self.step_s / step_s
        rates: dict[str, Any] = {name: getattr(self, name) * gain for name in RATES}
        if self.step_interval_s:
            low, high = self.step_interval_s
            rates["step_interval_s"] = low / gain, high / gain
        return replace(self, step_s=step_s, **rates)

    def records(self) -> list[dict[str, object]]:
        """A row: the plan, the rates, the step by part, and the memory of the most loaded rank by part."""
        names = ("step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "peak_bytes", "capacity_bytes", "fits")
        row = {"plan": self.name, **flat(self.plan.to_dict()), **{name: getattr(self, name) for name in names}, **self.ends()}
        most = self.memory_bytes[self.peak_rank]
        times, sizes = (
            {f"{name}_{unit}": part for name, part in parts.items()} for parts, unit in ((self.breakdown_s, "s"), (most, "bytes"))
        )
        return [{**row, **times, **sizes}]

    def ends(self) -> dict[str, float | str]:
        """The ends of both intervals and whether it fits, a column each; none where no interval is known."""
        if self.step_interval_s is None or self.peak_interval_bytes is None:
            return {}
        (low_s, high_s), (low, high) = self.step_interval_s, self.peak_interval_bytes
        return {"step_low_s": low_s, "step_high_s": high_s, "peak_low_bytes": low, "peak_high_bytes": high, "fit": self.fit}

    @property
    def fill(self) -> float:
        """The fullest memory, over what it holds."""
        return float(_fill(self.peak_bytes, self.capacity_bytes, self.host_peak_bytes, self.host_capacity_bytes))


class Estimates(Plain, frozen=True):
    """Many plans: one value per plan."""

    plans: Plans
    step_s: NDArray[np.float64]
    peak_bytes: NDArray[np.int64]
    capacity_bytes: int
    host_peak_bytes: NDArray[np.int64]
    host_capacity_bytes: int | None
    capacities_bytes: NDArray[np.int64] | None = None  # of each plan's fullest device, where they differ; capacity_bytes is the smallest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Estimates) and equal(self.to_dict(), other.to_dict())

    def records(self) -> list[dict[str, object]]:
        """A row a plan."""
        columns = {name: getattr(self, name).tolist() for name in ("step_s", "peak_bytes", "host_peak_bytes", "fits")}
        figures = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        return [flat(plan.to_dict()) | row for plan, row in zip(self.plans, figures, strict=True)]

    @property
    def fill(self) -> NDArray[np.float64]:
        """The fullest memory of each plan, device or host, over what it holds."""
        return np.asarray(_fill(self.peak_bytes, self.holds_bytes, self.host_peak_bytes, self.host_capacity_bytes))

    @property
    def holds_bytes(self) -> NDArray[np.int64]:
        """What the fullest device of each plan holds."""
        return np.full_like(self.peak_bytes, self.capacity_bytes) if self.capacities_bytes is None else self.capacities_bytes

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which plans fit their device and their host."""
        return self.fill <= 1

    @property
    def short_of(self) -> NDArray[np.str_]:
        """Which memory each plan lacks: "device", "host", or "" where it fits; where both, the device's."""
        return np.where(self.peak_bytes > self.holds_bytes, "device", np.where(self.fits, "", "host"))


def fullest(sizes: Sequence[int], capacities: Sequence[int]) -> int:
    """The rank that holds most of what it can hold, the first of equals.

    >>> fullest([60, 40, 40], [80, 40, 40])
    1
    """
    return max(range(len(sizes)), key=lambda rank: Fraction(sizes[rank], capacities[rank]))


def _fill(peak: ByteCount, capacity: ByteCount, on_host: ByteCount, host_capacity: int | None) -> NDArray[np.float64] | float:
    device = np.divide(peak, capacity)
    return device if host_capacity is None else np.maximum(device, np.divide(on_host, host_capacity))
