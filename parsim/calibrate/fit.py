"""From samples to laws of kernels, and what a step costs beside its kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

import numpy as np

from parsim import units
from parsim.calibrate.samples import LawFit, Samples, fit_laws, merge, poor_names, relative_fit, to_digits
from parsim.calibrate.walk import TimedCall, Walk
from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.scalars import Floats
from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim.step.optimizer import OPTIMIZERS

# Bytes of a call at which caches of common processors end: half an L2, and shares of an L3.
KNEES: Final = tuple(float(units.parse(text, "bytes")) for text in ("0.5 MiB", "4 MiB", "16 MiB"))
_SHAPES_FOR_KNEES: Final = 12  # fewer shapes leave the knees out, which could only follow their noise
_ITEMSIZE: Final = FIXED_ITEMSIZE_BYTES[FLOAT32]
_LEAST_S: Final = 1e-17  # a FLOP or byte: below it, a coefficient is nothing
_KERNEL: Final = attrgetter("kernel")


def gather(walks: Iterable[Walk]) -> dict[TimedCall, Samples]:
    """The samples of all models together, sorted by kernel."""
    found: dict[TimedCall, Samples] = {}
    for walk in walks:
        merge(found, walk.calls)
    return dict(sorted(found.items(), key=lambda item: item[0].kernel))


def poor_kernels(walks: Sequence[Walk]) -> tuple[str, ...]:
    """The kernels of which no more than half of the shapes have enough clean samples; and the gaps between calls, where no model has."""
    poor = poor_names(gather(walks), _KERNEL)
    return poor if not walks or any(_has_gaps(walk) for walk in walks) else (*poor, "the gaps between calls")


def _has_gaps(walk: Walk) -> bool:
    return all(samples.enough for samples in walk.between.values())


def fit_kernels(samples: Mapping[TimedCall, Samples]) -> tuple[LawFit[KernelLaw], ...]:
    """The laws of all kernels that were sampled."""
    return fit_laws(samples, _KERNEL, _features, law_of)


def _features(calls: Sequence[TimedCall]) -> Floats:
    """Columns: 1, matrices, FLOPs, bytes, bytes written, and bytes beyond each knee."""
    rows = np.array([(1.0, call.num_matrices, call.flops, call.moved_bytes, call.written_bytes) for call in calls])
    beyond = np.maximum(rows[:, 3:4] - KNEES, 0.0) * (len(calls) >= _SHAPES_FOR_KNEES)
    return np.hstack([rows, beyond])


def best_rates(samples: Mapping[TimedCall, Samples]) -> tuple[float, float]:
    """The most FLOPs a second of any multiplication, and the most bytes a second of any kernel."""
    seconds = {call: each.typical_s for call, each in samples.items() if each.enough}
    peak = max(call.flops / each for call, each in seconds.items() if call.kernel.startswith("einsum"))
    return peak, max(call.moved_bytes / each for call, each in seconds.items())


def law_of(coefficients: Floats) -> KernelLaw:
    """The law with these seconds a call, matrix, FLOP, byte, byte written, and byte beyond each knee; to four digits."""
    call, matrix, *rest = (to_digits(float(each)) for each in coefficients)
    work, moved, written, *beyond = (to_digits(1.0 / each) if each > _LEAST_S else math.inf for each in rest)
    knees = tuple((knee, rate) for knee, rate in zip(KNEES, beyond, strict=True) if math.isfinite(rate))
    return KernelLaw(call, matrix, work, moved, written, knees)


def beside(walks: Iterable[Walk]) -> tuple[float, float]:
    """What a step costs beside its kernels: seconds a call, and seconds a byte of parameters.

    Between the calls buffers are freed and the program goes on; once a step gradients are cleared, and kept for whoever looks at them.
    """
    rows, seconds = [], []
    for walk in walks:
        if _has_gaps(walk):
            typical = {gap: max(samples.typical_s - walk.overhead_s, 0.0) for gap, samples in walk.between.items()}
            num_once = len(typical) - 1
            total_s = sum(typical.values()) + typical["calls"] * (walk.num_calls - num_once)
            rows.append([walk.num_calls, walk.parameter_bytes])
            seconds.append(total_s)
    if not rows:  # no other cores, so nobody ever slowed anybody
        return 0.0, 0.0
    call_s, byte_s = relative_fit(np.array(rows, dtype=np.float64), np.array(seconds))
    return float(call_s), float(byte_s)


def with_surroundings(fits: Iterable[LawFit[KernelLaw]], call_s: float, byte_s: float) -> tuple[LawFit[KernelLaw], ...]:
    """The laws with what lies beside the kernels: a part in every call, and what goes with the parameters in those of the optimizers."""
    wide = sorted(OPTIMIZERS.values(), key=lambda optimizer: optimizer.state_bytes)  # of one kernel the widest count
    moved = {optimizer.kernel: optimizer.moved_bytes(_ITEMSIZE) for optimizer in wide}
    done = []
    for fit in fits:
        law = replace(fit.law, call_s=to_digits(fit.law.call_s + call_s))
        if fit.name in moved and byte_s:
            law = replace(law, bytes_per_s=to_digits(1.0 / (1.0 / law.bytes_per_s + byte_s * _ITEMSIZE / moved[fit.name])))
        done.append(replace(fit, law=law))
    return tuple(done)
