"""Whose model a recipe trains: by a name of the hub, a class, or a pattern of layers; or none that is built, which is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import parsim
from parsim import catalog
from parsim.errors import ParsimError
from parsim.model.parameters import num_parameters
from parsim.scenario.rows import read
from parsim.targets import hub
from parsim.targets.maxtext.models import MODELS, spec_of

PLACE = {"node": "hgx-h100-80gb", "num_devices": 8}
RECIPE = """
from megatron.bridge.recipes.common import _pretrain_common


def one_config():
    cfg = _pretrain_common()
    cfg.model = {model}
    cfg.model.seq_length = 4096
    return cfg
"""
HYBRID = """HybridModelProvider(
        hybrid_layer_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", num_layers=52, hidden_size=4096,
        mamba_num_heads=128, kv_channels=128, mamba_state_dim=128, ffn_hidden_size=21504, num_attention_heads=32, mamba_head_dim=64,
        num_query_groups=8, mamba_num_groups=8, activation_func=squared_relu, is_hybrid_model=True, vocab_size=131072)"""


def of_hub(name: str) -> str:
    return f'AutoBridge.from_hf_pretrained("{name}").to_megatron_provider(load_weights=False)'


def imported(folder: Path, name: str, text: str, target: str = "", **others: object) -> parsim.ImportedJob:
    (folder / name).write_text(text)
    return parsim.import_job(folder / name, target=target, **{**PLACE, **others})  # type: ignore[arg-type]


def of_recipe(folder: Path, written: str, **others: object) -> parsim.ImportedJob:
    return imported(folder, "recipe.py", RECIPE.format(model=written), "megatron-bridge", **others)


def test_a_pattern_of_layers_is_a_hybrid_with_the_figures_of_its_class(tmp_path: Path) -> None:
    model, row = of_recipe(tmp_path, HYBRID).scenario.model, read("models", "nemotron-h-8b")
    assert model.architecture == row.architecture and model.extents == {**row.extents, "P": 4096}
    assert num_parameters(model) == num_parameters(row)


def test_a_hybrid_of_megatron_lm_is_no_gpt(tmp_path: Path) -> None:
    flags = "--hybrid-override-pattern M-M* --mamba-num-heads 8 --num-layers 4 --hidden-size 256 --num-attention-heads 4 --seq-length 64"
    more = "--micro-batch-size 1 --global-batch-size 8 --normalization RMSNorm --disable-bias-linear --vocab-size 1000 --hidden-dropout 0"
    line = f"python pretrain_mamba.py {flags} {more} --attention-dropout 0 --position-embedding-type none --max-position-embeddings 64"
    model = imported(tmp_path, "mamba.sh", f"{line} --untie-embeddings-and-output-weights\n", "megatron-lm").scenario.model
    assert (model.family, model.layout[1:-1]) == (
        "hybrid",
        (("mamba_layer", 1), ("mlp_layer", 1), ("mamba_layer", 1), ("attention_layer", 1)),
    )


def test_a_class_with_figures_of_its_own_is_the_row_of_its_repository(tmp_path: Path) -> None:
    assert of_recipe(tmp_path, "OlMoEModelProvider(expert_model_parallel_size=8)").scenario.model == read("models", "olmoe-1b-7b")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (of_hub("Qwen/Qwen2.5-VL-7B-Instruct"), "what reads images or sounds is not built; --model qwen2.5-7b is its text model alone"),
        (of_hub("google/gemma-3-4b-it"), "--model gemma-3-4b is its text model alone, without that part's time and memory"),
        (of_hub("Qwen/Qwen3.5-9B"), "not built: state-space layers, or layers of linear attention"),
        (of_hub("zai-org/GLM-5.2"), "not built: sparse attention behind an indexer"),
        ("WanModelProvider(num_layers=2)", r"model class = 'WanModelProvider': models of images or video \(diffusion\) are not built"),
        ("MineModelProvider(num_layers=2)", "the text of the class says the figures"),
    ],
)
def test_a_model_that_is_not_built_is_refused_by_what_it_lacks(tmp_path: Path, model: str, said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        of_recipe(tmp_path, model)


def test_the_text_model_alone_is_predicted_where_it_is_asked_for_and_the_rest_is_listed(tmp_path: Path) -> None:
    job = of_recipe(tmp_path, of_hub("Qwen/Qwen2.5-VL-7B-Instruct"), model="qwen2.5-7b")
    assert job.scenario.model == read("models", "qwen2.5-7b")
    assert any("what reads images or sounds is not built" in each.why for each in job.left)


def test_layers_stated_beside_a_name_are_those_of_the_model(tmp_path: Path) -> None:
    text = RECIPE.format(model=of_hub("google/gemma-2-9b")).replace("    return", "    cfg.model.num_layers = 4\n    return")
    model = imported(tmp_path, "recipe.py", text, "megatron-bridge").scenario.model
    assert (model.num_layers, model.hidden_size) == (4, 3584)


def test_every_repository_has_a_row_and_every_name_of_maxtext_figures() -> None:
    assert {*hub.ROWS.values(), *hub.TEXT_ROWS.values()} <= {*catalog.names("models")}
    assert not hub.ROWS.keys() & hub.TEXT_ROWS.keys()
    assert all(spec_of(row).num_layers for row in MODELS.values())


SCRIPT = """SIZE=9b
export MODEL_NAME="${MODEL_NAME:-gemma2-${SIZE}}"
python3 -m tests.utils.forward_pass_logit_checker configs/base.yml model_name=llama2-7b per_device_batch_size=1 max_target_length=4
python3 -m maxtext.inference.decode configs/base.yml model_name=llama2-7b per_device_batch_size=2
# python3 -m maxtext.trainers.pre_train.train configs/base.yml model_name=llama2-7b per_device_batch_size=3
python3 -m maxtext.trainers.pre_train.train configs/base.yml model_name=${MODEL_NAME} \\
    per_device_batch_size=4 max_target_length=${LENGTH:-8192} steps=$STEPS
