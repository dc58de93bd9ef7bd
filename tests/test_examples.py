"""The examples under "How to add" in the README, run as they stand there from a temporary folder."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from contracts import contract
from parsim import schedules
from parsim.collectives import COLLECTIVES, choose, names
from parsim.model.spec import ModelSpec
from parsim.parallel import dimensions
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.precision import RECIPES
from parsim.schedules import SCHEDULES
from parsim.verify import verify_plan
from schedule_orders import actions_of
from support import GPT, MOE, forget_steps, scenario

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^### (?P<thing>[^\n]+): `(?P<file>\S+)`$.*?^```\w+\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = {found["file"]: found["text"] for found in EXAMPLE.finditer((ROOT / "README.md").read_text())}
THINGS = (
    "schedule",
    "collective",
    "dimension",
    "family of models",
    "kind of Hugging Face config",
    "gate",
    "precision",
    "model, an accelerator",
    "memory item",
    "space",
    "objective",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all examples; what they register is forgotten after the test."""
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    schedules.names(), names(), dimensions.names()
    for registry in (SCHEDULES, COLLECTIVES, dimensions.DIMENSIONS):
        monkeypatch.setattr(registry, "_values", dict(registry._values))
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = [(table, dict(table)) for table in (OPTIMIZERS, RECIPES)]
    yield tmp_path
    for table, before in rows:
        table.clear()
        table.update(before)
    forget_steps()
    for name in EXAMPLES:
        sys.modules.pop(Path(name).stem, None)


def run(name: str) -> ModuleType:
    """The example's file, imported as a user would."""
    return importlib.import_module(name.removesuffix(".py"))


