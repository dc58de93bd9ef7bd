"""What a whole training takes, costs and draws: words, columns and documents, with each figure that is assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec.structs import asdict

from parsim import units
from parsim.cluster import Accelerator
from parsim.errors import ParsimError
from parsim.estimator.cells import columns, words
from parsim.estimator.power import ASSUMED
from parsim.estimator.result import Estimate
from parsim.estimator.whole import WholeTraining, lack_of_price, num_steps, step_joules, tdp_w, usd_per_device_hour
from parsim.goodput.long_run import NEVER_ENDS, in_a_run, parts_beside_steps, whole_of_run
from parsim.report.console import say, show_table
from parsim.scenario import Scenario

WHOLE: Final[Mapping[str, str]] = {
    "time_to_tokens": "steps x step_s, with total_tokens / (global_batch x sequence_length) steps, rounded up; what steps wait for input, "
    "what disturbs them, failures and checkpoints are counted where the scenario states them, evaluation is not",
    "device_hours": "time_to_tokens x devices, spare ones too",
    "cost": "device_hours x price_per_device_hour; devices of a node that are not used, storage and traffic are not counted",
    "energy": "steps x devices x PUE x ((idle + host) step_s + (TDP - idle) busy_s), busy_s: how long the mean device runs kernels in a "
    "step; without total_tokens that of a step",
}


def explanation(scenario: Scenario, found: Estimate, name: str) -> str:
    """The value of one of these of a plan, with what it follows from; or what is not stated."""
    try:
        price = f"{usd_per_device_hour(scenario):g} USD a device-hour" if name == "cost" else ""
        power = f"TDP {_powers(scenario)} a device; assumed: {assumptions()}" if name == "energy" else ""
        steps = f"{num_steps(scenario):,} steps" if scenario.total_tokens or name != "energy" else "a step"
    except ParsimError as error:
        return f"{error.what}: {error.remedy}"
    try:
        run = in_a_run(scenario, found)
        training = whole_of_run(scenario, run)
    except ParsimError as error:
        return f"{error.what}: {error.remedy}"
    if training is None and scenario.total_tokens is not None:
        return f"{NEVER_ENDS}; {steps}"
    text = words(training).get(name) or units.format(step_joules(scenario, found) or 0, "J")
    return "; ".join(each for each in (text, steps, *beside_steps(scenario), price, power) if each)


def beside_steps(scenario: Scenario) -> list[str]:
    """What the time of a whole training counts beside its steps, a sentence; none where that is nothing."""
    *first, last = parts_beside_steps(scenario) or [""]
    return [f"counted: {' and '.join(each for each in (', '.join(first), last) if each)}"] if last else []


def assumptions() -> str:
    """What the energy assumes, beside the design power."""
    return ", ".join(f"{name} {share}" for name, share in ASSUMED.items())


def line(scenario: Scenario, estimate: Estimate) -> str:
    """The step, and the whole training where its tokens are stated, in a line."""
    training = whole_of_run(scenario, in_a_run(scenario, estimate))
    told = sentence(training) if training else NEVER_ENDS if scenario.total_tokens is not None else ""
    return ", ".join([f"step {units.format(estimate.step_s, 's', digits=4)}", *([told] if told else [])])


def sentence(training: WholeTraining) -> str:
    """A whole training in a line."""
    figures = words(training)
    return ", ".join(f"{text} device-hours" if name == "device_hours" else text for name, text in figures.items() if text != "-")


def document(scenario: Scenario, estimate: Estimate, run: Estimate) -> dict[str, Any]:
    """What JSON has of it: SI base units, hours and USD, null where nobody states what they follow from; `run`: as in `in_a_run`."""
    training = whole_of_run(scenario, run)
    found = {"step_energy_j": step_joules(scenario, estimate), "whole_training": None if training is None else asdict(training)}
    return found if run is estimate else found | {"run": {"step_s": run.step_s}}


def show_whole(scenario: Scenario, plans: Mapping[str, tuple[Estimate, Estimate]], title: str, *, energy: bool = False) -> None:
    """The whole training under each plan, and what its figures are from; `energy`: that of a step where no tokens are stated.

    Each plan as it is estimated, and `in_a_run`.
    """
    rows = []
    for name, (found, run) in plans.items():
        mean = {} if run is found or scenario.total_tokens is None else {"mean\nstep": units.format(run.step_s, "s", digits=4)}
        rows.append({title: name, **mean, **_whole(scenario, run), **_step(scenario, found, energy)})
    if len(rows[0]) == 1:
        return
    tokens = scenario.total_tokens
    show_table(rows, left=(title,), title=f"whole training, {tokens:,} tokens, {num_steps(scenario):,} steps" if tokens else "energy")
    served = [name for name, (found, _) in plans.items() if found.plan.is_served]
    if tokens and served and scenario.disturbance is not None:
        say(f"{', '.join(served)}: what disturbs workers of parameter servers is not counted here")
    for line in (*(beside_steps(scenario) if tokens else ()), *sources(scenario, priced=tokens is not None)):
        say(line)


def _whole(scenario: Scenario, run: Estimate) -> dict[str, str]:
    """The columns of a whole training, also of one that never ends."""
    training = whole_of_run(scenario, run)
    if training is not None or scenario.total_tokens is None:
        return columns(training)
    first, *others = columns(WholeTraining(0, 0, 0.0, 0.0, None, None))
    return {first: "never ends", **dict.fromkeys(others, "-")}


def _step(scenario: Scenario, estimate: Estimate, wanted: bool) -> dict[str, str]:
    joules = step_joules(scenario, estimate) if wanted and scenario.total_tokens is None else None
    return {} if joules is None else {"energy of a step": units.format(joules, "J", digits=4)}


def sources(scenario: Scenario, *, priced: bool = True) -> Iterator[str]:
    """What price and energy are from, or why there is none."""
    rent = scenario.cluster.rent
    if priced and rent is None:
        names, keys = lack_of_price(scenario.cluster)
        of = f" of node {names}" if scenario.cluster.unpriced else ""
        yield f"no price{of}: give {' and '.join(keys)}, e.g. '2.5 USD'"
    elif priced and rent is not None:
        yield f"price: {rent.device_hour_usd:g} USD a device-hour ({rent.source})"
    devices = [each.node.accelerator for each in scenario.cluster.kinds]
    if lacking := next((each for each in devices if each.tdp_w is None), None):
        yield f'no energy: nobody says the design power of accelerator "{lacking.name}"; give its tdp'
    else:
        yield f"energy: TDP {_powers(scenario)} a device; assumed: {assumptions()}"


def _powers(scenario: Scenario) -> str:
    """The design powers of a device, by kind where there are several."""
    kinds = [each.node.accelerator for each in scenario.cluster.kinds]
    return " and ".join(_power(each, scenario.path) + (f" ({each.name})" if len(kinds) > 1 else "") for each in kinds)


def _power(device: Accelerator, where: str) -> str:
    """The design power of a device, and what it may draw of it."""
    tdp = tdp_w(device, where)
    return f"{tdp:g} W" if device.busy_w == tdp else f"{tdp:g} W, of which it may draw {device.busy_w:g}"