python3 -m maxtext.trainers.post_train.sft.train_sft configs/post_train/sft.yml per_device_batch_size=5
"""


def test_of_a_script_that_decodes_and_trains_the_training_is_read(tmp_path: Path) -> None:
    job = imported(tmp_path, "test.sh", SCRIPT, "maxtext")
    assert job.scenario.model.num_layers == 42 and job.document["batch"]["sequence_length"] == 8192
    assert job.scenario.plan(job.plan).micro_batch == 4
    assert [each.why for each in job.left if each.key == "other_commands"] == ["of several commands that train the first is read"]


def test_a_program_of_ones_own_that_says_when_it_evaluates_is_read(tmp_path: Path) -> None:
    said = "configs/base.yml model_name=llama2-7b per_device_batch_size=2"
    own = f"python3 -m mine.evaluate {said[:-1]}1\npython3 -m mine.start {said} eval_steps=10 eval_interval=100\n"
    job = imported(tmp_path, "own.sh", own, "maxtext")
    assert job.scenario.plan(job.plan).micro_batch == 2


BENCHMARKS = """
a = add(d, MaxTextModel(model_name="a", model_type="gemma2-27b", tuning_params={"per_device_batch_size": 2, "max_target_length": 4096}))
b = add(d, MaxTextModel(model_name="b", model_type="gemma2-9b", tuning_params={"per_device_batch_size": 3, "remat_policy": "full"}))
"""


def test_a_model_of_a_module_of_benchmarks_is_read_by_its_name(tmp_path: Path) -> None:
    (path := tmp_path / "v5p_model_configs.py").write_text(BENCHMARKS)
    job = parsim.import_job(f"{path}::b", target="maxtext", **PLACE)  # type: ignore[arg-type]
    assert job.scenario.model.num_layers == 42 and job.scenario.plan(job.plan).micro_batch == 3
    with pytest.raises(ParsimError, match=r"it has 2 models: a, b \.\.\.\n  Name one: .*::a\."):
        parsim.import_job(path, target="maxtext", **PLACE)  # type: ignore[arg-type]


def test_a_model_that_reads_images_is_refused_where_a_file_has_it_do_so(tmp_path: Path) -> None:
    text = "base_config: base.yml\nmodel_name: gemma3-4b\nper_device_batch_size: 1\n"
    assert imported(tmp_path, "text.yml", text, "maxtext").scenario.model.num_layers == 34
    with pytest.raises(ParsimError, match="use_multimodal = True: what reads images is not built; --model gemma-3-4b is its text model"):
        imported(tmp_path, "images.yml", f"{text}use_multimodal: true\n", "maxtext")


def test_a_file_that_a_named_launcher_does_not_read_is_told_what_it_reads(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match=r"maxtext finds no job in it\n  It reads YAML over its base\.yml, or a command"):
        imported(tmp_path, "mesh.yml", "mesh_axes: [data]\n", "maxtext")


PRECISE = """
from megatron.bridge.recipes.common import _pretrain_common


def get_mixed_precision_config(name):
    return RECIPES[name]()


def one_config():
    cfg = _pretrain_common()
    cfg.model = AutoBridge.from_hf_pretrained("meta-llama/Meta-Llama-3-8B").to_megatron_provider(load_weights=False)
    cfg.mixed_precision = get_mixed_precision_config("bf16_with_mxfp8_mixed")
    return cfg
"""


def test_a_precision_is_that_of_its_name_where_the_text_of_its_function_is_at_hand_too(tmp_path: Path) -> None:
    assert imported(tmp_path, "recipe.py", PRECISE, "megatron-bridge", node="hgx-b200").scenario.batch.dtype == "mxfp8"


def test_adapters_beside_layers_that_latent_attention_has_not_are_left_out(tmp_path: Path) -> None:
    text = RECIPE.format(model=of_hub("moonshotai/Moonlight-16B-A3B")).replace("    return", "    cfg.peft = LoRA(dim=8)\n    return")
    tuning = imported(tmp_path, "recipe.py", text, "megatron-bridge").scenario.model.tuning
    assert tuning.lora_targets == ("linear_proj", "linear_fc1", "linear_fc2")


def test_adapters_beside_mamba_layers_are_refused_as_not_built(tmp_path: Path) -> None:
    adapters = '    cfg.peft = LoRA(target_modules=["linear_qkv", "in_proj", "out_proj"])\n    return'
    with pytest.raises(ParsimError, match="adapters beside Mamba layers are not built"):
        imported(tmp_path, "recipe.py", RECIPE.format(model=HYBRID).replace("    return", adapters), "megatron-bridge")


@pytest.mark.parametrize(("override", "layers"), [("true", 4), ("false", 32)])
def test_figures_beside_a_model_of_maxtext_come_before_its_file_where_it_is_overridden(tmp_path: Path, override: str, layers: int) -> None:
    text = f"model_name: olmo3-7b-pt\noverride_model_config: {override}\nbase_num_decoder_layers: 4\nper_device_batch_size: 1\n"
    job = imported(tmp_path, "fewer.yml", text, "maxtext")
    assert (job.scenario.model.num_layers, job.scenario.model.hidden_size) == (layers, 4096)
    assert ("base_num_decoder_layers" in {each.key for each in job.left}) == (override == "false")
