from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.parallel.dimensions import EXPERT, axes_of
from parsim.report import results as made
from parsim.report.explain import BREAKDOWN, MEMORY, METRICS
from parsim.report.files import json_text
from parsim.report.layers import layer_rows
from parsim.report.results import Results
from parsim.scenario import Scenario, from_mapping

# The list of what results.json holds for a plan.
KEYS = {
    "name",
    "step_s",
    "tokens_per_s",
    "tokens_per_s_per_device",
    "mfu",
    "peak_bytes",
    "fits",
    "breakdown_s",
    "memory_bytes",
    "measured_step_s",
    *("step_interval_s", "peak_interval_bytes", "fit", "fit_probability", "intervals_rest_on"),
}


def test_results_json_holds_every_promised_key(results: Results) -> None:
    document = json.loads(json_text(made.document(results)))
    assert {"scenario", "backend", "plans"} <= document.keys()
    assert (document["scenario"], document["backend"]) == ("tiny", "estimate")
    assert [plan["name"] for plan in document["plans"]] == ["split", "a replica each"]
    for plan in document["plans"]:
        assert plan.keys() >= KEYS
        assert sum(plan["breakdown_s"].values()) == pytest.approx(plan["step_s"], rel=1e-12)  # sums of seconds, not of picoseconds
        assert max(sum(parts.values()) for parts in plan["memory_bytes"]) == plan["peak_bytes"]


def test_both_intervals_hold_the_prediction_and_say_what_they_rest_on(results: Results) -> None:
    (low_s, high_s), (low, high) = (made.document(results)["plans"][0][name] for name in ("step_interval_s", "peak_interval_bytes"))
    plan, row = made.document(results)["plans"][0], made.table(results)[0]
    assert low_s < plan["step_s"] < high_s and low < plan["peak_bytes"] < high
    assert (row["step_low_s"], row["step_high_s"], row["peak_low_bytes"], row["peak_high_bytes"]) == (low_s, high_s, low, high)
    assert row["fit"] == plan["fit"] == "yes" and row["fits"] is plan["fits"] is True
    assert plan["intervals_rest_on"]["class"] == "dense" and plan["intervals_rest_on"]["step"]["num_runs"] > 20


def test_an_interval_follows_a_step_by_events(results: Results) -> None:
    found = results.plans[0].estimate
    (low, high), (later_low, later_high) = found.step_interval_s or (0, 0), found.with_step(2 * found.step_s).step_interval_s or (0, 0)
    assert (later_low, later_high) == pytest.approx((2 * low, 2 * high), rel=1e-12)


@pytest.mark.parametrize(("over", "word"), [(0.3, "yes"), (0.9, "likely"), (1.05, "unlikely"), (2.0, "no")])
def test_whether_a_plan_fits_is_read_as_likely_near_the_capacity(scenario: Scenario, over: float, word: str) -> None:
    found = estimate(scenario, "split")
    node = scenario.cluster.node
    device = replace(node.accelerator, hbm_capacity_bytes=int(found.peak_bytes / over))
    smaller = replace(scenario, cluster=replace(scenario.cluster, node=replace(node, accelerator=device)))
    assert estimate(smaller, "split").fit == word and estimate(smaller, "split").fits == (over <= 1)


def test_memory_is_listed_by_pipeline_stage(results: Results) -> None:
    split, replicas = made.document(results)["plans"]
    assert (len(split["memory_bytes"]), len(replicas["memory_bytes"])) == (2, 1)


def test_tokens_a_second_are_the_batch_over_the_step(results: Results) -> None:
    plan = made.document(results)["plans"][0]
    assert plan["tokens_per_s"] * plan["step_s"] == pytest.approx(4 * 16)
    assert plan["tokens_per_s_per_device"] * 4 == pytest.approx(plan["tokens_per_s"])


