"""GEMMs that were measured by themselves: what of them cannot be, and the efficiency of the law of each dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from parsim import units
from parsim.calibrate.factor_fit import MOST, Knob, Point, fit_jointly, slow_fault
from parsim.calibrate.measured_files import TimedGemm
from parsim.calibrate.own_rows import Cite, OwnCluster, RowBase, own_factor
from parsim.calibrate.wires import DIGITS, Row
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.efficiency import gemm_s
from parsim.cluster.scalars import Floats
from parsim.confidence.shrink import Deviations
from parsim.scenario.fields import merge
from parsim.scenario.inline import read

# Of the GEMMs of one device alone: a shape about the law (its medians in the catalog), a device about those of its kind (assumed).
GEMM_DEVIATIONS: Final = Deviations(row=0.08, source=0.0, stack=0.08)
_ABOVE: Final = 1.02  # of the peak, at which times are rounded


def gemm_faults(device: Accelerator, gemms: Sequence[TimedGemm]) -> Iterator[tuple[TimedGemm, str]]:
    """Measurements that the device cannot have made, each with the reason."""
    legal = [each for each in gemms if each.dtype in device.peak_flops_per_s]
    predicted_s = dict(zip(map(id, legal), _all_isolated_s(device, legal).tolist(), strict=True))
    for each in gemms:
        if each.dtype not in device.peak_flops_per_s:
            known = ", ".join(sorted(device.peak_flops_per_s))
            yield each, f"{device.name} has no peak for dtype {each.dtype}; it multiplies {known}"
        elif (rate := each.flops / each.seconds) > _ABOVE * (peak := device.peak(each.dtype)):
            shown, most = (units.format(value, "FLOP/s") for value in (rate, peak))
            yield each, f"{shown} is above the peak of {device.name} in {each.dtype}, {most}; is the unit right, and the device?"
        elif said := slow_fault(each.seconds, predicted_s[id(each)]):
            yield each, said


def isolated_s(device: Accelerator, gemms: Sequence[TimedGemm], dtype: str) -> Floats:
    """Seconds of GEMMs by themselves: both operands read, and a result of two bytes an element (four of fp32) written."""
    m, n, k = (np.array([getattr(each, side) for each in gemms], dtype=np.float64) for side in "mnk")
    itemsize = float(read("dtypes", dtype))
    moved = itemsize * (m * k + k * n) + (itemsize if dtype in ("fp32", "tf32") else 2.0) * m * n
    seconds = gemm_s(device, 2 * m * n * k, moved, dtype, shape=(m, n, k), weight_bytes=itemsize * k * n, sustained=1.0)
    return np.asarray(seconds, dtype=np.float64)


def _all_isolated_s(device: Accelerator, gemms: Sequence[TimedGemm]) -> Floats:
    """The same of several dtypes, in the order of the GEMMs."""
    found = np.empty(len(gemms))
    for dtype in {each.dtype for each in gemms}:
        places = [place for place, each in enumerate(gemms) if each.dtype == dtype]
        found[places] = isolated_s(device, [gemms[place] for place in places], dtype)
    return found


def fit_gemms(device: RowBase, gemms: Sequence[TimedGemm], own: OwnCluster, cite: Cite) -> Row:
    """Changes of the accelerator: of each law that was measured its efficiency; dtypes without a law of their own share one."""
    laws: dict[str, list[TimedGemm]] = {}
    for each in gemms:
        laws.setdefault(each.dtype if each.dtype in device.full.get("gemm_by_dtype", {}) else "", []).append(each)
    changes: Row = {}
    for dtype, timed in laws.items():
        law = device.full["gemm_by_dtype"][dtype] if dtype else device.full["gemm"]
        default, shared = float(law["efficiency"]), "" if dtype else "/".join(sorted({each.dtype for each in timed}))
        knob = Knob(f"GEMM {dtype or shared}", GEMM_DEVIATIONS, min(MOST, max(1.0 / default, 1.0)))

        def change(scales: Mapping[str, float], dtype: str = dtype, name: str = knob.name, default: float = default) -> Row:
            figure = {"efficiency": float(f"{default * scales[name]:.{DIGITS}g}")}
            return {"gemm_by_dtype": {dtype: figure}} if dtype else {"gemm": figure}

        def predict(scales: Mapping[str, float], timed: list[TimedGemm] = timed, change: Any = change) -> Floats:
            return _all_isolated_s(device.build(change(scales)), timed)

        points = [Point(each.path, f"{each.m} {each.n} {each.k}", each.seconds) for each in timed]
        fit = fit_jointly(points, predict, [knob])
        key = f"gemm_by_dtype.{dtype}.efficiency" if dtype else "gemm.efficiency"
        own.factors.append(own_factor(knob.name, key, default, fit, lambda value, scale: value * scale))
        changes = merge(changes, {**change(fit.scales), "source": {key.partition(".")[0]: cite([each.path for each in timed])}})
    return changes