def in_a_process(*arguments: str) -> str:
    """What a Python of its own prints: for what must be there before scenarios are read."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_shows_an_example_of_each_thing_on_a_few_lines() -> None:
    found = [each["thing"] for each in EXAMPLE.finditer((ROOT / "README.md").read_text())]
    assert [re.sub(r"^An? ", "", thing) for thing in found] == list(THINGS)
    assert all(len(list(filter(None, text.splitlines()))) <= 16 for text in EXAMPLES.values())


def test_the_schedule_passes_the_contract_and_holds_more_for_messages_to_arrive(folder: Path) -> None:
    run("eager.py")
    contract.actions_follow_what_they_need("eager_1f1b")
    contract.every_rank_holds_its_chunks("eager_1f1b")
    contract.columns_are_the_order("eager_1f1b")
    contract.a_few_rounds_show_every_memory_state("eager_1f1b")
    first = [str(action) for action in actions_of("eager_1f1b", 3, 1, 6)[0][:6]]
    assert first == ["0F0", "0F1", "0F2", "0F3", "0F4", "0B0"]
    chosen = scenario(batch=Batch(6, 8))
    eager, usual = (Plan(pipeline_parallel=3, layers_per_stage=(2, 1, 1), schedule=name) for name in ("eager_1f1b", "1f1b"))
    assert parsim.estimate(chosen, eager).step_s == parsim.simulate(chosen, eager).step_s
    assert parsim.estimate(chosen, eager).peak_bytes > parsim.estimate(chosen, usual).peak_bytes
    assert all(check.ok for check in verify_plan(chosen, eager, "eager"))


def test_the_collective_passes_the_contract_and_runs_where_it_is_asked_for(folder: Path) -> None:
    run("line.py")
    contract.closed_forms_count_the_messages(COLLECTIVES.get("line"), "broadcast")
    contract.numbers_come_out_right(COLLECTIVES.get("line"), "broadcast")
    assert choose("broadcast") is COLLECTIVES.get("star") and choose("broadcast", algorithm="line") is COLLECTIVES.get("line")
    asked = scenario(stack=replace(scenario().stack, collectives={"broadcast": "line"}))
    assert all(check.ok for check in verify_plan(asked, Plan(data_parallel=4, gradient_sync="master"), "line"))


def test_the_dimension_reduces_the_stream_once_a_layer_each_way(folder: Path) -> None:
    run("ffn.py")
    split = Plan(dimensions=(("ffn_parallel", 2),))
    sent = parsim.estimate(scenario(), split).sent_bytes[0]["fp"]
    stream, norm = 8 * 12 * 2, 4  # tokens x hidden x bytes of a micro_batch; half of the two elements of the norm's ring, twice
    assert sent == 8 * GPT.num_layers * 2 * stream + norm
    assert all(check.ok for check in verify_plan(scenario(), split, "ffn"))


def test_a_scenario_names_the_family_once_its_file_is_imported(folder: Path) -> None:
    (folder / "digits.yaml").write_text(
        "name: digits\n"
        "model: {family: residual_mlp, name: two, num_layers: 2, num_features: 6, hidden_size: 8, num_labels: 4, source: made up}\n"
        "cluster: {node: {base: one-cpu-generic, name: two-cpu-ranks, devices_per_node: 2, source: made up}}\n"
        "batch: {global_batch: 4, sequence_length: 1, dtype: fp32}\n"
        "plans: {columns: {tensor_parallel: 2}, data: {data_parallel: 2}}\n"
    )
    said = in_a_process("-c", "import residual, parsim.cli; parsim.cli.main()", "verify", "digits.yaml")
    assert "columns" in said and "data" in said
    count = "import residual, parsim; print(parsim.num_parameters(parsim.load('digits.yaml').model))"
    assert int(in_a_process("-c", count)) == (6 * 8 + 8) + 2 * 2 * (8 * 8 + 8) + (8 * 4 + 4)


def test_a_config_of_a_type_is_read_once_its_file_is_imported(folder: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "arcee", "max_position_embeddings": 16, **sizes}))
    parts = {"model": "hf:config.json", "cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 16}}
    (folder / "arcee.json").write_text(json.dumps({**parts, "plans": {"a": {}}}))
    count = "import arcee, parsim; print(parsim.num_parameters(parsim.load('arcee.json').model))"
    of_layer = 4 * 8 * 8 + 2 * 8 * 32 + 2 * 8
    assert int(in_a_process("-c", count)) == 2 * 64 * 8 + 2 * of_layer + 8


def test_a_scenario_names_the_gate_once_its_file_is_imported(folder: Path) -> None:
    (folder / "experts.yaml").write_text(
        "model: {base: tiny-llama, name: some, num_experts: 4, experts_per_token: 2, gates: softplus, source: made up}\n"
        "cluster: {node: {base: dgx-a100-80gb, devices_per_node: 2}}\nbatch: {global_batch: 4, sequence_length: 8}\n"
        "plans: {a: {expert_parallel: 2}}\n"
    )
    assert "weight gradients" in in_a_process("-c", "import softplus, parsim.cli; parsim.cli.main()", "verify", "experts.yaml")


def test_a_recipe_keeps_the_contract_with_experts_and_a_scenario_names_it_once_its_file_is_imported(folder: Path) -> None:
    run("square.py")
    wide = replace(MOE, hidden_size=16, shared_ffn_hidden_size=8)
    named = scenario(model=wide, batch=Batch(8, 8, "mxfp8_square"))
    assert all(check.ok for check in verify_plan(named, Plan(data_parallel=2, expert_parallel=2), "square"))
    file = {"model": "tiny-gpt", "cluster": {"node": "dgx-b200"}, "plans": {"a": {}}}
    file["batch"] = {"global_batch": 8, "sequence_length": 16, "dtype": "mxfp8_square"}
    assert in_a_process("-c", f"import square, parsim; print(parsim.from_mapping({file}).batch.dtype)") == "mxfp8_square\n"


def test_the_rows_start_from_their_bases(folder: Path) -> None:
    mine, model = parsim.load("mine.yaml"), parsim.load(ROOT / "scenarios" / "plan-gpt3-13b.yaml").model
    assert isinstance(model, ModelSpec) and mine.model == replace(model, name="gpt-16b", num_layers=48, source="made up")
    device = mine.cluster.node.accelerator
    assert (device.name, device.hbm_capacity_bytes, device.hbm_bandwidth_bytes_per_s) == ("more-hbm", 140 * 2**30, 4.8e12)
    assert parsim.estimate(mine, "tensor").fits


def test_the_memory_item_counts_what_its_row_states(folder: Path) -> None:
    run("moments.py")
    usual, narrow = (parsim.estimate(scenario(), Plan(optimizer=name)) for name in ("adamw", "adamw_16bit"))
    parameters = usual.memory_bytes[0]["parameters"] // 2  # bf16
    assert usual.memory_bytes[0]["optimizer"] == parameters * (4 + 4 + 4)  # the float32 weight, two moments
    assert narrow.memory_bytes[0]["optimizer"] == parameters * (4 + 2 + 2)
    assert all(check.ok for check in verify_plan(scenario(), Plan(optimizer="adamw_16bit"), "moments"))


def test_a_scenario_names_the_optimizer_once_its_file_is_imported(folder: Path) -> None:
    file = {"model": "tiny-gpt", "cluster": {"node": "dgx-1v-16gb"}, "batch": {"global_batch": 8, "sequence_length": 16, "dtype": "fp16"}}
    named = {**file, "plans": {"a": {"optimizer": "adamw_16bit"}}}
    said = in_a_process("-c", f"import moments, parsim; print(parsim.from_mapping({named}).plan('a').optimizer)")
    assert said == "adamw_16bit\n"


def test_a_space_is_given_as_its_axes(folder: Path) -> None:
    *rows, counts = in_a_process("spaces.py").splitlines()
    assert len(rows) == 3 and all("zero_stage=1" in row or row.startswith("tensor ") for row in rows) and "devices" in counts


def test_the_objective_trades_time_for_memory(folder: Path) -> None:
    plan, step_s, peak_bytes = re.fullmatch(r"(Plan\(.*\)) (\S+) (\S+)\n", in_a_process("least_memory.py")).groups()  # type: ignore[union-attr]
    (fastest,) = parsim.plan(parsim.load("mine.yaml"), top=1).rows
    assert plan != str(fastest.plan) and int(peak_bytes) < fastest.peak_bytes
    assert fastest.step_s < float(step_s) <= 1.2 * fastest.step_s