def test_the_error_is_predicted_over_measured_less_one_and_null_without_a_measurement(results: Results) -> None:
    split, replicas = made.document(results)["plans"]
    assert split["measured_step_s"] == 0.002
    assert split["step_error"] == pytest.approx(split["step_s"] / 0.002 - 1)
    assert (replicas["measured_step_s"], replicas["step_error"]) == (None, None)


def test_the_same_scenario_gives_the_same_bytes(scenario: Scenario, results: Results) -> None:
    again = made.predict(scenario)
    assert json_text(made.document(again)) == json_text(made.document(results))


def test_a_plan_with_another_step_keeps_its_tokens_and_flops(scenario: Scenario) -> None:
    plain = estimate(scenario, "split")
    slower = plain.with_step(2 * plain.step_s)
    for rate in ("tokens_per_s", "tokens_per_s_per_device", "mfu", "mfu_causal", "hfu"):
        assert getattr(slower, rate) * 2 == pytest.approx(getattr(plain, rate))


def test_simulated_results_take_the_step_of_the_events(scenario: Scenario) -> None:
    from parsim.simulator import simulate

    found = made.predict(scenario, "simulate")
    for each in found.plans:
        trace = simulate(scenario, each.estimate.name)
        assert each.estimate.step_s == trace.step_s
        assert each.num_events == trace.num_events


def test_an_unknown_backend_is_told_with_the_known_ones(scenario: Scenario) -> None:
    with pytest.raises(ParsimError, match="unknown backend 'guess'"):
        made.predict(scenario, "guess")


def test_a_scenario_of_open_plans_points_to_the_planner(scenario: Scenario) -> None:
    with pytest.raises(ParsimError, match="parsim plan"):
        made.predict(replace(scenario, plans={}))


def test_every_part_of_time_and_memory_and_every_metric_has_a_definition(results: Results) -> None:
    estimated = results.plans[0].estimate
    assert set(BREAKDOWN) == set(estimated.breakdown_s) | {
        f"exposed_{name}" for name in ("dp_replicate", "cp", "cp_group", "host", "servers", *axes_of(EXPERT))
    }  # which a plan without them leaves out
    assert set(MEMORY) == set(estimated.memory_bytes[0])
    assert set(METRICS) >= {"step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "mfu_causal", "hfu", "peak_bytes"}


def test_flops_of_the_segments_add_up_to_those_of_the_step_without_its_end(scenario: Scenario) -> None:
    estimated = estimate(scenario, "a replica each")
    rows = layer_rows(scenario, estimated)
    assert [(row.segment, row.direction) for row in rows] == [
        (s, d) for s in ("embedding", "layer", "head") for d in ("forward", "backward")
    ]
    assert [row.copies for row in rows] == [1, 1, 2, 2, 1, 1]  # tiny-gpt has 2 layers
    passes = sum(row.flops * row.copies for row in rows) * estimated.num_micro_batches
    weights = sum(row.num_parameters * row.copies for row in rows if row.direction == "forward")
    per_weight = 2 + 1 + 12  # norm, clip, Adam
    assert passes + per_weight * weights == estimated.flops[0]


def test_parameters_of_the_segments_are_those_of_the_model() -> None:
    model = {"num_layers": 3, "hidden_size": 8, "num_heads": 2, "vocab_size": 128, "max_positions": 16}
    cluster = {"node": {"base": "dgx-a100-80gb", "devices_per_node": 1}}
    batch = {"global_batch": 1, "sequence_length": 16}
    scenario = from_mapping({"model": model, "cluster": cluster, "batch": batch, "plans": {"one": {}}})
    rows = layer_rows(scenario, estimate(scenario, "one"))
    embedding, layer, head = (row.num_parameters for row in rows if row.direction == "forward")
    assert embedding == 128 * 8 + 16 * 8
    assert layer == 12 * 8 * 8 + 13 * 8  # 4 h^2 + 8 h^2 weights; biases 4 h + 5 h; two norms of 2 h
    assert head == 2 * 8  # the final norm; the word embedding is tied
