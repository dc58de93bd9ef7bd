"""What a step gains from each resource: all together are the whole step, each alone is its own figure of the row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.planner.whatif import RESOURCES, improve

ROOT = Path(__file__).parents[3]
TEXT = """
model: gpt2-small
cluster: {node: dgx-a100-80gb, num_nodes: 2, fabric: ib-hdr-8rail}
batch: {global_batch: 64, sequence_length: 1024}
stack: torchtitan
plans:
  a: {tensor_parallel: 2, pipeline_parallel: 2, zero_stage: 1, micro_batch: 2}
  host: {zero_stage: 1, offload_optimizer: true}
measured: {a: {step_time: 1 s}, host: {step_time: 1 s}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT)
    return path


def half(scenario: parsim.Scenario, plan: str) -> float:
    """The step of all resources twice as fast, over half the step: every task rounds once to picoseconds."""
    twice = parsim.estimate(improve(scenario, dict.fromkeys(RESOURCES, 2.0)), plan).step_s
    return 2 * twice / parsim.estimate(scenario, plan).step_s


@pytest.mark.parametrize("plan", ["a", "host"])
@pytest.mark.parametrize("node", ["dgx-a100-80gb", "hgx-h100-80gb", "mi300x-8"])
def test_all_rates_twice_and_all_latencies_half_make_exactly_half_the_step(file: Path, plan: str, node: str) -> None:
    assert half(parsim.load(file, changes={"cluster.node": node}), plan) == pytest.approx(1, abs=1e-7)


def test_so_it_is_for_kernels_with_laws_of_their_own_and_collectives_by_algorithm(file: Path) -> None:
    changes = {
        "cluster.node.accelerator.kernels": {
            "einsum": {"call": "9 us", "rate": "90 TFLOP/s", "knees": [{"beyond": "1 MB", "bandwidth": "1 TB/s"}]}
        },
        "stack.collectives": {"all_reduce": "tree"},
    }
    assert half(parsim.load(file, changes=changes), "a") == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("resource", RESOURCES)
def test_without_one_resource_it_is_more_than_half(file: Path, resource: str) -> None:
    scenario = parsim.load(file)
    plan = "host" if resource.startswith("host") else "a"
    others = {each: 2.0 for each in RESOURCES if each != resource}
    assert parsim.estimate(improve(scenario, others), plan).step_s > parsim.estimate(scenario, plan).step_s / 2 * (1 + 1e-5)


def test_elasticities_sum_to_1_and_none_is_below_0(file: Path) -> None:
    gains = parsim.whatif(parsim.load(file), "a").gains
    assert all(each.elasticity >= 0 for each in gains)
    assert sum(each.elasticity for each in gains[:-1]) == pytest.approx(1, abs=0.01) and gains[-1].elasticity == pytest.approx(1, abs=1e-6)


def test_a_resource_twice_is_that_figure_of_the_row_twice(file: Path) -> None:
    gains = {each.resource: each.twice_s for each in parsim.whatif(parsim.load(file), "a").gains}
    for resource, path in (("compute", "peak"), ("memory", "hbm_bandwidth")):
        other = parsim.load(file, changes={f"cluster.node.accelerator.{path}": "2x"})
        assert parsim.estimate(other, "a").step_s == gains[resource]


def test_a_node_alone_gains_nothing_from_the_network(file: Path) -> None:
    alone = parsim.load(file, changes={"cluster.num_nodes": 1})
    gains = {each.resource: each for each in parsim.whatif(alone, "a").gains}
    assert gains["network"].elasticity == 0 and gains["network"].twice_s == parsim.estimate(alone, "a").step_s


