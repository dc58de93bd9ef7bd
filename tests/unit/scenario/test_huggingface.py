"""A Hugging Face config.json as the model of a scenario: the row of the catalog, or a fault that names the key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from hf_configs import CONFIGS, GPT2, LLAMA, MISTRAL, MOONLIGHT, PUBLISHED, QWEN, QWEN_3, files
from parsim import scenario
from parsim.errors import ScenarioError
from parsim.model.parameters import num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.scenario.families import model_types
from parsim.scenario.huggingface import row
from parsim.scenario.rows import read

KNOWN = f"{', '.join(model_types())}, or one of these as text_config"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_gives_the_model_of_the_catalog(name: str, tmp_path: Path) -> None:
    path = files(tmp_path, CONFIGS[name])
    expected = read("models", name)
    tokens = min(1536, expected.max_positions)  # whole runs of experts on each of 4 ranks
    path.write_text(path.read_text().replace("sequence_length: 64", f"sequence_length: {tokens}"))
    loaded = scenario.load(path)
    if name == "mistral-7b":  # its file says 32768, its paper a context of 8192
        expected = replace(expected, max_positions=32768)
    assert replace(loaded.model, name=name, source=expected.source) == expected
    assert loaded.model.name == "hf:models/config.json"


def test_every_family_is_tested_here_or_among_the_published() -> None:
    configs = [{**MISTRAL, "model_type": "ministral"}, *CONFIGS.values(), *(each["config"] for each in PUBLISHED.values())]
    of_text, whole = ({config["model_type"] for config in each} for each in ([each.get("text_config", each) for each in configs], configs))
    assert of_text | (whole & set(model_types())) == set(model_types())


def test_the_path_is_relative_to_the_scenario_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files(tmp_path, LLAMA)
    monkeypatch.chdir("/")
    assert scenario.check(path) == []


def test_the_directory_of_a_config_stands_for_it(tmp_path: Path) -> None:
    path = files(tmp_path, LLAMA)
    path.write_text(path.read_text().replace("hf:models/config.json", "hf:models"))
    assert scenario.load(path).model.num_layers == 32


def test_a_name_of_the_hub_is_told_that_nothing_is_downloaded(tmp_path: Path) -> None:
    path = files(tmp_path, LLAMA)
    path.write_text(path.read_text().replace("hf:models/config.json", "hf:meta-llama/Llama-3.1-8B"))
    (fault,) = scenario.check(path)
    assert "give the path of a config.json or of its directory, relative to the scenario file; nothing is downloaded" in fault.message
    assert fault.message.endswith(": hf download meta-llama/Llama-3.1-8B config.json puts it where it is found")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("google/gemma-2-9b", r"cannot read the file: .* \(did you mean 'gemma-2-9b'\?\); give the path"),
        ("Qwen/Qwen3.5-9B", "hf:Qwen/Qwen3.5-9B: is not built: state-space layers, or layers of linear attention$"),
    ],
)
def test_a_name_of_the_hub_that_has_a_row_or_is_not_built_is_told_so(name: str, said: str, tmp_path: Path) -> None:
    path = files(tmp_path, LLAMA)
    path.write_text(path.read_text().replace("hf:models/config.json", f"hf:{name}"))
    (fault,) = scenario.check(path)
    assert re.search(said, fault.message)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_a_name_of_the_hub_is_its_copy_in_the_cache(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files(tmp_path, LLAMA)
    path.write_text(path.read_text().replace("hf:models/config.json", "hf:meta-llama/Llama-3.1-8B"))
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"}
    for name in below:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    kept = tmp_path / below[variable] / "models--meta-llama--Llama-3.1-8B"
    (kept / "snapshots" / "0e9e39f").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0e9e39f\n")
    (kept / "snapshots" / "0e9e39f" / "config.json").write_text(json.dumps(LLAMA))
    assert scenario.load(path).model.name == "hf:meta-llama/Llama-3.1-8B"


def test_a_mapping_may_name_a_config_too(tmp_path: Path) -> None:
    files(tmp_path, LLAMA)
    parts = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 64}, "plans": {"a": {}}}
    assert scenario.from_mapping({"model": f"hf:{tmp_path}/models/config.json", **parts}).model.num_layers == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "deepseek_v32"},
            f"model_type 'deepseek_v32' is not built: sparse attention behind an indexer; known: {KNOWN}",
        ),
        (
            {"model_type": None},
            f"model_type nothing is not read; known: {KNOWN}",
        ),
        ({"num_local_experts": 8}, "num_local_experts = 8, but no llama that is read has experts"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers must be a whole number above 0, not '32'"),
        ({"hidden_size": 0}, "hidden_size must be a whole number above 0, not 0"),
        ({"vocab_size": True}, "vocab_size must be a whole number above 0, not true"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not read; known here: silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, not 'no'"),
        ({"sliding_window": 63}, "sliding_window = 63 is not read of model_type llama, whose code has no windows"),
        ({"architectures": "LlamaModel"}, "architectures holds 'LlamaModel', whose head is not read; that of a ...ForCausalLM is"),
        ({"architectures": {}}, "architectures must be a list, not a mapping"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1 drops attention scores only, which is not read; 0 is"),
        ({"partial_rotary_factor": 0.001}, "partial_rotary_factor = 0.001 turns 0 elements of a head of 128, which is not read"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.5}},
            "partial_rotary_factor = 1.5 turns 192 elements of a head of 128, which is not read",
        ),
        ({"attention_dropout": 2}, "attention_dropout must be at least 0 and below 1, not 2"),
    ],
)
def test_what_cannot_be_read_is_a_fault_at_the_model_key(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = files(tmp_path, {**LLAMA, **changes})
    (fault,) = scenario.check(path)
    assert str(fault) == f"{path}:1:1: model: hf:models/config.json: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size_per_layer_input": 256},
            "hidden_size_per_layer_input = 256 is not read: embeddings of each layer, which go along with the stream, are not built; 0 is",
        ),
        ({"num_kv_shared_layers": 20}, "num_kv_shared_layers = 20 is not read: keys and values of other layers are not built; 0 is"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all' is not read; false is"),
        ({"attention_bias": True}, "attention_bias = true is not read; false is"),
        (
            {"per_layer_config": {"05": {"head_dim": 512}}},
            "per_layer_config is not read where it says other than one thing of all layers with full attention",
        ),
    ],
)
def test_what_of_gemma_4_is_not_built_is_told(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**PUBLISHED["gemma-4-31b"]["config"]["text_config"], **changes}))
    assert fault.message == f"hf:models/config.json: {message}"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("granite-4.0-h-small", {"position_embedding_type": "alibi"}, "position_embedding_type = 'alibi' is not read; nope and rope are"),
        (
            "granite-4.0-h-small",
            {"layer_types": ["mamba"] * 39 + ["mlp"]},
            "layer_types holds other layers than mamba, linear_attention, attention, full_attention, which are not read",
        ),
        (
            "granite-4.0-h-small",
            {"mamba_d_head": 32},
            "mamba_n_heads x mamba_d_head = 128 x 32 is not mamba_expand x hidden_size = 8192",
        ),
        ("bamba-9b", {"z_loss_coefficient": 0.1}, "z_loss_coefficient = 0.1 is not read; 0.0 is"),
        (
            "nemotron-3-super-120b-a12b",
            {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "ME"},
            "mtp_hybrid_override_pattern = 'ME' is not read; *E is",
        ),
        ("nemotron-3-super-120b-a12b", {"moe_latent_size": 0}, "moe_latent_size must be a whole number above 0, not 0"),
    ],
)
def test_what_of_a_hybrid_is_not_built_is_told(name: str, changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**PUBLISHED[name]["config"], **changes}))
    assert fault.message == f"hf:models/config.json: {message}"


def test_the_module_of_nemotron_3_super_is_read(tmp_path: Path) -> None:
    config = {**PUBLISHED["nemotron-3-super-120b-a12b"]["config"], "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    path = files(tmp_path, config)
    path.write_text(path.read_text().replace("sequence_length: 64", "sequence_length: 1024"))  # whole runs of experts on each of 4 ranks
    expected = read("models", "nemotron-3-super-120b-a12b")
    same = {"expert_groups": 0, "groups_per_token": 0, "norm_in_float32": False}  # one group of all; norms are those of transformers
    assert replace(scenario.load(path).model, name=expected.name, source=expected.source, **same) == expected


def test_heads_of_each_layer_are_read_as_release_5_writes_them(tmp_path: Path) -> None:
    text = dict(PUBLISHED["gemma-4-31b"]["config"]["text_config"])
    expected = scenario.load(files(tmp_path, text)).model
    own = {"head_dim": text.pop("global_head_dim"), "num_key_value_heads": text.pop("num_global_key_value_heads")}
    text["per_layer_config"] = {f"{place:02}": own for place in range(5, 60, 6)}
    assert scenario.load(files(tmp_path, text)).model == expected


@pytest.mark.parametrize("key", ["num_hidden_layers", "intermediate_size", "max_position_embeddings"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    config = {name: value for name, value in LLAMA.items() if name != key}
    (fault,) = scenario.check(files(tmp_path, config))
    assert fault.message == f"hf:models/config.json: key '{key}' is missing"


@pytest.mark.parametrize(
    ("config", "figures"),
    [
        ({**MISTRAL, "sliding_window": 32}, (32, 0)),
        (
            {**QWEN_3, "num_hidden_layers": 4, "vocab_size": 60, "use_sliding_window": True, "sliding_window": 63, "max_window_layers": 0},
            (63, 0),
        ),
        ({**MISTRAL, "sliding_window": None}, (0, 0)),
        ({**QWEN, "sliding_window": 32}, (0, 0)),
        ({**QWEN, "sliding_window": 32, "use_sliding_window": True, "max_window_layers": 28}, (0, 0)),
        ({**QWEN, "sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0}, (32, 0)),
        ({**MISTRAL, "sliding_window": 32, "layer_types": ["full_attention"] * 32}, (0, 0)),
        ({**MISTRAL, "sliding_window": 32, "num_hidden_layers": 4, "layer_types": [*["sliding_attention"] * 3, "full_attention"]}, (32, 4)),
    ],
)
def test_windows_are_read(config: dict[str, object], figures: tuple[int, int], tmp_path: Path) -> None:
    model = scenario.load(files(tmp_path, config)).model
    assert isinstance(model, TransformerSpec)
    assert (model.sliding_window, model.full_attention_every) == figures


@pytest.mark.parametrize(
    ("full", "every", "start"), [([1, 4, 7], 3, 1), ([2, 5, 8], 3, 2), ([3, 6], 3, 0), ([5], 8, 5), ([8], 8, 0), ([], 0, 0)]
)
def test_full_layers_may_begin_anywhere(full: list[int], every: int, start: int, tmp_path: Path) -> None:
    types = ["full_attention" if place in full else "sliding_attention" for place in range(1, 9)]
    model = scenario.load(files(tmp_path, {**MISTRAL, "num_hidden_layers": 8, "sliding_window": 32, "layer_types": types})).model
    assert isinstance(model, TransformerSpec)
    assert [place for place in range(1, 9) if model.window_of(place - 1) == 0] == full
    assert (model.full_attention_every, model.full_attention_from) == (every, start)


def test_a_gpt_oss_without_layer_types_alternates_and_one_of_other_gates_is_not_read(tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIGS["gpt-oss-20b"].items() if key != "layer_types"}
    model = scenario.load(files(tmp_path, config)).model
    assert isinstance(model, TransformerSpec) and (model.sliding_window, model.full_attention_every) == (128, 2)
    (fault,) = scenario.check(files(tmp_path, {**config, "swiglu_limit": 5.0}))
    assert fault.message.endswith("swiglu_limit = 5.0 is not read; 7.0 is")


@pytest.mark.parametrize(
    "config",
    [
        {"use_sliding_window": True, "max_window_layers": 27},
        {"layer_types": ["full_attention"] * 27 + ["sliding_attention"]},
    ],
)
def test_layers_of_no_pattern_are_not_read(config: dict[str, object], tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**QWEN, "sliding_window": 32, **config}))
    assert fault.message.endswith("layer_types is no pattern that is read: each so many-th layer with full attention")


@pytest.mark.parametrize(("of_attention", "of_mlp"), [(True, False), (False, True), (True, True), (False, False)])
def test_attention_and_the_mlp_may_have_biases_each(of_attention: bool, of_mlp: bool, tmp_path: Path) -> None:
    config = {**LLAMA, "attention_bias": of_attention, "mlp_bias": of_mlp}
    bare, model = (scenario.load(files(tmp_path, each)).model for each in (LLAMA, config))
    rows = of_attention * (4096 + 2 * 1024 + 4096) + of_mlp * (2 * 14336 + 4096)
    assert num_parameters(model) - num_parameters(bare) == 32 * rows


def test_the_text_of_a_qwen2_vl_whose_config_has_one_level_is_read(tmp_path: Path) -> None:
    own = {**QWEN, "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 32}}
    del own["architectures"]
    text, of_text = (scenario.load(files(tmp_path, each)).model for each in (own, QWEN))
    assert num_parameters(text) == num_parameters(of_text)


def test_gemma_takes_its_later_key_of_the_activation_first(tmp_path: Path) -> None:
    config = {**PUBLISHED["gemma-2b"]["config"], "hidden_act": "gelu", "hidden_activation": "relu"}
    (fault,) = scenario.check(files(tmp_path, config))
    assert "'relu' is not read" in fault.message


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mpt-7b", {"attn_config": {"alibi": True, "rope": True}}, "attn_config.rope = true is not read; false is"),
        ("mpt-7b", {"attn_config": {"alibi": True, "qk_gn": True}}, "attn_config.qk_gn = true is not read; false is"),
        ("mpt-7b", {"attn_config": {"alibi": True, "kv_n_heads": 8}}, "attn_config.kv_n_heads = 8 is not read; 32 is"),
        ("mpt-7b", {"ffn_config": {"ffn_type": "mptglu"}}, "ffn_config.ffn_type = 'mptglu' is not read; 'mptmlp' is"),
        ("distilbert-base", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds = true is not read; false is"),
    ],
)
def test_keys_of_single_families_are_read_or_refused(name: str, changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**PUBLISHED[name]["config"], **changes}))
    assert fault.message == f"hf:models/config.json: {message}"


def test_as_many_layer_types_as_layers_are_needed(tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**LLAMA, "layer_types": ["full_attention"] * 3}))
    assert fault.message == "hf:models/config.json: layer_types has 3 layers, but num_hidden_layers = 32"


def test_a_window_left_out_is_that_of_the_family(tmp_path: Path) -> None:
    files(tmp_path, {key: value for key, value in MISTRAL.items() if key != "sliding_window"})
    assert row(tmp_path / "models" / "config.json", "hf:config.json")["sliding_window"] == 4096


def test_kv_heads_left_out_are_those_of_the_family(tmp_path: Path) -> None:
    config = {key: value for key, value in MISTRAL.items() if key != "num_key_value_heads"}
    assert scenario.load(files(tmp_path, config)).model.num_kv_heads == 8  # MistralConfig: num_key_value_heads=8
    config |= {"model_type": "llama", "sliding_window": None}
    assert scenario.load(files(tmp_path, config)).model.num_kv_heads == 32  # LlamaConfig: as many as heads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alibi": True}, "alibi = true is not read; false is"),
        ({"parallel_attn": True}, "parallel_attn = true is not read; false is"),
        ({"use_parallel_residual": True}, "use_parallel_residual = true is not read; false is"),
        ({"qk_layernorm": True}, "qk_layernorm = true is not read; false is"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not read; null is"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is not read; null is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quant_method nothing is not read; fp8 and mxfp4 are"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "quantization_config: quant_method 'bitsandbytes' is not read; fp8 and mxfp4 are",
        ),
        ({"kv_lora_rank": 512}, "kv_lora_rank = 512 is not read; null is"),
        ({"vision_config": {"depth": 2}}, "vision_config = a mapping is not read; null is"),
        ({"add_cross_attention": True}, "add_cross_attention = true is not read; false is"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers = 1 is not read; 0 is"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads = a mapping is not read; {} is"),
        (
            {"layer_types": ["linear_attention"] * 32},
            "layer_types holds other layers than full_attention and sliding_attention, which are not read",
        ),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "architectures holds 'LlamaForSequenceClassification', whose head is not read; that of a ...ForCausalLM is",
        ),
        ({"architectures": ["LlamaModel"]}, "architectures holds 'LlamaModel', whose head is not read; that of a ...ForCausalLM is"),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "nemotron"])
def test_a_key_that_changes_the_answer_and_is_not_read_is_refused_by_name(
    model_type: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    own = {"hidden_act": "relu2", "partial_rotary_factor": 1.0} if model_type == "nemotron" else {}
    (fault,) = scenario.check(files(tmp_path, {**LLAMA, "model_type": model_type, **own, **changes}))
    assert fault.message == f"hf:models/config.json: {message}"


@pytest.mark.parametrize("model_type", ["mistral", "qwen2"])
def test_biases_that_a_family_has_not_are_refused(model_type: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**LLAMA, "model_type": model_type, "attention_bias": True}))
    assert fault.message == "hf:models/config.json: attention_bias = true is not read; false is"


def test_dropouts_of_gpt2_that_differ_are_refused(tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**GPT2, "attn_pdrop": 0.0}))
    assert fault.message == "hf:models/config.json: resid_pdrop, embd_pdrop, attn_pdrop differ; one dropout for all can be read"


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON in UTF-8"), ("[]", "must hold a mapping, not a list"), ("\x00", "is no JSON in UTF-8")]
)
def test_a_file_that_is_no_config_is_a_fault(text: str, message: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, text))
    assert message in fault.message


def test_faults_of_the_config_and_of_the_scenario_are_told_together(tmp_path: Path) -> None:
    path = files(tmp_path, {**LLAMA, "model_type": "umt5"})
    path.write_text(path.read_text().replace("tensor_parallel", "tensor_paralel"))
    assert [fault.where for fault in scenario.check(path)] == ["model", "plans.a.tensor_paralel"]


def test_numbers_that_do_not_fit_together_are_faults_as_in_an_inline_row(tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**LLAMA, "num_key_value_heads": 5}))
    assert fault.message == "num_kv_heads = 5 does not divide num_heads = 32"


def test_head_dim_is_read_where_it_stands(tmp_path: Path) -> None:
    assert scenario.load(files(tmp_path, {**LLAMA, "head_dim": 64})).model.head_dim == 64


def test_an_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot read the file: No such file or directory"):
        row(tmp_path / "absent.json", "hf:absent.json")


@pytest.mark.parametrize("count", [0, 1])
def test_the_module_for_a_later_token_is_read(count: int, tmp_path: Path) -> None:
    files(tmp_path, {**MOONLIGHT, "num_nextn_predict_layers": count})
    assert row(tmp_path / "models", "hf:models").get("mtp_layers", 0) == count
