"""Rows of somebody's own cluster: those of the catalog, or of a scenario, with a few factors found from what was measured there.

First the laws of GEMMs and wires, each from what was measured of it alone; then what share of the kernels' rate steps sustain beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct

from parsim import catalog, units
from parsim.calibrate.collective_log import TimedCollective
from parsim.calibrate.factor_fit import Knob, Point, fit_jointly, slow_fault
from parsim.calibrate.measured_files import TimedGemm
from parsim.calibrate.own_gemms import fit_gemms, gemm_faults
from parsim.calibrate.own_rows import Cite, OwnCluster, RowBase, own_factor, with_source
from parsim.calibrate.wires import DIGITS, WIRES, Row, WireKnobs, by_nodes, faults_of, lends, seconds_of, settle, state_all, wire_of
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.cluster import Fabric, Node
from parsim.cluster.scalars import Floats
from parsim.confidence.shrink import Deviations
from parsim.errors import Fault
from parsim.parallel.plan import Stack

# Of steps of one's own.  By moments over public rows (tests/compare/own_steps.py), as the catalog was before its stacks' factors were found
# from these rows: a row is 0.08 about its cluster and a cluster 0.18 about the catalog in 22 dense ones, 0.15 and 0.30 in 8 with experts;
# kept nearer to the catalog.  What a source adds is what is asked.
STEP_DEVIATIONS: Final = Deviations(row=0.09, source=0.0, stack=0.11)
_HOST_DEVIATIONS: Final = Deviations(row=0.1, source=0.0, stack=0.5)  # assumed: a launch takes 4 to 38 us in published figures
_SUSTAINED, _HOST, _MESSAGE = "steps: sustained", "steps: host launch", "steps: message launch"
_LAUNCHES: Final = {_HOST: ("host_launch", "host_launch_s"), _MESSAGE: ("message_launch", "message_launch_s")}  # key of the row, and field
_BOUND: Final = 0.5  # of a step that waits for the host's launches: it is bound by them
_FELT: Final = 0.1  # of a step in which they, or messages, take their time beside nothing else
_EVALUATIONS: Final = 8  # of each step, about, until factors are found


class TimedStep(Struct, frozen=True):
    """A measured step, and what predicts it, and its MFU, on a node, a fabric and a stack."""

    seconds: float
    source: str
    path: str
    line: int
    predict: Callable[[Node, Fabric | None, Stack], tuple[float, float]]


def calibrate_own(
    refs: tuple[Any, Any, Any],
    gemms: Sequence[TimedGemm],
    collectives: Sequence[TimedCollective],
    steps: Sequence[TimedStep],
    *,
    cite: Cite,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> OwnCluster:
    """The rows of a cluster.

    Args:
        refs: the node, fabric (None: one node) and stack (None: nobody asks) to start from, each as a scenario names or holds it.
        gemms, collectives, steps: what was measured.
        cite: the source of a figure that rests on points of these files.
        progress: is told what is fitted, and the share that is done.
    """
    node = RowBase.of("nodes", refs[0])
    stack = None if refs[2] is None else RowBase.of("stacks", refs[2])
    fabric = None if refs[1] is None else RowBase.of("fabrics", refs[1])
    device = RowBase.of("accelerators", node.full["accelerator"])
    own = OwnCluster(node.written, fabric.written if fabric else None, stack.written if stack else None)
    progress("GEMMs", 0.0)
    own.faults += [Fault(each.path, each.line, 1, "", said) for each, said in gemm_faults(device.build({}), gemms)]
    built = node.build({}), fabric.build({}) if fabric else None
    collectives = by_nodes(built[0], collectives)
    own.faults += [Fault(each.path, each.line, 1, "", said) for each, said in faults_of(*built, collectives)]
    if own.faults:
        return own
    if device_changes := fit_gemms(device, gemms, own, cite):
        node.written["accelerator"] = with_source(device, device_changes)
        node.written.setdefault("name", f"{node.name}, calibrated")
    for base in (node, *([fabric] if fabric else [])):
        progress("collectives", 0.3)
        _fit_wires(base, node, collectives, own, cite)
    progress("steps", 0.4)
    ground = node.build({}), fabric.build({}) if fabric else None
    if steps and stack:
        _fit_steps(ground, stack, steps, own, cite, lambda share: progress("steps", 0.4 + 0.6 * share))
    for base, row in ((node, own.node), *([(fabric, own.fabric)] if fabric else []), *([(stack, own.stack)] if stack else [])):
        if row is not None and [*row] == ["base"]:
            row["name"] = base.name  # of the catalog as it is
    return own


# Wires


def _fit_wires(base: RowBase, node: RowBase, timed: Sequence[TimedCollective], own: OwnCluster, cite: Cite) -> None:
    """Put what was found of the wires of a node, or of a fabric, into its row."""
    full = state_all(base.full, base.build({}))
    measured = [wire for wire in WIRES if wire.kind == base.kind and any(wire_of(each) is wire for each in timed)]
    changes: Row = {}
    for wire in measured:
        own_timed = [each for each in timed if wire_of(each) is wire]

        def predict(scales: Mapping[str, float], wire: WireKnobs = wire, own_timed: list[TimedCollective] = own_timed) -> Floats:
            built = base.build(settle(full, {**changes, **wire.change(full, scales)}))
            return seconds_of(built if base is node else node.build({}), None if base is node else built, own_timed)

        points = [Point(each.path, f"{each.operation} {each.payload_bytes}", each.seconds) for each in own_timed]
        knobs = wire.knobs(full, base.build({}))
        fit = fit_jointly(points, predict, knobs)
        _put(changes, wire.change(full, fit.scales), cite([each.path for each in own_timed]))
        for other in WIRES:
            if other not in measured and lends(wire, other):
                lent = dict(zip((other.bandwidth, other.latency), fit.scales.values(), strict=True))
                _put(
                    changes, other.change(full, lent), f"as {wire.name}, which goes the same way: {cite([each.path for each in own_timed])}"
                )
        for knob, key, divides in zip(knobs, wire.shown, (False, True), strict=True):
            own.factors.append(
                own_factor(knob.name, key, _figure(full, key), fit, (lambda v, s: v / s) if divides else (lambda v, s: v * s))
            )
    if changes:
        written = with_source(base, settle(full, changes))
        base.written.clear()
        base.written.update(written)


def _put(changes: Row, more: Row, source: str) -> None:
    """Add figures with their source."""
    changes |= {**more, "source": {**changes.get("source", {}), **dict.fromkeys(more, source)}}


def _figure(row: Row, key: str) -> Any:
    for each in key.split("."):
        row = row[each]
    return row


# Steps


def _fit_steps(
    ground: tuple[Node, Fabric | None], stack: RowBase, steps: Sequence[TimedStep], own: OwnCluster, cite: Cite, progress: Any
) -> None:
    """Put into the stack what share of the rate steps sustain; and the host's launches where some wait for them."""
    device, built = ground[0].accelerator, stack.build({})
    name, default, dtypes = sustained_of(built, device)
    top = max([default, *(built.sustained_factor[each] for each in dtypes)])

    def change(scales: Mapping[str, float]) -> Row:
        figures = {name: default, **{each: built.sustained_factor[each] for each in dtypes}}
        moved = {each: float(f"{min(value * scales[_SUSTAINED], 1.0):.{DIGITS}g}") for each, value in figures.items()}
        host = {
            key: units.format(getattr(built, field) / scales[name], "s", DIGITS)
            for name, (key, field) in _LAUNCHES.items()
            if scales.get(name, 1.0) != 1.0
        }
        return {"sustained_factor": {**built.sustained_factor, **moved}, **host}

    done = [0]

    def all_of(with_factors: Stack) -> list[tuple[float, float]]:
        found = {}
        for predict in dict.fromkeys(each.predict for each in steps):  # steps of the same plan ask once
            found[predict] = predict(*ground, with_factors)
            done[0] += 1
            progress(min(done[0] / (_EVALUATIONS * len(steps)), 0.99))
        return [found[each.predict] for each in steps]

    before = all_of(built)

    def seconds(scales: Mapping[str, float]) -> Floats:
        is_default = all(scale == 1.0 for scale in scales.values())
        return np.array([step_s for step_s, _ in (before if is_default else all_of(stack.build(change(scales))))])

    for each, (step_s, mfu) in zip(steps, before, strict=True):
        if (share := mfu * step_s / each.seconds) > 1.0:
            said = f"a step of {each.seconds:.4g} s is {share:.0%} of the peak of {device.name}: is it another plan, or unit?"
            own.faults.append(Fault(each.path, each.line, 1, "", said))
        elif said := slow_fault(each.seconds, step_s):
            own.faults.append(Fault(each.path, each.line, 1, "", said))
    if own.faults:
        return
    knobs = [Knob(_SUSTAINED, STEP_DEVIATIONS, 1.0 / top)]
    for launch in _LAUNCHES:
        bound = _BOUND if launch == _HOST and not built.blocks_launches else _FELT
        slow = seconds({_SUSTAINED: 1.0, launch: 1.0 / 1.1})
        if np.any(np.log(slow / [step_s for step_s, _ in before]) / np.log(1.1) > bound):
            knobs.append(Knob(launch, _HOST_DEVIATIONS))
    fit = fit_jointly([Point(each.source, f"{each.path}:{each.line}", each.seconds) for each in steps], seconds, knobs)
    changes = change(fit.scales)
    own.factors.append(own_factor(_SUSTAINED, f"sustained_factor.{name}", default, fit, lambda value, scale: min(value * scale, 1.0)))
    for knob in knobs[1:]:
        key, field = _LAUNCHES[knob.name]
        shown = units.format(getattr(built, field), "s", DIGITS)
        own.factors.append(own_factor(knob.name, key, shown, fit, lambda value, scale: value / scale))
    own.stack = with_source(stack, {**changes, "source": dict.fromkeys(changes, cite([each.path for each in steps]))})


def sustained_of(stack: Stack, device: Accelerator) -> tuple[str, float, list[str]]:
    """By what name a stack has the factor of a device, its value there or by default, and the dtypes that have one of their own."""
    known = stack.sustained_factor
    name = next((each for each in (device.name, device.tuned_as) if each in known), device.tuned_as or device.name)
    return name, known.get(name, device.sustained_factor), [each for each in known if each in catalog.names("dtypes")]