def test_nothing_improved_is_the_same_scenario(file: Path) -> None:
    scenario = parsim.load(file)
    node = scenario.cluster.node
    assert improve(scenario, {}) == replace(scenario, cluster=replace(scenario.cluster, node=replace(node, nic_link=node.host_link)))


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["whatif", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_each_resource_and_nothing_else_where_asked(file: Path) -> None:
    code, text, _ = call(str(file), "a")
    assert code == 0 and "network" in text and "host link" not in text and "8 x ib-hdr" in text
    document = json.loads(call(str(file), "a", "host", "--json")[1])
    assert [each["plan"] for each in document["plans"]] == ["a", "host"]
    assert [each["resource"] for each in document["plans"][0]["gains"]] == [*RESOURCES, "all"]
    rows = call(str(file), "a", "--csv")[1].splitlines()
    assert rows[0] == "plan,resource,elasticity,twice_step_s" and len(rows) == 2 + len(RESOURCES)


def test_a_swap_stands_beside_what_is_and_what_is_planned_anew(file: Path) -> None:
    few = "plans:\n  few: {tensor_parallel: [1, 2], pipeline_parallel: [1, 2], zero_stage: [0, 1], micro_batch: [1, 2]}"
    file.write_text(TEXT.replace("plans:", few))
    found = json.loads(
        call(str(file), "a", "--swap", "accelerator=a100-sxm4-40gb", "--swap", "fabric=efa-v2-8rail", "--replan", "--json")[1]
    )
    assert [each["case"] for each in found["cases"]] == ["as it is", "swapped", "planned anew"]
    before, after, best = found["cases"]
    assert after["capacity_bytes"] < before["capacity_bytes"] and best["step_s"] <= after["step_s"]
    changes = {"cluster.node.accelerator": "a100-sxm4-40gb", "cluster.fabric": "efa-v2-8rail"}
    swapped = parsim.estimate(parsim.load(file, changes=changes), "a")
    assert (after["step_s"], after["peak_bytes"]) == (swapped.step_s, swapped.peak_bytes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "--swap", "node=abacus"), "--swap node: unknown node 'abacus'"),
        (("a", "--swap", "batch.x=1"), "--swap batch.x: unknown key"),
        (("b",), "unknown plan 'b'"),
        (("a", "--replan"), "--replan looks for the best plan under a change"),
        (("a", "--swap", "num_nodes=3"), "s.yaml:7:3: plans.a.data_parallel: data_parallel x micro_batch = 6 x 2"),
    ],
)
def test_what_is_wrong_is_said(file: Path, arguments: tuple[str, ...], said: str) -> None:
    code, text, told = call(str(file), *arguments)
    assert (code, text) == (2, "") and said in told, told


def test_what_was_measured_of_another_scenario_is_no_measurement_of_this(file: Path) -> None:
    assert list(parsim.load(file, changes={"seed": 1}).measured) == ["a", "host"]
    assert list(parsim.load(file, changes={"plans.a.micro_batch": 1}).measured) == ["host"]
    assert not parsim.load(file, changes={"cluster.num_nodes": 4}).measured


def test_questions_need_no_file_and_where_nothing_fits_the_exit_status_is_1() -> None:
    code, text, _ = call("--model", "gpt2-small", "--node", "h100", "--swap", "node=h200", "--json")
    found = json.loads(text)
    assert code == 0 and found["notes"][0] == "h100 is hgx-h100-80gb" and len(found["cases"]) == 2
    code, text, told = call("--model", "gpt3-175b", "--node", "h100", "--sequence-length", "2048")
    assert code == 1 and "no plan fits its device and host" in told


@pytest.mark.parametrize(
    ("changes", "binds"),
    [({"input.decode_per_s": 100}, "workers"), ({"storage.read_bandwidth": "1 MB/s"}, "storage")],
)
def test_a_step_that_waits_for_its_batch_gains_from_what_reads_it(changes: dict[str, str], binds: str) -> None:
    scenario = parsim.load(ROOT / "scenarios" / "images-from-storage.yaml", changes=changes)
    found = parsim.whatif(scenario, "plain")
    fed = parsim.supply(scenario, "plain")
    gains = {each.resource: each for each in found.gains}
    assert found.estimate.step_s == fed.fed_step_s > parsim.estimate(scenario, "plain").step_s
    assert gains[binds].elasticity == pytest.approx(1, abs=1e-5) and gains["compute"].elasticity == pytest.approx(0, abs=1e-9)
    assert gains[binds].twice_s == pytest.approx(fed.fed_step_s / 2, rel=1e-5)


def test_a_step_that_waits_for_nothing_has_the_figures_of_no_input(file: Path) -> None:
    fed = parsim.load(file, changes={"storage": "tectonic-llama3", "input": "tokens-int32"})
    bare, with_input = parsim.whatif(parsim.load(file), "a"), parsim.whatif(fed, "a")
    assert {each.resource for each in with_input.gains} - {each.resource for each in bare.gains} == {"storage", "workers"}
    assert [each for each in with_input.gains if each in bare.gains] == [*bare.gains]
