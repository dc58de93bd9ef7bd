"""Whatever is wrong with a scenario is told at once, once, in a sentence, with its place; and never by a traceback."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim import from_mapping, scenario
from parsim.errors import ScenarioError

TEN_MISTAKES = """\
nam: ten mistakes
model: gpt3-175
cluster: {node: dgx-a100-80gb, num_nodes: 8, fabric: ib-hdr-8rail}
batch: {global_batch: 64, sequence_length: 2048, dtype: fp6}
stack: {base: megatron-2022, framework_memory: 1, host_launch: 5 GiB}
plans:
  one: {tensor_paralel: 8}
  two: {tensor_parallel: 8, pipeline_parallel: 8, data_parallel: 2}
  three:
    pipeline_parallel: eight
    micro_batch: 0
    recompute: fully
  four: {tp: 8}
measured: {fiv: {step_time: 13.75 s}}
"""


def faults_of(tmp_path, text, name="s.yaml"):
    path = tmp_path / name
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return [str(each).removeprefix(f"{tmp_path}/") for each in scenario.check(path)]


def tiny(**changes):
    keys = {
        "model": "tiny-gpt",
        "cluster": "{node: dgx-a100-80gb}",
        "batch": "{global_batch: 16, sequence_length: 16}",
        "plans": "{a: {}}",
    }
    return "".join(f"{key}: {value}\n" for key, value in {**keys, **changes}.items() if value is not None)


def test_many_mistakes_are_as_many_sentences_each_with_line_and_column(tmp_path):
    expected = [
        "s.yaml:1:1: nam: unknown key (did you mean 'name'?); keys here: schema, name, model",
        "s.yaml:2:1: model: unknown model 'gpt3-175' (did you mean 'gpt3-175b'?); known: gpt3-6.7b",
        "s.yaml:4:50: batch.dtype: unknown dtype 'fp6', which is no precision that is built: fp8 is what the stack means by it, and "
        "others have names of their own; known: fp32, tf32, bf16, bf16_pure, fp16, fp8_delayed",
        "s.yaml:5:30: stack.framework_memory: 1 has no unit; write e.g. '1 GiB'",
        "s.yaml:5:51: stack.host_launch: 'GiB' is a unit of bytes, not of s; write e.g. '5 ms'",
        "s.yaml:7:9: plans.one.tensor_paralel: unknown key (did you mean 'tensor_parallel'?)",
        "s.yaml:8:51: plans.two.data_parallel: data_parallel x tensor_parallel x pipeline_parallel = 2 x 8 x 8 = 128, "
        "but the cluster has 64 devices. Set data_parallel = 1",
        "s.yaml:10:5: plans.three.pipeline_parallel: must be a whole number, not 'eight'",
        "s.yaml:11:5: plans.three.micro_batch: must be above 0, not 0",
        "s.yaml:12:5: plans.three.recompute: cannot be 'fully' (did you mean 'full'?); legal: none, selective, full",
        "s.yaml:13:10: plans.four.tp: unknown key (did you mean 'tensor_parallel'?)",
        "s.yaml:14:12: measured.fiv: unknown plan 'fiv' (did you mean 'five'?)".replace(
            " (did you mean 'five'?)", "; plans here: one, two"
        ),
    ]
    found = faults_of(tmp_path, TEN_MISTAKES)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start), line


def test_the_error_of_load_says_every_fault(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(TEN_MISTAKES)
    with pytest.raises(ScenarioError) as caught:
        scenario.load(path)
    assert str(caught.value).splitlines() == [str(each) for each in scenario.check(path)]
    assert len(caught.value.faults) == 12


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"seed": "-1"}, "5:1: seed: must be at least 0, not -1"),
        ({"schema": "2"}, "5:1: schema: cannot be 2; legal: 1"),
        ({"model": None}, "1:1: model: missing; give the model: a name of the catalog, hf:path/to/config.json, or an inline row"),
        ({"model": "hf:absent.json"}, "1:1: model: hf:absent.json: cannot read the file: No such file or directory"),
        ({"model": "[tiny-gpt]"}, "1:1: model: must be a name or a mapping, not a list"),
        ({"model": ""}, "1:1: model: must be a name or a mapping, not nothing"),
        ({"model": "{base: tiny}"}, "1:9: model.base: unknown model 'tiny' (names that begin so: tiny-gpt, tiny-llama, tiny-bert)"),
        ({"model": "{base: tiny-gpt, num_kv_heads: 3}"}, "1:1: model: num_kv_heads = 3 does not divide num_heads = 4"),
        ({"model": "{base: tiny-gpt, dropout: .nan}"}, "1:25: model.dropout: must be a finite number, not nan"),
        ({"model": "{base: tiny-gpt, num_layers: 2.5}"}, "1:25: model.num_layers: must be a whole number, not 2.5"),
        ({"model": "{base: tiny-gpt, num_layers: true}"}, "1:25: model.num_layers: must be a whole number, not true"),
        (
            {"cluster": "{node: dgx-a100}"},
            "2:11: cluster.node: unknown node 'dgx-a100' (names that begin so: dgx-a100-80gb, dgx-a100-40gb)",
        ),
        (
            {"cluster": "{node: dgx-a100-80gb, num_nodes: 2}"},
            "2:1: cluster.fabric: missing: 2 nodes need a fabric; known: ib-ndr-8rail",
        ),
        ({"cluster": "{node: dgx-a100-80gb, num_nodes: 2, fabric: ib}"}, "2:46: cluster.fabric: unknown fabric 'ib'"),
        (
            {"cluster": "{node: gb200-nvl72, num_nodes: 2, fabric: ib-ndr-8rail}", "batch": "{global_batch: 144, sequence_length: 16}"},
            '2:44: cluster.fabric: the rails of "ib-ndr-8rail" connect 8 of the 72 NICs of node "gb200-nvl72"; name another fabric, or say',
        ),
        (
            {
                "cluster": "{node: gb200-nvl72, num_nodes: 2, fabric: {base: ib-ndr-8rail, efficiency: 0.5}}",
                "batch": "{global_batch: 144, sequence_length: 16}",
            },
            '2:44: cluster.fabric: the rails of "ib-ndr-8rail (changed)" connect 8 of the 72 NICs of node "gb200-nvl72"; '
            "name another fabric, or say how many they connect, e.g. fabric: {base: ib-ndr-8rail, nics_per_node: 72}",
        ),
        ({"cluster": "{node: {base: dgx-a100-80gb, topology: ring}}"}, "2:39: cluster.node.topology: unknown topology 'ring'; known: "),
        ({"batch": "{global_batch: 16}"}, "3:1: batch.sequence_length: missing; give the tokens of a sequence"),
        (
            {"batch": "{global_batch: 16, sequence_length: 17}"},
            "3:27: batch.sequence_length: sequence_length = 17 is above max_positions = 16",
        ),
        (
            {"batch": "{global_batch: 16, sequence_length: 16, dtype: bfloat16}"},
            "3:48: batch.dtype: unknown dtype 'bfloat16' (did you mean 'bf16'?)",
        ),
        ({"batch": "{global_batch: 16, sequence_length: 16, gbs: 1}"}, "3:48: batch.gbs: unknown key (did you mean 'global_batch'?)"),
        (
            {"batch": "{global_batch: 16, sequence_length: 16, dtype: nf4}"},
            "3:48: batch.dtype: unknown dtype 'nf4', which is no precision that is built: fp8 is what the stack means by it",
        ),
        (
            {"batch": "{global_batch: 16, sequence_length: 16, num_layers_at_end_in_bf16: 1}"},
            "3:48: batch.num_layers_at_end_in_bf16: num_layers_at_end_in_bf16 = 1 keeps layers in bf16 beside those of a lower precision, "
            "but dtype = bf16. Leave it out, or set dtype, or precision of a plan, to one of 8 or 4 bits",
        ),
        (
            {
                "cluster": "{node: dgx-h100-80gb}",
                "batch": "{global_batch: 16, sequence_length: 16, dtype: fp8, num_layers_at_start_in_bf16: 3}",
            },
            '3:60: batch.num_layers_at_start_in_bf16: num_layers_at_start_in_bf16 = 3 is above num_layers = 2 of model "tiny-gpt"',
        ),
        (
            {"cluster": "{node: dgx-1v-16gb}"},
            "3:1: batch.dtype: accelerator \"v100-sxm2-16gb\" has no peak for 'bf16'; it multiplies: fp16, fp32",
        ),
        ({"model": "{base: gpt2-small, num_heads: 10}"}, "1:1: model: num_heads = 10 does not divide hidden_size = 768; give head_dim"),
        ({"model": "{base: gpt2-small, hidden_size: wide}"}, "1:27: model.hidden_size: must be a whole number, not 'wide'"),
        ({"batch": "16"}, "3:1: batch: must be a mapping, not 16"),
        ({"stack": "mcore"}, "5:1: stack: unknown stack 'mcore' (did you mean 'megatron-core'?)"),
        (
            {"stack": "{base: torchtitan, narrow_parameters: [fp8_rowwise]}"},
            "5:47: stack.narrow_parameters.0: unknown precision of a narrow weight 'fp8_rowwise'; known: fp8_delayed, fp8_current, ",
        ),
        ({"plans": "{a: {schedule: 1f1}}"}, "4:13: plans.a.schedule: unknown schedule '1f1' (did you mean '1f1b'?); known: 1f1b"),
        ({"plans": "{a: {sequence_parallel: yes}}"}, "4:13: plans.a.sequence_parallel: must be true or false, not 'yes'"),
        ({"plans": "{a: {tensor_parallel: []}}"}, "4:13: plans.a.tensor_parallel: must not be empty"),
        ({"plans": "{a: {tensor_parallel: [1, 0]}}"}, "4:34: plans.a.tensor_parallel.1: must be above 0, not 0"),
        (
            {"plans": "{a: {micro_batch: 3}}"},
            "4:13: plans.a.micro_batch: data_parallel x micro_batch = 8 x 3 = 24 does not divide global_batch = 16",
        ),
        ({"plans": "{a: {tensor_parallel: 3}}"}, "4:13: plans.a.tensor_parallel: tensor_parallel x pipeline_parallel = 3 x 1 = 3 does not"),
        ({"plans": "{a: {}, a: {}}"}, "4:16: plans.a: duplicate key; it stands in line 4 already"),
        ({"plans": "{1: {}}"}, "4:9: plans.1: must be text, not 1"),
        ({"plans": "{a: !big {}}"}, None),
        ({"measured": "{a: {}}"}, "5:12: measured.a: holds no figure; give step_time, peak_memory or both"),
        ({"measured": "{a: {step_time: 13.75}}"}, "5:16: measured.a.step_time: 13.75 has no unit; write e.g. '13.75 ms'"),
        ({"measured": "{a: {step_time: -1 s}}"}, "5:16: measured.a.step_time: must be above 0, not '-1 s'"),
        (
            {"stack": "{base: megatron-2022, framework_memory: 1e30 GB}"},
            "5:30: stack.framework_memory: must be from 0 B to 1 EB, not '1e30 GB'",
        ),
        ({"measured": "{a: {step_time: 1e10 s}}"}, "5:16: measured.a.step_time: must be from 0 s to 10000 s, not '1e10 s'"),
        ({"name": '"\\ud800"'}, "5:7: name: holds half of a UTF-16 surrogate pair, which is no text"),
        ({"plans": '{a: {}, "\\ud800": {}}'}, "4:16: plans: holds half of a UTF-16 surrogate pair, which is no text"),
        ({"name": '"\\ud83d\\ude00"'}, None),  # JSON's way to write one character
        ({"seed": "!big 1"}, "5:7: seed: the tag '!big' means nothing in a scenario; leave it out"),
        ({"seed": "9" * 5000}, "5:7: seed: '9999999999999999999999999999999999999999' is no number that can be read"),
    ],
)
def test_one_mistake_is_one_sentence(tmp_path, changes, fault):
    found = faults_of(tmp_path, tiny(**changes))
    if fault is None:
        assert found == []
        return
    ours = [each for each in found if each.startswith(f"s.yaml:{fault}")]
    assert len(ours) == 1, found
    if "tensor_parallel x pipeline_parallel" in fault:  # 3 divides neither the devices nor the kv heads: two reasons
        assert len(found) == 2 and "num_kv_heads = 2" in found[1]
    else:
        assert len(found) == 1, found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "s.yaml:1:1: the file is empty"),
        ("# only a comment\n", "s.yaml:1:1: the file is empty"),
        ("[a, b]\n", "s.yaml:1:1: a scenario is a mapping with the keys model, cluster, batch and plans"),
        ("just text\n", "s.yaml:1:1: a scenario is a mapping"),
        ("model: [a\nplans: }\n", "s.yaml:2:6: not YAML: "),
        ("a: 1\n---\nb: 2\n", "s.yaml:2:1: not YAML: expected a single document"),
        ("a: \x07\n", "s.yaml:1:1: not YAML: "),
        ("a: &a [*a]\n", "s.yaml:1:4: a.0.0.0: nested more than 40 levels deep"),
        ("[" * 1200, "s.yaml:1:1: nested more than 40 levels deep"),
        (b"a: 1\nb: \xff\n", "s.yaml:2:4: byte 0xff is not UTF-8; save the file as UTF-8"),
    ],
)
def test_what_is_no_scenario_at_all_is_told_in_one_line(tmp_path, text, fault):
    (found,) = faults_of(tmp_path, text)
    assert found.startswith(fault), found


def test_aliases_cannot_unfold_to_a_huge_file(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (found,) = faults_of(tmp_path, "\n".join(lines))
    assert "unfolds to too many values" in found


def test_a_mapping_that_merges_itself_is_told(tmp_path):
    found = faults_of(tmp_path, tiny(plans="{a: &a {<<: *a}}"))
    assert any("'<<' merges a mapping, or a list of mappings, that does not hold itself" in each for each in found)


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.yaml", "nowhere.yaml: no such file"), (".", ".: is a directory, not a scenario file"), ("a\0b", "a\0b: cannot be read: ")],
)
def test_a_file_that_cannot_be_opened_is_told(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError) as caught:
        scenario.load(path)
    assert str(caught.value).startswith(message)


def test_faults_of_a_mapping_have_its_name_and_the_dotted_path():
    with pytest.raises(ScenarioError) as caught:
        scenario.from_mapping({"model": "tiny-gpt", "cluster": {}, "batch": {}, "plans": {"a": {"tp": 1}}}, name="mine")
    assert [str(each).partition(":")[0] for each in caught.value.faults] == ["mine"] * 4
    assert [each.where for each in caught.value.faults] == ["batch.global_batch", "batch.sequence_length", "cluster.node", "plans.a.tp"]


@pytest.mark.parametrize(
    ("part", "row", "figure"),
    [
        ("accelerator", "a100-sxm4-80gb", {"hbm_bandwidth": "1e-9 B/s"}),
        ("accelerator", "a100-sxm4-80gb", {"hbm_capacity": "1e300 GB"}),
        ("accelerator", "a100-sxm4-80gb", {"peak": {"bf16": "1e-300 FLOP/s"}}),
        ("accelerator", "a100-sxm4-80gb", {"gemm": {"launch": "1e10 s"}}),
        ("link", "nvlink3", {"bandwidth": "1e-300 GB/s"}),
        ("link", "nvlink3", {"latency": "1 day"}),
    ],
)
def test_a_quantity_no_hardware_has_is_a_fault_that_names_the_range(part, row, figure):
    node = {"base": "dgx-a100-80gb", "devices_per_node": 1, part: {"base": row, **figure}}
    document = {"model": "tiny-gpt", "cluster": {"node": node}, "batch": {"global_batch": 1, "sequence_length": 16}, "plans": {"a": {}}}
    with pytest.raises(ScenarioError, match=r"must be from (0|1) \S+ to \d+ \S+, not '") as caught:
        scenario.from_mapping(document)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("changes", [{"name": "\ud800"}, {"plans": {"\udfff": {}}}, {"plans": {"a": {"schedule": "\ud800"}}}])
def test_half_a_surrogate_pair_in_a_mapping_is_a_fault(changes):
    document = {"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 16}}
    with pytest.raises(ScenarioError, match="holds half of a UTF-16 surrogate pair"):
        scenario.from_mapping({**document, "plans": {"a": {}}, **changes})


KEYS = ["model", "cluster", "batch", "plans", "measured", "stack", "seed", "schema", "name", "node", "base", "num_nodes", "fabric", "a"]
KEYS += ["tensor_parallel", "layers_per_stage", "schedule", "step_time", "peak", "source", "global_batch", "sequence_length", "<<"]
WORDS = ["auto", "tiny-gpt", "dgx-a100-80gb", "ib-hdr-8rail", "bf16", "80 GiB", "1f1b", "megatron-2022", ""]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5) | st.binary(max_size=3)
KEY = st.sampled_from(KEYS) | st.text(max_size=3) | st.integers() | st.none() | st.booleans()
GARBAGE = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEY, GARBAGE, max_size=6))
def test_no_mapping_raises_anything_but_a_scenario_error(mapping):
    try:
        scenario.from_mapping(mapping)
    except ScenarioError as error:
        assert error.faults and str(error)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["model", "cluster", "batch", "plans", "stack", "measured", "seed"]), GARBAGE)
def test_no_section_of_a_good_scenario_raises_anything_but_a_scenario_error(section, garbage):
    good = {
        "model": "tiny-gpt",
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 8, "sequence_length": 16},
        "plans": {"a": {}},
    }
    inside = {**good.get(section, {}), **garbage} if isinstance(garbage, dict) and isinstance(good.get(section), dict) else garbage
    try:
        scenario.from_mapping({**good, section: inside})
    except ScenarioError as error:
        assert error.faults and str(error)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab:-{}[]&*!<>|'\"#%@`,? \n\t\\0xé", max_size=40) | st.binary(max_size=20))
def test_no_file_raises_anything_but_a_scenario_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert scenario.check(path)


def test_numbers_too_large_for_anything_are_out_of_range():
    with pytest.raises(ScenarioError, match="must be at most 1e\\+09, not a number of 5001 digits"):
        scenario.from_mapping({"model": "tiny-gpt", "batch": {"global_batch": 10**5000, "sequence_length": 16}})


@pytest.mark.parametrize("precision", ["fp8_current", ["bf16", "fp8_current"], "auto"])
def test_layers_stay_in_bf16_where_a_plan_alone_is_lower(precision: object) -> None:
    stated = {"cluster": {"node": "dgx-h100-80gb"}, "stack": "torchtitan", "plans": {"a": {"precision": precision}}}
    file = {"model": "gpt2-small", "batch": {"global_batch": 16, "sequence_length": 16, "num_layers_at_start_in_bf16": 1}, **stated}
    assert from_mapping(file).batch.num_layers_at_start_in_bf16 == 1
