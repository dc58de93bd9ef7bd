"""What the run of a plan is as columns of a row: those of results.csv, and of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

from parsim.disturbance.monte_carlo import disturb_legal
from parsim.disturbance.result import Disturbed
from parsim.feed.supply import Supply, supply_of
from parsim.goodput.keeping import Keeping, keeping_of
from parsim.goodput.long_run import in_a_run, is_drawn, whole_of_run
from parsim.goodput.predict import Goodput, goodput_of
from parsim.plain import flat

if TYPE_CHECKING:
    from parsim.estimator.result import Estimate
    from parsim.scenario import Scenario

DRAWN: Final = ("mean_s", "p50_s", "p90_s", "p99_s")  # of steps that are drawn
_KEPT: Final = ("data_bytes", "checkpoint_bytes", "kept_bytes", "room_bytes", "run_usd", "checkpoint_bytes_per_s", "busy", "write_s")


def columns_of_run(scenario: Scenario, found: Estimate) -> dict[str, object]:
    """All of a plan that is estimated: the whole training, the mean step, what feeds it, its goodput, what disturbs it.

    Raises:
        ParsimError: more is to be drawn than in minutes, something is not built, or a section lacks another.
    """
    disturbed = fed = kept = None
    if scenario.disturbance is not None and is_drawn(scenario, found.plan):
        disturbed = disturb_legal(scenario, found.plan, scenario.disturbance, found.name, apart=False)
    run = in_a_run(scenario, found, disturbed)
    if scenario.input is not None:
        fed = supply_of(scenario, found)
        kept = keeping_of(scenario, run, fed)
    whole = whole_of_run(scenario, run)
    return {
        **(asdict(whole) if whole else {}),
        **({} if run is found else {"run_step_s": run.step_s}),
        **of_feed(fed, kept),
        **of_goodput(None if scenario.checkpoint is None else goodput_of(scenario, run)),
        **of_disturbed(disturbed),
    }


def of_feed(fed: Supply | None, kept: Keeping | None) -> dict[str, object]:
    """What feeds a plan and what its run keeps in storage, where anybody says what is read."""
    found: dict[str, object] = {}
    if fed:
        stages = {f"{each.name}_batch_s": each.batch_s for each in fed.stages}
        times = {"stall_s": fed.stall_s, "fed_step_s": fed.fed_step_s, "first_batch_s": fed.first_batch_s}
        needs = {f"needs_{name}": value for name, value in flat(fed.to_dict()["needs"]).items()}
        found |= {"readers": fed.num_readers, **stages, "slowest": fed.slowest.name, **times, **needs}
    if kept:
        found |= {f"storage_{name}": getattr(kept, name) for name in _KEPT}
    return found


def of_goodput(found: Goodput | None) -> dict[str, object]:
    """What failures and checkpoints cost, where other columns have no such name."""
    if found is None:
        return {}
    (own,) = found.records()
    plain = {name: each for name, each in own.items() if name not in ("name", "goodput", "step_s")}
    named = {name if name.startswith(("lost_", "checkpoint_")) else f"goodput_{name}": each for name, each in plain.items()}
    return {"goodput": found.goodput, **named}


def of_disturbed(found: Disturbed | None) -> dict[str, object]:
    """The steps that are drawn."""
    return {} if found is None else {f"disturbed_{name}": getattr(found, name) for name in DRAWN}
