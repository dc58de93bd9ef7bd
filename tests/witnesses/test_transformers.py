"""Layers of Hugging Face's own code, on tensors without storage: their parameters, FLOPs of matmuls, and bytes that autograd saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hf_configs import PUBLISHED
from parsim import scenario
from parsim.cost.count import flops
from parsim.estimator.estimate import stages_of
from parsim.model.parameters import num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import STACK
from support import scenario as toy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
flop_counter = pytest.importorskip("torch.utils.flop_counter")

pytestmark = pytest.mark.slow
TOKENS = 16


def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float | None = None, **others: Any) -> tuple[Any, None]:
    """Attention by a fused kernel, to kv heads as they are."""
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register("fused", attend)
transformers.AttentionMaskInterface.register("fused", lambda *arguments, **others: None)


def kind_of(config: dict[str, Any]) -> Any:
    """The class of models that a config is of; what reads text beside images stands there without its head."""
    if config.get("is_encoder_decoder"):
        return transformers.AutoModelForSeq2SeqLM
    if str(config.get("model_type")).endswith(("_vl_text", "_vl_moe_text")):
        return transformers.AutoModel
    if config.get("model_type") == "llava":
        return transformers.AutoModelForImageTextToText
    if "ImageClassification" in str(config.get("architectures")):
        return transformers.AutoModelForImageClassification
    return transformers.AutoModelForMaskedLM if "MaskedLM" in str(config.get("architectures")) else transformers.AutoModelForCausalLM


def theirs(name: str, **changes: Any) -> Any:
    """The model of a published config, whose weights have no storage."""
    config = PUBLISHED[name]["config"]
    config = {**(config if config.get("model_type") == "llava" else config.get("text_config", config)), **changes}
    auto, kind = kind_of(config), config.pop("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no {kind}")
    with torch.device("meta"):
        return auto.from_config(transformers.AutoConfig.for_model(kind, **config))


def is_unread(config: Any, name: str) -> bool:
    """Whether a parameter is of what stands in a vision tower behind the layer whose output is taken."""
    if config.model_type != "llava" or "vision_tower" not in name:
        return False
    behind = range(config.vision_config.num_hidden_layers + 1 + config.vision_feature_layer, config.vision_config.num_hidden_layers)
    return "post_layernorm" in name or any(f".layers.{layer}." in name for layer in behind)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_theirs(name: str) -> None:
    model = theirs(name)
    read = (each for called, each in model.named_parameters() if not is_unread(model.config, called))
    count = sum(each.numel() for each in read if each.requires_grad)  # else a bias that steers choices of experts
    text = model.config.get_text_config()
    without_head = model.get_output_embeddings() is None and not getattr(text, "tie_word_embeddings", True)
    assert count + (text.vocab_size * text.hidden_size if without_head else 0) == PUBLISHED[name]["parameters"]


def of_theirs(name: str, num_layers: int, attention: str, **changes: Any) -> tuple[int, int]:
    """FLOPs of matmuls, forward and backward, and bytes saved for backward, but for weights, numbers of a row, and copies of weights."""
    config = dict(PUBLISHED[name]["config"])
    config = {**config.get("text_config", config), "num_hidden_layers": num_layers}
    config |= {key: config[key] and config[key][:num_layers] for key in ("layer_types", "no_rope_layers") if key in config} | changes
    built, saved, weights = transformers.AutoConfig.for_model(config.pop("model_type"), **config), {}, set()
    built._attn_implementation = attention

    def pack(tensor: Any) -> Any:
        place = tensor.untyped_storage()._cdata
        if place not in weights and tensor.ndim > 1 and tensor.shape[-1] > 1:
            saved[place, tensor.storage_offset(), tuple(tensor.shape)] = tensor.numel() * tensor.element_size()
        return tensor

    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), flop_counter.FlopCounterMode(display=False) as counter:
        model = kind_of(config).from_config(built, dtype=torch.bfloat16).train()
        weights |= {each.untyped_storage()._cdata for each in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long), use_cache=False).logits.float().sum().backward()
        return counter.get_total_flops(), sum(saved.values())


def ours(name: str, folder: Path) -> TransformerSpec:
    """What is read of the config."""
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    parts = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": TOKENS}, "plans": {"a": {}}}
    model = scenario.from_mapping({"model": f"hf:{folder}/config.json", **parts}).model
    assert isinstance(model, TransformerSpec) and num_parameters(model) == PUBLISHED[name]["parameters"]
    return model


def of_ours(model: TransformerSpec, stack: Stack, kind: str = "") -> tuple[int, int]:
    """FLOPs and bytes of one layer here, of this kind or the first."""
    workload = stages_of(toy(model=model, batch=Batch(1, TOKENS, "bf16"), stack=stack), Plan()).workload
    layer = workload.step.segments[kind or model.layout[1][0]]
    tasks = [task for phase in (Phase.F, Phase.B) for task in layer.phases[phase]]
    matmuls = [flops(task, workload.sizes) for task in tasks if isinstance(task, Compute) and task.kernel == "einsum"]
    return sum(int(each[0]) for each in matmuls), sum(int(workload.sizes.num_bytes(each)[0]) for each in layer.kept[Phase.F])


LAYERS = ("gemma-2b", "gemma-3-1b", "gemma-3-4b", "phi-3-mini", "phi-4", "qwen3-8b", "mistral-nemo-12b", "smollm3-3b")
LAYERS += ("pythia-160m", "stablelm-2-1.6b", "phi-4-mini", "granite-3.0-8b", "olmo-2-7b")
LAYERS += ("hunyuan-7b", "exaone-4.0-1.2b", "jais-2-8b", "cwm-32b", "internlm3-8b")
# Layers that the code of theirs keeps other bytes of: steps of a GELU, a norm in float32, attention of its own, masks wider than a
# byte, tables of positions made again.
OTHERS = (
    "gemma-2-2b",
    "falcon-7b",
    "falcon-rw-1b",
    "gpt-j-6b",
    "phi-1.5",
    "command-r7b",
    "opt-1.3b",
    "opt-350m",
    "apertus-8b",
    "bloom-560m",
    "mpt-7b",
    "starcoder2-3b",
    "roberta-base",
    "glm-4-9b",
    "glm-4-9b-0414",
    "ernie-4.5-0.3b",
    "seed-oss-36b",
)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_does_the_flops_of_theirs_and_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    model = ours(name, tmp_path)
    (one, _), (two, _) = (of_theirs(name, number, "eager") for number in (1, 2))
    assert two - one == of_ours(model, replace(STACK, attention="unfused"))[0]
    (_, one), (_, two) = (of_theirs(name, number, "fused") for number in (1, 2))
    copy = 2 * TOKENS * model.num_heads * model.head_dim  # a CPU's kernel has heads first, so that a copy is kept beside its result
    sums = 2 * 4 * TOKENS * model.qk_norm_whole  # of queries and of keys, numbers of a row
    assert two - one - copy == of_ours(model, replace(STACK, attention="flash"))[1] - sums


@pytest.mark.parametrize("name", OTHERS)
def test_a_layer_does_the_flops_of_theirs(name: str, tmp_path: Path) -> None:
    (one, _), (two, _) = (of_theirs(name, number, "eager") for number in (1, 2))
    assert two - one == of_ours(ours(name, tmp_path), replace(STACK, attention="unfused"))[0]


FULL, LOCAL = "full_attention", "sliding_attention"


@pytest.mark.parametrize("types", [(FULL,), (LOCAL, FULL)], ids=lambda types: types[0])
@pytest.mark.parametrize("name", ["gemma-4-31b"])
def test_a_layer_of_either_kind_of_heads_does_the_flops_of_theirs_and_keeps_its_bytes(
    name: str, types: tuple[str, ...], tmp_path: Path
) -> None:
    model, kind = ours(name, tmp_path), "full_layer" if types[0] == FULL else "layer"
    models = [[*types], [types[0], *types]]
    (one, _), (two, _) = (of_theirs(name, len(each), "eager", layer_types=each) for each in models)
    assert two - one == of_ours(model, replace(STACK, attention="unfused"), kind)[0]
    (_, one), (_, two) = (of_theirs(name, len(each), "fused", layer_types=each) for each in models)
    copy = 2 * TOKENS * model.num_heads * model.heads_of(full=types[0] == FULL)[1]
    assert two - one - copy == of_ours(model, replace(STACK, attention="flash"), kind)[1]
