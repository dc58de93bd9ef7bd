"""What feeds the plans of a scenario and what their runs keep: tables, documents and columns, where the scenario says what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.result import Estimate
from parsim.feed.supply import Supply, supply_of
from parsim.goodput.keeping import Keeping, keeping_of
from parsim.report.console import say, show_table
from parsim.scenario import Scenario
from parsim.units import percent

FED: Final[Mapping[str, str]] = {
    "fed_step_s": "a step with what it waits for its batch: the step, or the slowest stage between storage and a device where that takes "
    "longer; without prefetch the step and all stages; where their times vary (jitter), the mean of a run of the line of stages",
    "stall_s": "what a step waits for its batch: fed_step_s - step_s",
    "first_batch_s": "from rest until the first batch is on its device: all stages one after another, and the shuffle buffer before",
}


def explanation(scenario: Scenario, found: Estimate, name: str) -> str:
    """The value of one of these of a plan, with what each stage takes by each of its bounds and whose figures these are."""
    try:
        fed = supply_of(scenario, found)
    except ParsimError as error:
        return f"{error.what}: {error.remedy}"
    assert scenario.input is not None and scenario.storage is not None
    bounds = []
    for stage in fed.stages:
        told = ", ".join(f"{bound} {units.format(seconds, 's')}" for bound, seconds in stage.bounds_s.items())
        bounds += [f"{stage.name.replace('_', ' ')}: {told}"] if told else []
    sources = (f"{each.name} ({each.source})" for each in (scenario.storage, scenario.input) if each.source)
    return "; ".join([units.format(getattr(fed, name), "s", digits=4), *bounds, *sources])


def feed_of(scenario: Scenario, found: Estimate, run: Estimate, backend: str) -> tuple[Supply | None, Keeping | None]:
    """What feeds the plan of an estimate, and what its `run` keeps; None where the scenario does not say what is read."""
    if scenario.input is None:
        return None, None
    fed = supply_of(scenario, found, backend=backend)
    return fed, keeping_of(scenario, run, fed)


def document(fed: Supply | None, kept: Keeping | None) -> dict[str, Any]:
    """What JSON has of both, where there are any: SI base units, null where nothing is stated."""
    found: dict[str, Any] = {}
    if fed:
        found["input"] = {**fed.to_dict(), "fed_step_s": fed.fed_step_s, "slowest": fed.slowest.name}
        del found["input"]["name"], found["input"]["step_s"]
    if kept:
        found["storage"] = {**kept.to_dict(), "fits": kept.fits, "needs_bytes_per_s": kept.needs_bytes_per_s}
        del found["storage"]["name"]
    return found


def show_feed(scenario: Scenario, fed: Sequence[Supply], kept: Sequence[Keeping]) -> None:
    """The tables of all plans: what feeds them, what would do so that nothing waits, what they keep."""
    if fed and scenario.input and scenario.storage:
        show_table([_stages_row(each) for each in fed], left=("plan", "slowest"), title=_title(scenario))
        show_table([_waits_row(each) for each in fed], left=("plan",), title="what a step waits for its batch")
        show_table([_reads_row(each) for each in fed], left=("plan",), title="needed of storage so that no step waits")
        show_table([_hosts_row(each) for each in fed], left=("plan",), title="needed of hosts so that no step waits")
        wants = max(each.needs.cores for each in fed)
        if scenario.input.cores is not None and wants > scenario.input.cores:
            say(f"a node has {scenario.input.cores} cores for its readers, and {wants} are needed")
        holds, most = scenario.cluster.host_memory_bytes, max(each.host_buffer_bytes for each in fed)
        if holds is not None and most > holds:
            say(f"what waits on a host is {units.format(most, 'bytes')}, of {units.format(holds, 'bytes')} that it holds")
    if kept:
        show_table([_keeping_row(each) for each in kept], left=("plan",), title=f"kept in storage ({_name(scenario)})")
        if any(each.busy or each.write_s for each in kept):
            show_table([_writing_row(each) for each in kept], left=("plan",), title="reading and checkpoints together")
        for each in kept:
            if not each.fits:
                room, held = (units.format(size, "bytes") for size in (each.room_bytes or 0, each.kept_bytes))
                say(f"{each.name}: storage holds {room}, and {held} are to be kept")


def _title(scenario: Scenario) -> str:
    reads = scenario.input
    assert reads is not None
    ahead = f"{units.count(reads.prefetch, 'batch').replace('batchs', 'batches')} ahead"
    jitter = f", times vary by {percent(reads.jitter)}" if reads.jitter else ""
    return f"input: {reads.name} from {_name(scenario)}, {units.count(reads.workers, 'worker')} a reader, {ahead}{jitter}"


def _name(scenario: Scenario) -> str:
    return scenario.storage.name if scenario.storage else ""


def _stages_row(fed: Supply) -> dict[str, str]:
    """How long each stage takes for a batch of a step."""
    slowest = fed.slowest
    times = {each.name.replace("_", " "): units.format(each.batch_s, "s") for each in fed.stages}
    return {
        "plan": fed.name,
        "readers": str(fed.num_readers),
        **times,
        "slowest": f"{slowest.name.replace('_', ' ')}{f' ({slowest.binds})' if slowest.binds else ''}",
    }


def _waits_row(fed: Supply) -> dict[str, str]:
    times = {"step": fed.step_s, "waits": fed.stall_s, "together": fed.fed_step_s, "first batch": fed.first_batch_s}
    return {"plan": fed.name, **{name: units.format(each, "s", digits=4) for name, each in times.items()}}


def _reads_row(fed: Supply) -> dict[str, str]:
    needs = fed.needs
    return {
        "plan": fed.name,
        "bytes/s": units.format(needs.read_bytes_per_s, "bytes/s"),
        "of a node": units.format(needs.node_read_bytes_per_s, "bytes/s"),
        "requests/s": f"{needs.requests_per_s:,.0f}",
        "of a reader in flight": str(needs.requests_in_flight),
    }


def _hosts_row(fed: Supply) -> dict[str, str]:
    needs = fed.needs
    return {
        "plan": fed.name,
        "workers\na reader": str(needs.workers),
        "cores\na node": str(needs.cores),
        "batches\nahead": "-" if needs.prefetch is None else str(needs.prefetch),
        "memory\nof a node": units.format(needs.host_memory_bytes_per_s, "bytes/s"),
        "to a\ndevice": units.format(needs.to_device_bytes_per_s, "bytes/s"),
    }


def _keeping_row(kept: Keeping) -> dict[str, str]:
    optional = {
        "data set": None if kept.data_bytes is None else units.format(kept.data_bytes, "bytes"),
        "a checkpoint": units.format(kept.checkpoint_bytes, "bytes"),
        "kept": str(kept.num_checkpoints) if kept.num_checkpoints else None,
        "all": units.format(kept.kept_bytes, "bytes"),
        "room": None if kept.room_bytes is None else units.format(kept.room_bytes, "bytes"),
        "a month": None if kept.month_usd is None else f"{kept.month_usd:,.2f} USD",
        "the run": None if kept.run_usd is None else f"{kept.run_usd:,.2f} USD",
    }
    return {"plan": kept.name, **_without_none(optional)}


def _writing_row(kept: Keeping) -> dict[str, str]:
    optional = {
        "steps\nread": units.format(kept.read_bytes_per_s, "bytes/s"),
        "check-\npoints": None if kept.checkpoint_bytes_per_s is None else units.format(kept.checkpoint_bytes_per_s, "bytes/s"),
        "together": units.format(kept.needs_bytes_per_s, "bytes/s"),
        "storage\nbusy": None if kept.busy is None else percent(kept.busy),
        "a check-\npoint takes": None if kept.write_s is None else units.format(kept.write_s, "s"),
        "beside\nreading": None if kept.write_beside_reads_s is None else units.format(kept.write_beside_reads_s, "s"),
    }
    return {"plan": kept.name, **_without_none(optional)}


def _without_none(texts: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text is not None}
