"""Which ops and weights a kind of model has; what they compute is the kernels' matter."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict, replace

from parsim.model.blocks import transformer_layer
from parsim.model.dims import DIMS
from parsim.model.ends import embedding, head
from parsim.model.families import blocks_of
from parsim.model.families.dense import DenseSpec
from parsim.model.families.encoder_decoder import EncoderDecoderArchitecture
from parsim.model.families.mlp import MlpArchitecture
from parsim.model.form import LayerForm
from parsim.model.op import Block
from parsim.model.op_kinds import COSTS, KINDS
from parsim.model.spec import Architecture
from parsim.model.transformer import TransformerArchitecture
from parsim.model.tuning import Tuning
from parsim.scenario.rows import read
from parsim_kernels import KERNELS

GPT = TransformerArchitecture(norm="layer_norm", positions="learned", activation="gelu", bias=True, qkv_bias=True, dropout=True)
LLAMA = TransformerArchitecture(norm="rms_norm", positions="rotary", activation="swiglu", bias=False, qkv_bias=False, dropout=False)
MLP = MlpArchitecture(activation="tanh", bias=True, dropout=True)
BERT = replace(GPT, causal=False, norm_last=True, token_types=True, head="masked_token")
MLA = replace(LLAMA, latent=True, query_latent=True)
TRANSLATOR = EncoderDecoderArchitecture(**{**asdict(GPT), "positions": "sinusoidal", "norm_last": True})
CHAIN = DenseSpec.of(name="16 widths", num_features=4, units=tuple(range(1, 17)), num_labels=2, dropout=0.5)
LLAVA = read("models", "llava-1.5-7b").architecture
TUNED = replace(
    read("models", "llama3-8b"), tuning=Tuning(("base",), 8, 16.0, lora_targets=("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"))
)
KINDS_OF_MODEL = {
    "mla": MLA,
    "mla without a latent of queries": replace(MLA, query_latent=False),
    "gpt": GPT,
    "llama": LLAMA,
    "qwen": replace(LLAMA, qkv_bias=True),
    "nemotron": replace(LLAMA, norm="layer_norm", activation="squared_relu"),
    "gated with biases": replace(GPT, activation="swiglu", positions="rotary"),
    "llama with dropout": replace(LLAMA, dropout=True),
    "bert": BERT,
    "bert with norms first": replace(BERT, norm_last=False),
    "bert that labels texts": replace(BERT, head="text"),
    "bert that labels tokens": replace(BERT, head="token"),
    "encoder of llama's ops": replace(LLAMA, causal=False, norm_last=True),
    "experts": replace(LLAMA, layers=(LayerForm(), LayerForm(experts=True)), shared_experts=True, qk_norm=True),
    "experts alone": replace(LLAMA, layers=(LayerForm(experts=True),)),
    "chunks": replace(LLAMA, layers=(LayerForm(), LayerForm(unturned=True)), window="chunked", qk_norm=True, qk_norm_weights=False),
    "a later token": replace(LLAMA, later=LayerForm()),
    "an mlp beside attention": replace(GPT, parallel_block=True, dropout=False, positions="rotary", partly_turned=True, head_bias=True),
    "the same with dropout and one norm": replace(LLAMA, parallel_block=True, tied_norm=True, dropout=True, scaled_logits=True),
    "alibi": replace(GPT, positions="alibi", embedding_norm=True, norm_bias=False, scores_dropped=False),
    "norms of whole queries and keys": replace(LLAMA, qk_norm=True, qk_norm_whole=True, norm_after=True, scales_residual=True),
    "biases of attention": replace(LLAMA, bias=True, qkv_bias=True, mlp_bias=False),
    "adapters": TUNED.architecture,
    "dense layers of 16 widths": CHAIN.architecture,
    "a softmax regression": replace(CHAIN, units=(), num_layers=0).architecture,
    "windows": replace(LLAMA, layers=(LayerForm(), LayerForm(full=True)), window="sliding"),
    "heads of two kinds": replace(
        LLAMA,
        **{"layers": (LayerForm(), LayerForm(full=True)), "window": "sliding", "qk_norm": True, "full_heads": True, "scales_layer": True},
        **{"full_partly_turned": True, "keys_as_values": True, "values_normed": True, "scores_scaled": False},
    ),
    "experts beside an mlp": replace(LLAMA, layers=(LayerForm(experts=True),), experts_beside_mlp=True, sandwich_norm=True),
    "narrow embeddings": replace(GPT, projects_embedding=True, norm_last=True, unnormed_embedding=True),
    "experts of narrow vectors": replace(LLAMA, layers=(LayerForm(experts=True),), expert_latent=True),
    "a nonlinearity with numbers": replace(LLAMA, activation="xielu"),
    "translator": TRANSLATOR,
    "translator with norms first": replace(TRANSLATOR, norm_last=False, positions="learned"),
    "t5": read("models", "t5-small").architecture,
    "flan-t5": replace(read("models", "flan-t5-base").architecture, dropout=False),
    "hybrid": replace(read("models", "nemotron-h-8b").architecture, letters=("M", "*", "-")),
    "images": read("models", "vit-base-patch16-224").architecture,
    "images before text": LLAVA,
    "images before text by one matrix": replace(
        LLAVA, projector="linear", class_token=False, patch_bias=True, first_norm=False, last_norm=True, scales_embedding=True
    ),
    "mlp": MLP,
    "mlp without biases and dropout": replace(MLP, bias=False, dropout=False),
}


def layer(kind: TransformerArchitecture, attention: str = "flash", fusions: tuple[str, ...] = ()) -> Block:
    return transformer_layer(LayerForm(), kind, attention=attention, fusions=fusions)


def kinds(block: Block) -> list[str]:
    return [op.kind for op in block.ops]


def blocks(kind: Architecture) -> list[Block]:
    return [block for attention in ("unfused", "fused_softmax", "flash") for block in blocks_of(kind, attention).values()]


def test_a_llama_layer_has_seven_matrices_and_two_scales() -> None:
    # Touvron et al. 2023, section 2.2: wq, wk, wv, wo, w1, w2, w3 and the weights of two RMSNorms
    names = [f"{name}.weight" for name in ("q", "k", "v", "out", "gate", "up", "down")]
    assert sorted(layer(LLAMA).weights) == sorted(["norm1.gamma", "norm2.gamma", *names])


def test_a_llama_layer_turns_queries_and_keys_and_not_values() -> None:
    assert [op.outputs for op in layer(LLAMA).ops if op.kind == "rotary"] == [("q",), ("k",)]


def test_a_gpt_layer_has_sixteen_weights() -> None:
    assert len(layer(GPT).weights) == 2 * 2 + 2 * 6  # two LayerNorms, and six matrices with a bias each


def test_qwen_has_biases_on_queries_keys_and_values_only() -> None:
    biased = [name for name in layer(KINDS_OF_MODEL["qwen"]).weights if name.endswith(".bias")]
    assert biased == ["q.bias", "k.bias", "v.bias"]


def test_a_model_without_dropout_draws_no_masks() -> None:
    assert "draw" not in kinds(layer(LLAMA, "unfused"))
    assert kinds(layer(GPT, "unfused")).count("draw") == 3  # scores, attention branch, MLP branch


def test_only_learned_positions_have_a_table() -> None:
    assert "position.weight" in embedding(GPT, fusions=()).weights
    assert list(embedding(LLAMA, fusions=()).weights) == ["word.weight"]


def test_the_layers_of_bert_and_gpt_have_the_same_weights_and_other_orders() -> None:
    assert layer(BERT).weights == layer(GPT).weights
    assert kinds(layer(GPT))[:2] == ["layer_norm", "relabel"]
    assert kinds(layer(BERT))[-2:] == ["add", "layer_norm"]


def test_a_layer_of_an_mlp_is_two_dense_layers_with_the_nonlinearity_in_front_of_each() -> None:
    first, middle, last = blocks_of(replace(MLP, dropout=False)).values()
    dense = ["einsum", "bias"]
    assert [[kind for kind in kinds(block) if kind in ("tanh", *dense)] for block in (first, middle)] == [dense, 2 * ["tanh", *dense]]
    assert kinds(last)[:3] == ["tanh", *dense]
    assert [list(block.weights) for block in (first, middle, last)] == [
        [f"{name}.{part}" for name in names for part in ("weight", "bias")] for names in (("input",), ("up", "down"), ("label",))
    ]


def test_an_encoder_has_no_causal_kernel() -> None:
    for attention in ("unfused", "fused_softmax"):
        assert not [kind for kind in kinds(layer(BERT, attention)) if kind.startswith("causal")]
    assert [dict(op.attributes)["causal"] for op in layer(BERT, "flash").ops if op.kind == "flash_attention"] == [0]


def test_the_embedding_of_bert_sums_three_tables_and_its_head_has_a_dense_layer() -> None:
    # Devlin et al. 2019, figure 2; google-research/bert, run_pretraining.py: get_masked_lm_output
    tables = ["word.weight", "position.weight", "token_type.weight"]
    assert list(embedding(BERT, fusions=()).weights) == [*tables, "norm.gamma", "norm.beta"]
    own = {"dense.weight", "dense.bias", "dense_norm.gamma", "dense_norm.beta", "word.bias"}
    assert set(head(replace(BERT, tied=True), fusions=()).weights) == own | {"word.weight"}


@pytest.mark.parametrize("name", KINDS_OF_MODEL)
def test_every_op_reads_what_is_there_and_every_weight_is_read(name: str) -> None:
    for block in blocks(KINDS_OF_MODEL[name]):
        known = {block.input, *block.weights, *(each.name for each in block.passing if each.use == "reads")}
        for op in block.ops:
            assert set(op.inputs) <= known, (block.name, op.name)
            assert not set(op.outputs) - set(block.totals) & known, (block.name, op.name)
            known |= set(op.outputs)
        assert set(block.weights) <= {name for op in block.ops for name in op.inputs}
        assert not block.output or block.output in known


def test_every_dim_has_a_meaning_and_is_used() -> None:
    terms = [term for kind in KINDS_OF_MODEL.values() for block in blocks(kind) for op in block.ops for side in op.terms for term in side]
    used = {dim for term in terms for dim in term}
    # Chunks of the loss are cut in step/chunked.py, adapters of parts of experts have a rank of their own, and no tensor is a window wide,
    # a chunk of a scan, a state, or a part of a wider head.
    assert used | {"s", "w", "c", "m", "rf", "be"} == set(DIMS)


@pytest.mark.parametrize("name", KINDS_OF_MODEL)
def test_an_op_that_runs_in_place_overwrites_nothing_that_is_read_later(name: str) -> None:
    for block in blocks(KINDS_OF_MODEL[name]):
        for index, op in enumerate(block.ops):
            later = {name for each in block.ops[index + 1 :] for name in each.inputs}
            assert not op.in_place or op.inputs[0] not in later | set(block.weights), (block.name, op.name)


def test_without_biases_a_fused_activation_has_no_kernel_to_join() -> None:
    fusions = ("bias", "gelu", "dropout_add")
    assert not any(op.fused for op in layer(LLAMA, fusions=fusions).ops)
    assert {op.name for op in layer(GPT, fusions=fusions).ops if op.fused} >= {"activation", "mlp_dropout", "mlp_add"}


def test_a_gemm_that_adds_its_bias_leaves_no_kernel_that_does() -> None:
    biases = [op for op in layer(GPT, fusions=("gemm_bias",)).ops if op.kind == "bias"]
    assert len(biases) == 6  # of queries, keys, values, output, up and down
    assert all(op.fused and op.in_place for op in biases)
    assert [op.name for op in layer(GPT, fusions=("bias",)).ops if op.kind == "bias" and not op.fused] == ["attention_bias", "mlp_bias"]


def test_every_kernel_of_a_kind_has_a_cost_and_a_numpy_likeness() -> None:
    named = {k.kernel for k in KINDS.values()} | {g.kernel for k in KINDS.values() for g in k.gradients}
    computed = named - {"", "relabel", "draw"}
    assert computed <= set(COSTS)
    assert computed <= set(KERNELS)
