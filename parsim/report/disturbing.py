"""What `parsim run` says of a step that is disturbed: tables and documents; its figure is in distributions.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict

from parsim import units
from parsim.goodput.long_run import is_drawn
from parsim.report.console import show_table
from parsim.units import percent

if TYPE_CHECKING:
    from parsim.disturbance import Disturbed
    from parsim.estimator.result import Estimate
    from parsim.scenario import Scenario

_FIGURES: Final = ("step_s", "mean_s", "p50_s", "p90_s", "p99_s")


def disturbed_of(scenario: Scenario, found: Estimate) -> Disturbed | None:
    """The steps of an estimated plan where the scenario says what disturbs them, and they can be drawn.

    Of parameter servers see serving.py.

    Raises:
        ParsimError: more is to be drawn than in minutes, or something is not built.
    """
    if scenario.disturbance is None or not is_drawn(scenario, found.plan):
        return None
    from parsim.disturbance.monte_carlo import disturb_legal

    return disturb_legal(scenario, found.plan, scenario.disturbance, found.name)


def links_left_out(scenario: Scenario) -> str:
    """A sentence where the clocks of an executed run leave something of the scenario's links out; "" where they do not."""
    said = scenario.disturbance
    parts = [*(["jitter.links"] if said and said.links else []), *(["slow_links"] if said and said.slow_links else [])]
    if not parts:
        return ""
    return f"clocks leave disturbance.{' and disturbance.'.join(parts)} out: executed links are as fast as ever (`parsim run` draws them)"


def document(found: Disturbed) -> dict[str, Any]:
    """One plan as results.json has it; single steps stand in disturbance.csv."""
    return {
        **{name: getattr(found, name) for name in _FIGURES},
        "samples": len(found.steps_s),
        "causes": [asdict(each) for each in found.causes],
        "one_slow_device": [asdict(each) for each in found.slow_devices],
    }


def show_disturbed(plans: Sequence[Disturbed]) -> None:
    """The tables: the distribution of each plan, what each cause takes by itself, and what one slow device costs."""
    if not plans:
        return
    shown = [{"plan": each.name, **{_word(name): units.format(getattr(each, name), "s", digits=4) for name in _FIGURES}} for each in plans]
    costs = [each.costs() for each in plans]
    for row, cost in zip(shown, costs, strict=True):
        row["costs"] = percent(cost["all"], signed=True)
    show_table(shown, left=("plan",), title=f"disturbed: {units.count(len(plans[0].steps_s), 'step')} drawn")
    if any(each.causes for each in plans):
        alone = [
            {"plan": each.name, **{_in_two(name): percent(share, signed=True) for name, share in cost.items()}}
            for each, cost in zip(plans, costs, strict=True)
        ]
        show_table(alone, left=("plan",), title="each cause by itself, and all: the mean step beside the undisturbed one")
    show_table(
        [_slow_row(each) for each in plans], left=("plan",), title="one slow device on the pipeline rank where it costs most, and least"
    )


def _in_two(name: str) -> str:
    """A cause in two lines."""
    return "\n".join(name.rsplit(" ", 1))


def _word(name: str) -> str:
    return "undisturbed" if name == "step_s" else name.removesuffix("_s")


def _slow_row(found: Disturbed) -> dict[str, str]:
    row = {"plan": found.name}
    for factor in dict.fromkeys(each.factor for each in found.slow_devices):
        own = {each.rank: each.step_s / found.step_s - 1.0 for each in found.slow_devices if each.factor == factor}
        most, least = max(own, key=lambda rank: own[rank]), min(own, key=lambda rank: own[rank])
        text = f"{percent(own[most], signed=True)} on rank {most}"
        less = f", {percent(own[least], signed=True)} on rank {least}" if own[most] > own[least] else ""
        row[f"{factor:g} times as slow"] = text + less
    return row
