"""The rows of published models have exactly the weights that were published, counted from the ops that use them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from hf_configs import PUBLISHED as CONFIGS
from parsim import catalog
from parsim.cost.buckets import weight_elements
from parsim.cost.sizes import sizes_of
from parsim.model import parameters
from parsim.model.parameters import model_flops_per_token, num_active_parameters, num_parameters
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.plans import Plans
from parsim.scenario.huggingface import row
from parsim.scenario.rows import SCHEMAS, read
from parsim.step.lower import lower
from parsim.step.structure import Structure
from support import DTYPES

# KerasHub's presets (keras-team/keras-hub, gpt2_presets.py and qwen_presets.py, `params`) for GPT-2 and Qwen2.5; the hub's safetensors
# metadata of meta-llama/Llama-2-7b-hf, -13b-hf, -70b-hf, Meta-Llama-3-8B, -70B, Llama-3.1-405B, mistralai/Mistral-7B-v0.1,
# Mixtral-8x7B-v0.1, -8x22B-v0.1, Llama-3.2-1B, -3B and Qwen/Qwen3-0.6B to -32B (a tied embedding once), -30B-A3B, -235B-A22B,
# deepseek-ai/DeepSeek-V2, -V2-Lite,
# nvidia/NVIDIA-Nemotron-Nano-9B-v2, google/vit-base-patch16-224, -large-patch16-224; of ViT-H torchvision's vit_h_14 with images of 224;
# of LLaVA-1.5 transformers' LlavaForConditionalGeneration, 7,063,427,072 and 13,351,494,656, less a layer and a norm that nothing reads.
PUBLISHED = {
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "nemotron-nano-9b-v2": 8_888_227_328,
    "vit-base-patch16-224": 86_567_656,
    "vit-large-patch16-224": 304_326_632,
    "vit-huge-patch14-224": 632_045_800,
    "llava-1.5-7b": 7_063_427_072 - 12_598_272,
    "llava-1.5-13b": 13_351_494_656 - 12_598_272,
}
# Billions a token, as printed: Jiang et al. 2024 (arXiv:2401.04088), section 1; mistral.ai, "Cheaper, Better, Faster, Stronger" (8x22B);
# model cards of Qwen/Qwen3-30B-A3B and -235B-A22B; DeepSeek-AI 2024 (arXiv:2405.04434), abstract; Kimi Team 2025 (arXiv:2507.20534),
# table 2: 32.6, which is without one embedding, 31.7, or nearly so with both, 32.9; Moonshot AI 2025 (arXiv:2502.16982), table 5.
ACTIVE = {
    **{"mixtral-8x7b": (12.9, 1), "mixtral-8x22b": (39, 0), "qwen3-30b-a3b": (3.3, 1), "qwen3-235b-a22b": (22, 0)},
    **{"deepseek-v2": (21, 0), "deepseek-v3": (37, 0), "kimi-k2": (32.6, 0), "nemotron-3-nano-30b-a3b": (3.6, 1)},
}
# The hub's safetensors metadata of moonshotai/Kimi-K2-Instruct, and of an unquantised deepseek-ai/DeepSeek-V3 without its module for the
# token after next: both count what steers the router of each layer of experts, a number an expert that no gradient trains.
WITH_STEERS = {"deepseek-v3": 671_026_419_200, "kimi-k2": 1_026_408_232_448}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_has_the_parameters_of_the_released_checkpoint(name: str) -> None:
    assert num_parameters(read("models", name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", WITH_STEERS)
def test_a_row_has_the_parameters_of_the_released_checkpoint_but_for_what_steers_routers(name: str) -> None:
    model: TransformerSpec = read("models", name)
    steers = model.num_experts * sum(map(model.has_experts, range(model.num_layers)))
    assert num_parameters(model) + steers == WITH_STEERS[name]


def test_the_module_for_a_later_token_of_deepseek_v3_has_its_published_parameters() -> None:
    """deepseek-ai/DeepSeek-V3, README_WEIGHTS.md: 11.5B of its own, 2.4B active with embedding and head, both without the projection."""
    model = read("models", "deepseek-v3")
    with_it, hidden, table = replace(model, mtp_layers=1), 7168, 129280 * 7168
    layer = num_parameters(replace(model, num_layers=62)) - num_parameters(model)
    own = num_parameters(with_it) - num_parameters(model)
    assert own == layer + 2 * hidden * hidden + 3 * hidden  # two norms and a projection before, a norm behind
    active = num_active_parameters(with_it) - num_active_parameters(model)
    assert [round((count - 2 * hidden * hidden) / 10**9, 1) for count in (own, active + 2 * table)] == [11.5, 2.4]
    flops = (model_flops_per_token(each, 1)[0] for each in (with_it, model))
    attention = 3 * 128 * (192 + 128)  # of a token that sees itself, by half
    assert next(flops) - next(flops) == 6 * (active + table) + 2 * attention  # the embedding multiplies nothing


def test_deepseek_v3_is_the_sum_of_its_matrices() -> None:
    """DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2, written out."""
    hidden, heads, layers, dense, experts = 7168, 128, 61, 3, 256
    attention = hidden * 1536 + 1536 * heads * (128 + 64) + hidden * (512 + 64) + 512 * heads * (128 + 128) + heads * 128 * hidden
    norms = 1536 + 512 + 2 * hidden
    mlp, expert = 3 * hidden * 18432, 3 * hidden * 2048
    sparse = (experts + 1) * expert + experts * hidden
    assert num_parameters(read("models", "deepseek-v3")) == (
        layers * (attention + norms) + dense * mlp + (layers - dense) * sparse + 2 * 129280 * hidden + hidden
    )


# OpenAI 2025 (arXiv:2508.10925), table 1: billions in all and a token, of which the embedding is not counted.
@pytest.mark.parametrize(
    ("name", "layers", "experts", "total", "active"), [("gpt-oss-20b", 24, 32, 20.91, 3.61), ("gpt-oss-120b", 36, 128, 116.83, 5.13)]
)
def test_gpt_oss_is_the_sum_of_its_matrices_and_biases(name: str, layers: int, experts: int, total: float, active: float) -> None:
    hidden, model = 2880, read("models", name)
    heads = (64 + 2 * 8) * 64 * (hidden + 1) + 64 * 64 * hidden + hidden + 64  # queries, keys and values; output; a sink a head
    router, expert = experts * (hidden + 1), 3 * hidden * hidden + 3 * hidden
    embedding = 201088 * hidden
    assert num_parameters(model) == layers * (heads + 2 * hidden + router + experts * expert) + 2 * embedding + hidden
    assert round(num_parameters(model) / 10**9, 2) == total
    assert round((num_active_parameters(model) - embedding) / 10**9, 2) == active


# Model cards of meta-llama/Llama-4-Scout-17B-16E and Llama-4-Maverick-17B-128E: billions, with what reads images.
@pytest.mark.parametrize(("name", "experts", "every", "total"), [("llama4-scout", 16, 1, 109), ("llama4-maverick", 128, 2, 400)])
def test_llama_4_is_the_sum_of_its_matrices(name: str, experts: int, every: int, total: int) -> None:
    hidden, layers, model = 5120, 48, read("models", name)
    heads, expert, mlp = 2 * hidden * hidden + 2 * hidden * 8 * 128, 3 * hidden * 8192, 3 * hidden * 16384
    sparse, dense = layers // every, layers - layers // every
    each = layers * (heads + 2 * hidden) + dense * mlp + 2 * 202048 * hidden + hidden
    assert num_parameters(model) == each + sparse * ((experts + 1) * expert + experts * hidden)
    assert abs(num_parameters(model) / 10**9 - total) < 1.3
    assert num_active_parameters(model) == each + sparse * (2 * expert + experts * hidden)
    assert round(num_active_parameters(model) / 10**9) == 17


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_needs_the_published_share_of_the_parameters(name: str) -> None:
    billions, digits = ACTIVE[name]
    assert abs(num_active_parameters(read("models", name)) / 10**9 - billions) < 10**-digits  # some round, some cut


# The counts are those of huggingface/transformers 5.24, Mamba2ForCausalLM and NemotronHForCausalLM, on meta tensors.
@pytest.mark.parametrize(
    ("name", "exact"),
    [
        *(("mamba2-130m", 128_989_632), ("mamba2-370m", 368_346_624), ("mamba2-780m", 780_161_280), ("mamba2-1.3b", 1_343_757_312)),
        *(("mamba2-2.7b", 2_702_599_680), ("nemotron-h-8b", 8_100_852_736), ("nemotron-h-47b", 46_791_554_816)),
        ("nemotron-3-nano-30b-a3b", 31_577_937_344),
    ],
)
def test_models_of_mamba_layers_have_the_parameters_of_their_released_code(name: str, exact: int) -> None:
    assert num_parameters(read("models", name)) == exact


# In billions, as the names of the released models round them.
@pytest.mark.parametrize(
    ("name", "billions"), [("nemotron-h-8b", 8), ("nemotron-h-47b", 47), ("nemotron-h-56b", 56), ("nemotron-nano-12b-v2", 12)]
)
def test_models_of_mamba_layers_are_as_large_as_their_names_say(name: str, billions: int) -> None:
    assert abs(num_parameters(read("models", name)) / 10**9 - billions) < 0.5


# KerasHub's presets bert_base_en_uncased and bert_large_en_uncased (`params`) hold the pooler and no head; the hub's safetensors metadata
# of google-bert/bert-base-uncased and bert-large-uncased the pooler, this head and the two-way next-sentence classifier.
@pytest.mark.parametrize(
    ("name", "backbone", "released"), [("bert-base", 109_482_240, 110_106_428), ("bert-large", 335_141_888, 336_226_108)]
)
def test_bert_has_the_parameters_of_its_released_checkpoints(name: str, backbone: int, released: int) -> None:
    model = read("models", name)
    width = model.hidden_size
    dense = width * width + width
    head = dense + 2 * width + model.vocab_size  # dense layer, norm, a bias for each token; the embedding is the encoder's
    assert num_parameters(model) - head + dense == backbone
    assert num_parameters(model) + dense + 2 * width + 2 == released


def test_bert_that_labels_texts_is_its_backbone_and_a_row_a_label() -> None:
    model = replace(read("models", "bert-base"), head="text", tied_embedding=False, num_labels=3)
    assert num_parameters(model) == 109_482_240 + 3 * (768 + 1)  # the preset above, and a classifier of three labels


# Parmar et al. 2024 (arXiv:2402.16819), section 2; Nvidia 2024 (arXiv:2406.11704), section 2.1: billions, one decimal.
@pytest.mark.parametrize(("name", "embedding", "others"), [("nemotron-4-15b", 3.1, 12.5), ("nemotron-4-340b", 9.4, 331.6)])
def test_nemotron_has_its_published_parameters_in_and_beside_the_embeddings(name: str, embedding: float, others: float) -> None:
    model = read("models", name)
    embeddings = 2 * model.vocab_size * model.hidden_size
    assert round(embeddings / 10**9, 1) == embedding
    assert round((num_parameters(model) - embeddings) / 10**9, 1) == others


def test_qwen_7b_has_its_published_parameters_beside_the_embeddings() -> None:
    model = read("models", "qwen2.5-7b")  # model card of Qwen/Qwen2.5-7B: 7.61B parameters, 6.53B non-embedding
    beside = num_parameters(model) - 2 * model.vocab_size * model.hidden_size
    assert round(beside / 10**9, 2) == 6.53


@pytest.mark.parametrize("name", catalog.names("models"))
def test_the_weights_of_a_step_are_those_of_the_model(name: str) -> None:
    model: ModelSpec = read("models", name)
    batch, stack, plan = Batch(1, 1), Stack("no padding", vocab_multiple=1), Plan()
    step = lower(Structure.of(model, batch, plan, stack))
    sizes = sizes_of(model, batch, Plans.of([plan]), stack, DTYPES)
    counted = sum(
        copies * int(weight_elements(weight, "whole", sizes)[0])
        for name, copies in model.layout
        for weight in step.segments[name].own_weights
    )
    assert counted == num_parameters(model)


# Of hybrids the rows are those of their papers.
READ = [name for name in catalog.names("models") if name in CONFIGS and read("models", name).family != "hybrid"]


@pytest.mark.parametrize("name", READ)
def test_a_row_is_what_the_released_config_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]["config"]))
    said = SCHEMAS.get("models").schema_of(found := row(tmp_path, name)).model_validate(found).build(name)
    own = read("models", name)
    assert num_parameters(own) == CONFIGS[name]["parameters"]
    assert replace(said, source="") == replace(own, source="")


TRANSFORMERS = [name for name in catalog.names("models") if read("models", name).family == "transformer"]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_flops_of_a_token_are_six_for_each_weight_it_meets(name: str) -> None:
    model: TransformerSpec = read("models", name)
    rows = (model.max_positions + model.position_offset if model.positions == "learned" else 0) + model.num_token_types
    table = (rows + 2 * (model.norm_last or model.embedding_norm)) * model.hidden_size  # an encoder's embedding ends with a norm
    untied = 0 if model.tied_embedding else model.vocab_size * model.hidden_size
    assert parameters.without_input(model) == num_active_parameters(model) - table - untied
    whole, unmasked = model_flops_per_token(model, 1024)
    full = 2 * model.full_head_dim or model.head_dim + (model.v_head_dim or model.head_dim)  # of layers that see all
    own = model.head_dim + (model.v_head_dim or model.head_dim)
    widths = [full if model.form(layer).full else own for layer in range(model.num_layers)]
    each = [6 * model.num_heads * width for width in widths]  # 12 L s d_attention in all, where keys and values are as wide
    seen = [min(model.window_of(layer) or 1024, 1024) for layer in range(model.num_layers)]
    # without those before the window; no chunk is as short
    attention = sum(one * (1024**2 - (1024 - w) ** 2) for one, w in zip(each, seen, strict=True)) // 1024
    assert (whole, whole - unmasked) == (6 * parameters.without_input(model) + attention, attention // 2 if model.causal else 0)


def test_an_mlp_has_a_matrix_and_a_bias_between_any_two_layers_of_units() -> None:
    # Srivastava et al. 2014, table 2: three hidden layers of 1024 units; 784 pixels, 10 digits
    sizes = (784, 1024, 1024, 1024, 10)
    matrices = [n * m + m for n, m in pairwise(sizes)]
    model = read("models", "mnist-mlp-3x1024")
    assert num_parameters(model) == sum(matrices)
    assert model_flops_per_token(model, 1) == (6 * sum(matrices) - 2 * matrices[0],) * 2  # pixels need no gradient


def test_an_mlp_without_layers_has_one_hidden_layer() -> None:
    # Simard et al. 2003, table 1: a two-layer MLP of 800 hidden units
    model = replace(read("models", "mnist-mlp-3x1024"), num_layers=0, hidden_size=800)
    assert num_parameters(model) == 784 * 800 + 800 + 800 * 10 + 10


def test_a_gated_mlp_has_half_as_many_weights_again() -> None:
    plain = replace(read("models", "llama2-7b"), activation="squared_relu")
    gated = replace(plain, activation="swiglu")
    assert num_parameters(gated) - num_parameters(plain) == int(np.prod([32, 4096, 11008], dtype=np.int64))
