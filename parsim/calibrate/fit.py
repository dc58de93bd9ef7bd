"""From samples to laws: one non-negative fit a kernel, and what a step costs beside its kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from parsim import units
from parsim.calibrate.nnls import relative_fit
from parsim.calibrate.samples import Measured, Samples, Shape, rounded
from parsim.calibrate.walk import Walk
from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.efficiency import kernel_s
from parsim.cluster.scalars import Floats
from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim.step.optimizer import OPTIMIZERS

# Bytes of a call at which caches of common processors end: half an L2, and shares of an L3.
KNEES: Final = tuple(float(units.parse(text, "bytes")) for text in ("0.5 MiB", "4 MiB", "16 MiB"))
_SHAPES_FOR_KNEES: Final = 12  # fewer shapes leave the knees out, which could only follow their noise
_ITEMSIZE: Final = FIXED_ITEMSIZE_BYTES[FLOAT32]
_LEAST_S: Final = 1e-17  # a FLOP or byte: below it, a coefficient is nothing


@dataclass(frozen=True, slots=True)
class KernelFit:
    """The law of a kernel, and what it rests on."""

    name: str
    law: KernelLaw
    num_shapes: int
    num_kept: int
    num_dropped: int
    median_error: float  # |law / measured - 1| over the shapes


def gathered(walks: Iterable[Walk]) -> dict[str, dict[Shape, Samples]]:
    """The samples of all models together, by law and shape."""
    found: dict[str, dict[Shape, Samples]] = {}
    for walk in walks:
        for name, shapes in walk.kernels.items():
            for shape, samples in shapes.items():
                found.setdefault(name, {}).setdefault(shape, Samples()).join(samples)
    return found


def lacking(walks: Sequence[Walk]) -> tuple[str, ...]:
    """The kernels of which no more than half of the shapes have enough clean samples; and the gaps between calls, where no model has."""
    measured = gathered(walks)
    poor = tuple(name for name, shapes in sorted(measured.items()) if 2 * sum(each.enough for each in shapes.values()) <= len(shapes))
    return poor if not walks or any(_has_gaps(walk) for walk in walks) else (*poor, "the gaps between calls")


def _has_gaps(walk: Walk) -> bool:
    return all(samples.enough for samples in walk.between.values())


def fitted(measured: Measured) -> tuple[KernelFit, ...]:
    """The laws of all kernels that were sampled, by name."""
    return tuple(_fit(name, shapes) for name, shapes in sorted(measured.items()))


def _fit(name: str, shapes: Mapping[Shape, Samples]) -> KernelFit:
    used = {shape: samples for shape, samples in shapes.items() if samples.enough}
    seconds = np.array([samples.typical_s for samples in used.values()])
    features = np.array([_features(shape) for shape in used])
    if len(used) < _SHAPES_FOR_KNEES:
        features[:, -len(KNEES) :] = 0.0
    law = law_of(relative_fit(features, seconds))
    errors = np.abs(np.array([priced(law, shape) for shape in used]) / seconds - 1.0)
    kept, dropped = (sum(counts) for counts in zip(*((len(s.seconds), s.num_dropped) for s in shapes.values()), strict=True))
    return KernelFit(name, law, len(used), kept, dropped, float(np.median(errors)))


def _features(shape: Shape) -> list[float]:
    beyond = [max(shape.moved_bytes - knee, 0.0) for knee in KNEES]
    return [1.0, shape.num_matrices, shape.flops, shape.moved_bytes, shape.written_bytes, *beyond]


def best_rates(measured: Measured) -> tuple[float, float]:
    """The most FLOPs a second of any multiplication, and the most bytes a second of any kernel."""
    every = [(name, shape, samples.typical_s) for name, shapes in measured.items() for shape, samples in shapes.items() if samples.enough]
    peak = max(shape.flops / seconds for name, shape, seconds in every if name.startswith("einsum"))
    return peak, max(shape.moved_bytes / seconds for _, shape, seconds in every)


def law_of(coefficients: Floats) -> KernelLaw:
    """The law with these seconds a call, matrix, FLOP, byte, byte written, and byte beyond each knee; to four digits."""
    call, matrix, *rest = (rounded(float(each)) for each in coefficients)
    work, moved, written, *beyond = (rounded(1.0 / each) if each > _LEAST_S else math.inf for each in rest)
    knees = tuple((knee, rate) for knee, rate in zip(KNEES, beyond, strict=True) if math.isfinite(rate))
    return KernelLaw(call, matrix, work, moved, written, knees)


def priced(law: KernelLaw, shape: Shape) -> float:
    """Seconds of one call by a law."""
    seconds = kernel_s(law, shape.flops, shape.moved_bytes, written_bytes=shape.written_bytes, num_matrices=shape.num_matrices)
    return float(np.asarray(seconds))


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


def with_surroundings(fits: Iterable[KernelFit], call_s: float, byte_s: float) -> tuple[KernelFit, ...]:
    """The laws with what lies beside the kernels: a part in every call, and what goes with the parameters in those of the optimizers."""
    wide = sorted(OPTIMIZERS.values(), key=lambda optimizer: optimizer.state_bytes)  # of one kernel the widest count
    moved = {optimizer.kernel: optimizer.moved_bytes(_ITEMSIZE) for optimizer in wide}
    done = []
    for fit in fits:
        law = replace(fit.law, call_s=rounded(fit.law.call_s + call_s))
        if fit.name in moved and byte_s:
            law = replace(law, bytes_per_s=rounded(1.0 / (1.0 / law.bytes_per_s + byte_s * _ITEMSIZE / moved[fit.name])))
        done.append(replace(fit, law=law))
    return tuple(done)
