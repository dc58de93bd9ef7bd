"""What a worker does: the results of a few plans of a few points.  What travels is plain values there, and JSON back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate_legal
from parsim.estimator.result import Estimate
from parsim.parallel.stack_limits import reasons
from parsim.planner import plan
from parsim.sweeps.key import MODEL_VERSION, of_run
from parsim.sweeps.points import SweepPoint

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_FIGURES: Final = (
    *("step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "mfu_causal", "hfu"),
    *("peak_bytes", "capacity_bytes", "host_peak_bytes", "host_capacity_bytes", "fits"),
)


class SweepQuestion(Struct, frozen=True):
    """A plan of a point, or the best of a space, by name."""

    point: SweepPoint
    plan: str


def answer(questions: Sequence[SweepQuestion], limit_s: float, version: int = MODEL_VERSION) -> tuple[list[str], float]:
    """The results as JSON, of the first and of those behind it until the time is up, and the seconds that they took.

    Raises:
        ParsimError: who asks has another model version than this process.
    """
    if version != MODEL_VERSION:
        remedy = "Install the same parsim on both."
        raise ParsimError(f"a worker has model version {MODEL_VERSION}, and the process that asks has {version}", remedy=remedy)
    start = time.perf_counter()
    results: list[str] = []
    scenario, point = None, None
    for each in questions:
        if each.point is not point:
            scenario, point = each.point.build().scenario, each.point
        assert scenario is not None  # a point that cannot be built is never asked about
        results.append(json.dumps(_result(scenario, each.plan)))
        if time.perf_counter() - start >= limit_s:
            break
    return results, time.perf_counter() - start


def _result(scenario: Scenario, name: str) -> dict[str, Any]:
    """The plan, its figures, and why it does not do, "" where it does."""
    try:
        if name in scenario.plans:
            return _document(scenario, estimate_legal(scenario, scenario.plans[name], name))
        ranking = plan(scenario, space=name if name in scenario.spaces else None, top=1, contention=False)
        return _document(scenario, ranking.rows[0] if ranking.rows else ranking.nearest)
    except ParsimError as error:
        said = f"{error.what}: {error.remedy}" if error.remedy else error.what
        return {"plan": {}, "figures": {}, "reason": " ".join(said.split())}


def _document(scenario: Scenario, found: Estimate | None) -> dict[str, Any]:
    assert found is not None  # of some legal plan
    figures: dict[str, object] = {name: getattr(found, name) for name in _FIGURES}
    figures |= {f"{part}_s": seconds for part, seconds in found.breakdown_s.items()}
    figures |= {f"{part}_bytes": size for part, size in found.memory_bytes[found.peak_rank].items()}
    stack = replace(scenario.stack, name="the stack")  # names are not what a result is found by
    figures["stack_cannot"] = "; ".join(reasons(found.plan, scenario.model, stack)) or None
    if of_run(scenario):
        from parsim.goodput.rows import columns_of_run

        figures |= columns_of_run(scenario, found)
    return {"plan": asdict(found.plan), "figures": figures, "reason": _lack(found)}


def _lack(found: Estimate) -> str:
    """What does not fit."""
    device, host = found.peak_bytes <= found.capacity_bytes, found.host_fits
    needs = {
        "a device": (found.peak_bytes, found.capacity_bytes, device),
        "a host": (found.host_peak_bytes, found.host_capacity_bytes, host),
    }
    texts = (f"{who} needs {_gib(need)} of {_gib(holds or 0)}" for who, (need, holds, fits) in needs.items() if not fits)
    return "out of memory: " + "; ".join(texts) if not found.fits else ""


def _gib(size: int) -> str:
    return units.format(size, "GiB")
