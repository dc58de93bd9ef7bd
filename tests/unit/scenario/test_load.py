"""A scenario file becomes what it says, in base units, with what it leaves out filled in."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from msgspec.structs import replace

from parsim import catalog, scenario
from parsim.cluster.network import p2p_s
from parsim.errors import ScenarioError
from parsim.model.parameters import num_parameters
from parsim.scenario.rows import read

# The example of the README and of the design.
EXAMPLE = """\
# GPT-3 175B on 64 A100: full recompute against selective recompute with sequence parallelism.
name: gpt3-175b-recompute
model: gpt3-175b                       # a row of the catalog, or an inline mapping
cluster: {node: dgx-a100-80gb, num_nodes: 8, fabric: ib-hdr-8rail}
batch: {global_batch: 64, sequence_length: 2048, dtype: bf16}
plans:
  full:   {tensor_parallel: 8, pipeline_parallel: 8, micro_batch: 1, recompute: full}
  seqsel: {tensor_parallel: 8, pipeline_parallel: 8, micro_batch: 1, recompute: selective, sequence_parallel: true}
# data_parallel is what remains: 64 / (8 * 8) = 1.  A value may be `auto` or a list: the planner fills it.
"""
TINY = {
    "model": "tiny-gpt",
    "cluster": {"node": "dgx-a100-80gb"},
    "batch": {"global_batch": 16, "sequence_length": 16},
    "plans": {"a": {}},
}


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    return path


def changed(**keys):
    return scenario.from_mapping({**TINY, **keys})


def test_the_example_loads(example):
    found = scenario.load(example)
    assert scenario.check(example) == []
    assert found.name == "gpt3-175b-recompute"
    assert found.path == str(example)
    assert (found.model.name, found.model.num_layers) == ("gpt3-175b", 96)
    assert found.cluster.num_devices == 64
    assert (found.batch.global_batch, found.batch.sequence_length, found.batch.dtype) == (64, 2048, "bf16")
    assert list(found.plans) == ["full", "seqsel"]
    assert found.plan("seqsel").sequence_parallel and found.plan("seqsel").recompute == "selective"
    assert found.plan("full").data_parallel == 1
    assert found.stack.name == "megatron-2022"
    assert found.itemsize_bytes["bf16"] == 2
    assert found.seed == 0


def test_json_is_read_too(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY, indent=2))
    assert scenario.load(path).name == "tiny"


def test_a_mapping_and_a_file_of_the_same_keys_are_the_same_scenario(tmp_path):
    path = tmp_path / "scenario.yaml"
    path.write_text(json.dumps(TINY))
    from_file, from_mapping = scenario.load(path), scenario.from_mapping(TINY)
    assert (from_file.plans, from_file.model, from_file.cluster) == (from_mapping.plans, from_mapping.model, from_mapping.cluster)


def test_replicas_are_what_remains_of_the_devices():
    assert changed(plans={"a": {"tensor_parallel": 2, "pipeline_parallel": 2}}).plan("a").data_parallel == 2


def test_a_virtual_pipeline_is_interleaved_where_no_schedule_is_stated():
    plans = {"v": {"pipeline_parallel": 2, "virtual_pipeline": 2}, "p": {"pipeline_parallel": 2}}
    found = changed(plans=plans, model={"base": "tiny-gpt", "num_layers": 4})
    assert (found.plan("v").schedule, found.plan("p").schedule) == ("interleaved_1f1b", "1f1b")


def test_open_axes_make_a_space_for_the_planner():
    found = changed(plans={"a": {}, "s": {"tensor_parallel": [1, 2, 2], "pipeline_parallel": "auto", "recompute": "full"}})
    assert list(found.plans) == ["a"]
    assert found.spaces["s"].axes == {"tensor_parallel": (1, 2), "pipeline_parallel": ("auto",), "recompute": ("full",)}
    with pytest.raises(ScenarioError, match="plan 's' leaves tensor_parallel, pipeline_parallel open"):
        found.plan("s")


def test_layers_per_stage_is_a_value_and_not_a_choice():
    found = changed(plans={"a": {"pipeline_parallel": 2, "layers_per_stage": [1, 1]}})
    assert found.plan("a").layers_per_stage == (1, 1)


def test_an_unknown_plan_names_the_nearest(example):
    with pytest.raises(ScenarioError, match=r"unknown plan 'ful' \(did you mean 'full'\?\)\n  Plans here: full, seqsel\."):
        scenario.load(example).plan("ful")


def test_measurements_arrive_in_base_units():
    found = changed(measured={"a": {"step_time": "13.75 s", "peak_memory": "41 GiB", "source": "a paper"}})
    assert found.measured["a"] == scenario.Measured(13.75, 41 * 2**30, "a paper")


def test_a_model_may_be_written_inline_with_what_follows_left_out():
    model = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "vocab_size": 100, "max_positions": 16}
    found = changed(model=model).model
    assert (found.name, found.ffn_hidden_size, found.num_kv_heads, found.head_dim) == ("inline", 256, 4, 16)


def test_an_inline_row_may_start_from_a_row_of_the_catalog():
    found = changed(model={"base": "tiny-gpt", "num_layers": 6}).model
    assert (found.num_layers, found.hidden_size, found.name) == (6, 32, "tiny-gpt (changed)")


def test_an_accelerator_may_stand_in_a_node_in_the_cluster():
    accelerator = {
        "name": "toy",
        "peak": {"bf16": "1 PFLOP/s"},
        "hbm_bandwidth": "4 TB/s",
        "hbm_capacity": "96 GiB",
        "num_multiprocessors": 100,
        "gemm": {"efficiency": 0.8, "memory_efficiency": 0.8, "launch": "3 us", "exponent": 2},
        "attention": {
            "efficiency_by_head_dim": {128: 0.6, 64: 0.5},
            "launch": "3 us",
            "ramp": 0,
            "memory_efficiency": 0.7,
            "backward_rate": 0.8,
        },
        "elementwise": {"memory_efficiency": 0.9, "launch": "1 us"},
    }
    link = {"bandwidth": "800 Gb/s", "latency": "1 us"}
    node = {
        "accelerator": accelerator,
        "devices_per_node": 4,
        "link": link,
        "law": {"start": "5 us", "step": "1 us", "ring": "80 GB/s", "all_reduce": "80 GB/s", "ramp": "0 s/sqrt(B)"},
        "host_link": "pcie5",
        "num_nics": 4,
        "topology": "switched_node",
    }
    found = changed(cluster={"node": node, "num_nodes": 2, "fabric": "ib-ndr-8rail"}).cluster
    assert found.num_devices == 8
    assert found.node.accelerator.peak_flops_per_s == {"bf16": 1e15}
    assert found.node.accelerator.hbm_capacity_bytes == 96 * 2**30
    assert found.node.accelerator.attention.efficiency_by_head_dim == ((64, 0.5), (128, 0.6))
    assert found.node.link.bandwidth_bytes_per_s == 100e9


def test_a_changed_figure_does_not_keep_the_source_of_the_old_one():
    node = {"base": "dgx-a100-80gb", "accelerator": {"base": "a100-sxm4-80gb", "hbm_bandwidth": "3 TB/s"}}
    old, new = changed().cluster.node.accelerator, changed(cluster={"node": node}).cluster.node.accelerator
    assert new.hbm_bandwidth_bytes_per_s == 3e12 and new.gemm == old.gemm
    assert "systems/a100_sxm.yaml" in old.source and "systems/a100_sxm.yaml" not in new.source


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Radford et al. 2019: 12 heads of 64, an MLP of 4 x 768; each follows what it is derived from.
        ({"base": "gpt2-small", "hidden_size": 1024, "num_heads": 16}, {"num_kv_heads": 16, "head_dim": 64, "ffn_hidden_size": 4096}),
        ({"base": "gpt2-small", "hidden_size": 1536}, {"num_kv_heads": 12, "head_dim": 128, "ffn_hidden_size": 6144}),
        ({"base": "gpt2-small", "hidden_size": 1536, "head_dim": 64, "ffn_hidden_size": 3072}, {"head_dim": 64, "ffn_hidden_size": 3072}),
        # Grattafiori et al. 2024, table 3: 14336 is not 4 x 4096 and 8 kv heads are not 32, so both are Llama's own and stay.
        ({"base": "llama3-8b", "hidden_size": 8192}, {"num_kv_heads": 8, "head_dim": 256, "ffn_hidden_size": 14336}),
        ({"base": "llama3-8b", "bias": True}, {"bias": True, "qkv_bias": True}),
        ({"base": "qwen2.5-7b", "bias": True}, {"bias": True, "qkv_bias": True}),
        ({"base": "qwen2.5-7b", "num_layers": 2}, {"bias": False, "qkv_bias": True}),
        ({"base": "mnist-mlp-3x1024", "hidden_size": 512}, {"ffn_hidden_size": 512}),  # Srivastava et al. 2014, table 2: units alike
        ({"base": "digits-mlp", "hidden_size": 32}, {"ffn_hidden_size": 128}),
    ],
)
def test_what_a_base_derived_is_derived_anew_and_what_it_states_stays(changes, expected):
    model = changed(model=changes, batch={"global_batch": 16, "sequence_length": 1}).model
    assert {key: getattr(model, key) for key in expected} == expected


def test_gpt2_widened_to_1536_has_the_parameters_of_its_formula():
    wide = changed(model={"base": "gpt2-small", "hidden_size": 1536}).model
    layer = 4 * 1536**2 + 2 * 1536 * 6144 + (4 + 1) * 1536 + 6144 + 4 * 1536  # matrices, biases, two norms
    assert num_parameters(wide) == 12 * layer + (50257 + 1024) * 1536 + 2 * 1536


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_base_without_changes_is_the_row_itself(name):
    row = read("models", name)
    tokens = getattr(row, "num_patches", 0) + 1  # an image has all of its own
    bare = changed(model={"base": name}, batch={"global_batch": 16, "sequence_length": tokens}).model
    assert replace(bare, name=name, source="") == replace(row, source="")


def test_plans_may_share_keys_by_yaml_anchors(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps({**TINY, "plans": None})[:-1].replace(', "plans": null', "") + "}\n")
    text = "model: tiny-gpt\ncluster: {node: dgx-a100-80gb}\nbatch: {global_batch: 16, sequence_length: 16}\n"
    path.write_text(text + "plans:\n  a: &a {tensor_parallel: 2, recompute: full}\n  b: {<<: *a, tensor_parallel: 1}\n  c: *a\n")
    found = scenario.load(path)
    assert (found.plan("b").tensor_parallel, found.plan("b").recompute) == (1, "full")
    assert found.plan("c") == found.plan("a")


def test_a_scenario_travels_to_worker_processes(example):
    found = scenario.load(example)
    assert pickle.loads(pickle.dumps(found)) == found


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("ruamel", "pydantic", "networkx", "matplotlib", "simpy")
    code = f"import sys, parsim.scenario; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def parts(schema):
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from parts(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from parts(each)


def test_the_json_schema_is_of_draft_7_and_whole():
    schema = scenario.schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert sorted(schema["required"]) == ["batch", "cluster", "model"]
    sections = {"model", "cluster", "batch", "stack", "plans", "measured", "data", "training", "tuning", "disturbance"}
    assert set(schema["properties"]) == {"schema", "name", "seed", *sections}
    assert "$defs" not in json.dumps(schema)
    for part in parts(schema):
        if isinstance(part.get("$ref"), str):
            assert part["$ref"].removeprefix("#/definitions/") in schema["definitions"]
    names, config = schema["properties"]["model"]["anyOf"][0]["anyOf"]
    assert "gpt3-175b" in names["enum"] and config["pattern"] == "^hf:."
    assert schema["definitions"]["PlanSection"]["additionalProperties"] is False


def test_the_json_schema_accepts_the_example_where_a_validator_is_installed():
    jsonschema = pytest.importorskip("jsonschema")
    from ruamel.yaml import YAML

    jsonschema.Draft7Validator.check_schema(scenario.schema())
    example, validator = YAML(typ="safe", pure=True).load(EXAMPLE), jsonschema.Draft7Validator(scenario.schema())
    assert not list(validator.iter_errors(example))
    assert list(validator.iter_errors({**example, "plan": {}}))


def test_a_message_in_a_node_without_p2p_start_begins_with_the_link_s_latency():
    stated = {
        key: value
        for key, value in catalog.row("nodes", "dgx-a100-80gb").items()
        if key not in ("p2p_start", "p2p_efficiency", "p2p_narrow", "source")
    }
    node = {**stated, "link": {"bandwidth": "1 GB/s", "latency": "3 ms"}}
    batch = {"global_batch": 8, "sequence_length": 16}
    loaded = scenario.from_mapping({"model": "tiny-gpt", "cluster": {"node": node}, "batch": batch, "plans": {"a": {}}})
    assert p2p_s(loaded.cluster, 1e6, 1) == pytest.approx(3e-3 + 1e6 / 1e9, rel=1e-12)  # sums of floats


def test_a_value_that_is_a_list_and_a_list_of_values_are_told_apart():
    plans = {
        "value": {
            "pipeline_parallel": 2,
            "layers_per_stage": [1, 1],
            "recompute_modules": ["mlp"],
            "schedule": {0: "0F0 0B0", 1: "1F0 1B0"},
        },
        "list": {
            "layers_per_stage": [[1, 1], [2]],
            "recompute_modules": [["mlp"], []],
            "schedule": ["gpipe", {0: "0F0 0B0", 1: "1F0 1B0"}],
        },
        "auto": {"layers_per_stage": "auto", "recompute_ops": "auto", "dimensions": "auto"},
    }
    base = {"model": "tiny-gpt", "cluster": {"node": "dgx-1v-16gb"}, "batch": {"global_batch": 4, "sequence_length": 16, "dtype": "fp16"}}
    found = scenario.from_mapping({**base, "plans": plans})
    assert found.plan("value").layers_per_stage == (1, 1) and list(found.spaces) == ["list", "auto"]
    assert found.spaces["list"].axes == {
        "layers_per_stage": ((1, 1), (2,)),
        "recompute_modules": (("mlp",), ()),
        "schedule": ("gpipe", ("0F0 0B0", "1F0 1B0")),
    }
    assert found.spaces["auto"].axes == dict.fromkeys(plans["auto"], ("auto",))
    with pytest.raises(ScenarioError, match=r"plans.a.layers_per_stage.1: must be a list, not 7"):
        scenario.from_mapping({**base, "plans": {"a": {"layers_per_stage": [[1, 1], 7]}}})
    assert not scenario.from_mapping(base).plans, "all but the planner say that one is missing"


def test_what_a_file_leaves_open_takes_the_stated_rule_and_is_listed():
    """Heads of 128, micro_batches of one, nothing again; a plan that states what runs again leaves nothing of it open."""
    document = {
        "model": {"num_layers": 2, "hidden_size": 512, "vocab_size": 128, "max_positions": 16},
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 8, "sequence_length": 16},
        "plans": {"a": {}, "b": {"micro_batch": 1, "recompute_modules": ["mlp"]}},
    }
    found = scenario.from_mapping(document)
    assert "num_heads" not in document["model"]
    assert found.model.num_heads == 512 // 128
    said = [f"{each}" for each in found.assumed]
    assert said == ["num_heads = 4", "stack = megatron-2022", "plans.a.micro_batch = 1", "plans.a.recompute = none"]
    told = scenario.from_mapping(
        {**document, "stack": "megatron-2022", "model": {**document["model"], "num_heads": 8}, "plans": {"b": document["plans"]["b"]}}
    )
    assert told.assumed == ()
