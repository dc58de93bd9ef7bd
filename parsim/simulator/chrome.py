"""`trace`: a simulated step in the format that chrome://tracing and ui.perfetto.dev open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parsim import units
from parsim.arguments import check_arguments
from parsim.parallel.plan import Plan
from parsim.simulator.run import simulate
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario


@check_arguments
def trace(scenario: Scenario, plan: Plan | str, *, contention: bool = False) -> dict[str, Any]:
    """A document to write as JSON: a process a pipeline rank, a thread a stream, and what ran when, in microseconds.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: it would run too many events.

    Source of the format: Trace Event Format (Google, 2016), complete and metadata events.

    >>> import parsim
    >>> found = trace(parsim.load("scenarios/tiny.yaml"), "pipeline")["traceEvents"]
    >>> sorted(event["args"]["name"] for event in found if event["name"] == "process_name")
    ['pipeline rank 0', 'pipeline rank 1']
    """
    spans, us = simulate(scenario, plan, contention=contention, spans=True).spans, units.parse("1 us", "s") * PS_PER_S
    streams = {name: number for number, name in enumerate(dict.fromkeys(each.stream for each in spans))}
    lanes = dict.fromkeys((each.rank, each.stream) for each in spans)
    named = {each.rank: ("process_name", 0, f"pipeline rank {each.rank}") for each in spans}
    heads = [(rank, *head) for rank, head in named.items()] + [(rank, "thread_name", streams[name], name) for rank, name in lanes]
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}} for rank, kind, thread, name in heads
    ]
    for each in spans:
        times = {"ts": float(each.start_ps / us), "dur": float((each.end_ps - each.start_ps) / us)}
        events.append({"ph": "X", "name": each.name, "pid": each.rank, "tid": streams[each.stream], **times})
    return {"traceEvents": events, "displayTimeUnit": "ns"}
