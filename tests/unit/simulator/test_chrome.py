"""The trace of a step in the format of chrome://tracing."""

from __future__ import annotations

import json

import pytest

import parsim
from parsim.parallel.plan import Plan
from support import scenario


@pytest.mark.parametrize("contention", [False, True])
def test_a_trace_holds_every_span_in_microseconds(contention: bool) -> None:
    chosen, plan = scenario(), Plan(data_parallel=2, pipeline_parallel=2)
    spans = parsim.simulate(chosen, plan, contention=contention, spans=True).spans
    document = json.loads(json.dumps(parsim.trace(chosen, plan, contention=contention)))
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    ran = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert [(e["pid"], lanes[e["pid"], e["tid"]], e["name"]) for e in ran] == [(each.rank, each.stream, each.name) for each in spans]
    assert [(e["ts"], e["ts"] + e["dur"]) for e in ran] == [pytest.approx((each.start_ps / 1e6, each.end_ps / 1e6)) for each in spans]
