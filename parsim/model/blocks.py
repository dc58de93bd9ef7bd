"""A transformer layer as ops: attention and MLP, each with its norm before it and a residual add behind, or the norm behind that.

The GPT layer has LayerNorm, biases, dropout and GELU; that of Llama RMSNorm, rotary positions and a gated MLP, without biases.
Source: Vaswani et al. 2017 with the pre-norm of GPT-2; which tensors live and what they weigh follows Korthikanti et al. 2022
(arXiv:2205.05198), section 4.1; the Llama layer Touvron et al. 2023 (arXiv:2302.13971), section 2.2; BERT's, with
norms behind and attention both ways, Devlin et al. 2019 (arXiv:1810.04805), section 3.  The ends stand in ends.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from parsim.model.dims import COMPUTE, FLOAT32, MASK
from parsim.model.experts import STEER, expert_weights, experts
from parsim.model.form import LayerForm
from parsim.model.latent import latent_projections, latent_weights
from parsim.model.norms import norm, norm_weights, plain_rms_norm, rms_norm, whole_rms_norm
from parsim.model.op import COUNT, Block, Op, OpAttributes
from parsim.model.transformer import GATE_STEPS, TransformerArchitecture

# Regions of a layer, by the names of Megatron Core (transformer/transformer_config.py, recompute_modules).
CORE_ATTENTION, MLP, LAYER_NORM, MOE = "core_attn", "mlp", "layernorm", "moe"
GATED = ("swiglu", "geglu", "clamped_swiglu")  # activations of two up projections
XIELU = "xielu"  # an activation with two numbers of its own
_NUMBERS = ("alpha_p", "alpha_n")
DROP = (("p", "dropout"),)
_SCALE: OpAttributes = (("scale", "rsqrt:C"),)
RESIDUAL_SCALE: OpAttributes = (("scale", "residual_scale"),)
_UNSCALED: OpAttributes = (("scale", 1.0),)
_PLACES: OpAttributes = (("query_offset", "offset:Q"), ("key_offset", "offset:Z"))
_SLOPES: OpAttributes = (("slopes", "slopes:A"),)
_HEADS = {"q": "K R C", "k": "K C", "v": "K C"}
_TURNED = ("q", "k")  # what rotary positions turn, and what has norms of its own
ATTENTION_CAP = "attn_logit_softcapping"  # the figure that says it
SHARED_GATE = "shared_expert_gate.weight"
_NORMS_BESIDE = ("mlp_behind", "experts_before", "experts_behind")  # where an MLP stands beside experts
_ROUTER_NORM = "router_norm"
_SHARED = "shared_"  # before the names of what all tokens pass beside their experts


def transformer_layer(form: LayerForm, kind: TransformerArchitecture, *, attention: str, fusions: tuple[str, ...]) -> Block:
    """A layer of a decoder or an encoder; `form`, `kind` and `fusions` say which ops exist and share a kernel."""
    has_experts = form.experts
    if kind.parallel_block:
        ops = tuple(_side_by_side(form, kind, attention, fusions))
    else:
        inner = (_beside_experts if kind.experts_beside_mlp else _experts) if has_experts else _mlp
        ops = (*_attention(form, kind, attention, fusions), *inner(kind, fusions))
    if kind.scales_layer:
        last: OpAttributes = (("scale", "layer_scale"),)
        ops = (*ops[:-1], replace(ops[-1], outputs=("unscaled",)))
        ops = (*ops, Op("layer_scale", "B T D -> B T D", ("unscaled",), ("y",), "scale", attributes=last, in_place=True))
    beside = has_experts and kind.experts_beside_mlp
    dense = () if has_experts and not beside else (*_ups(kind), "down")
    heads = () if kind.latent else tuple(_HEADS)[: 2 if kind.keys_as_values else 3]
    biased = (*(heads if kind.qkv_bias else ()), *("out",) * kind.biases_out, *(dense if kind.biases_mlp else ()))
    shared = tuple(f"{_SHARED}{each}" for each in (*_ups(kind), "down")) if has_experts and kind.shared_experts else ()
    weights = {
        **{
            name: initial
            for each in (*kind.norms[form.unnormed :], *_NORMS_BESIDE * beside)
            for name, initial in norm_weights(each, kind).items()
        },
        **{f"{each}_norm.gamma": "ones" for each in _TURNED if kind.qk_norm and kind.qk_norm_weights},
        **({f"{_ROUTER_NORM}.gamma": "ones"} if beside else {}),
        **(latent_weights(kind) if kind.latent else {}),
        **{f"{each}.weight": "normal" for each in (*heads, "out", *dense, *shared)},
        **{f"{each}.bias": "zeros" for each in biased},
        **({"sinks": "normal"} if kind.sinks else {}),
        **(dict.fromkeys(_NUMBERS, "normal") if kind.activation == XIELU else {}),
        **({SHARED_GATE: "normal"} if shared and kind.shared_expert_gate else {}),
        **(expert_weights(_ups(kind), kind) if has_experts else {}),
    }
    steers = (STEER,) if has_experts and kind.steers else ()
    return Block(form.name, ops, weights, totals=tuple(COUNT + name for name in steers), steers=steers)


def in_region(region: str, ops: Iterable[Op]) -> Iterator[Op]:
    """The ops as parts of a region."""
    return (replace(op, tag=region) for op in ops)


def _enter(name: str, x: str, norm_name: str, kind: TransformerArchitecture, fusions: tuple[str, ...], region: str = "") -> Iterator[Op]:
    is_normed = kind.norms_first and norm_name != ""
    if is_normed:
        # Where a norm and the GEMM behind it are one module, it belongs to what that GEMM belongs to.
        yield from in_region(region if "norm_gemm" in fusions else LAYER_NORM, norm(norm_name, x, kind, fusions))
    yield Op(f"enter_{name}", "B T D -> B S D", (norm_name if is_normed else x,), (f"{name}_in",), "relabel", tag=region)


def _attention(form: LayerForm, kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Iterator[Op]:
    *norms, entry = _enter("attention", "x", "" if form.unnormed else "norm1", kind, fusions)
    yield from norms
    yield from _heads(entry, form, kind, attention, fusions)
    yield from _leave_attention(kind, fusions)


def _heads(entry: Op, form: LayerForm, kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Iterator[Op]:
    """From what enters attention to what its last matrix makes."""
    if not kind.query_latent:  # else narrow vectors enter in its place
        yield entry
    yield from latent_projections(entry.inputs[0], kind, fusions) if kind.latent else _projections(form, kind, fusions)
    yield from in_region(CORE_ATTENTION, _core(attention, kind, _mask(form, kind)))
    value = _value_dim(kind)
    yield Op("out_gemm", f"B S K R {value}, K R {value} D -> B S D", ("mixed", "out.weight"), ("out_gemm",))


def _leave_attention(kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    yield Op("leave_attention", "B S D -> B T D", ("out_gemm",), ("attention_out",), "relabel")
    yield from _residual("attention", ("attention_out", "out.bias" * kind.biases_out, "x"), "x1", "norm1", kind, fusions)


def _side_by_side(form: LayerForm, kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Iterator[Op]:
    """Attention and MLP of one input, from one norm or each from its own.

    What their last matrices make is added up before it leaves the block, so that tensor-parallel ranks settle both by one collective;
    dropout drops each by a mask of its own, behind a collective of its own.
    Source: Wang and Komatsuzaki 2021 (GPT-J); EleutherAI/gpt-neox, megatron/model/transformer.py (`gpt_j_residual`), for the collective.
    """
    *norms, entry = _enter("attention", "x", "norm1", kind, fusions)
    *more, own = _enter("mlp", "x", "norm2", kind, fusions, MLP)
    yield from (*norms, *(() if kind.tied_norm else more))
    yield from _heads(entry, form, kind, attention, fusions)
    if not kind.tied_norm:
        yield own
    *mlp, leave = in_region(MLP, _up_and_down(kind, fusions, x="attention_in" if kind.tied_norm else "mlp_in"))
    yield from mlp
    if kind.dropout:
        yield from (*_leave_attention(kind, fusions), leave, *_residual("mlp", ("mlp_out", _down_bias(kind), "x1"), "y", "", kind, fusions))
        return
    yield Op("join", "B S D, B S D -> B S D", ("out_gemm", "down_gemm"), ("joined",), "add", in_place=True)
    yield Op("leave_layer", "B S D -> B T D", ("joined",), ("layer_out",), "relabel")
    branch = "layer_out"
    if kind.biases_out:
        yield Op("out_bias", "B T D, D -> B T D", (branch, "out.bias"), ("out_biased",), "bias", in_place=True)
        branch = "out_biased"
    yield from _residual("layer", (branch, _down_bias(kind), "x"), "y", "", kind, fusions)


def _projections(form: LayerForm, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    steps = {name: _steps(name, form, kind) for name in _HEADS}
    made = {name: dims for name, dims in _HEADS.items() if name != "v" or not kind.keys_as_values}
    # The three GEMMs stand together: their input gradients add up before the one collective that settles them.
    for name, dims in made.items():
        yield Op(f"{name}_gemm", f"B S D, D {dims} -> B S {dims}", ("attention_in", f"{name}.weight"), (steps[name][0],))
    if kind.qkv_bias:
        for name, dims in made.items():
            yield _bias(f"{name}_bias", f"B S {dims}, {dims} -> B S {dims}", steps[name][0], f"{name}.bias", steps[name][1], fusions)
    for name in _TURNED if _has_qk_norm(form, kind) else ():
        x, y = steps[name][kind.qkv_bias :][:2]
        dims = f"B S {_HEADS[name]}"
        if kind.qk_norm_whole:
            yield from whole_rms_norm(f"{name}_norm", x, fusions, out=y, dims=_HEADS[name], wide=kind.norm_in_float32)
        elif kind.qk_norm_by_head:
            expr = f"{dims}, {_HEADS[name]} -> {dims}"
            yield Op(f"{name}_norm", expr, (x, f"{name}_norm.gamma"), (y,), "layer_norm_by_head")
        elif kind.qk_norm_weights:
            yield from rms_norm(f"{name}_norm", x, fusions, out=y, dims=dims, wide=kind.norm_in_float32)
        else:
            yield Op(f"{name}_norm", f"{dims} -> {dims}", (x,), (y,), "rms_normalize")
    if kind.values_normed:
        x = steps["k" if kind.keys_as_values else "v"][kind.qkv_bias]
        yield from plain_rms_norm("v_norm", x, fusions, out="v", dims=f"B S {_HEADS['v']}")
    if _turns(form, kind):
        for name in _TURNED:
            expr = f"B S {_HEADS[name]} -> B S {_HEADS[name]}"
            # In place: its gradient needs the positions only.
            told: OpAttributes = (("offset", "offset:S"), *((("part", "extent:r"),) if kind.partly_turned else ()))
            yield Op(f"{name}_rotary", expr, (steps[name][-2],), (name,), "rotary", attributes=told, in_place=True)


def _turns(form: LayerForm, kind: TransformerArchitecture) -> bool:
    return kind.positions == "rotary" and not form.unturned


def _has_qk_norm(form: LayerForm, kind: TransformerArchitecture) -> bool:
    """One without weights goes with positions: huggingface/transformers, modeling_llama4.py (`Llama4TextAttention`)."""
    return kind.qk_norm and (kind.qk_norm_weights or _turns(form, kind))


def _steps(name: str, form: LayerForm, kind: TransformerArchitecture) -> list[str]:
    """The names that a projection of the input bears, from GEMM to use."""
    there = {"gemm": True, "biased": kind.qkv_bias}
    if name in _TURNED:
        there |= {"normed": _has_qk_norm(form, kind), "turned": _turns(form, kind)}
    else:
        there |= {"normed": kind.values_normed}
    steps = [f"{name}_{step}" for step, is_there in there.items() if is_there]
    return [*steps[:-1], name]


def _value_dim(kind: TransformerArchitecture) -> str:
    return "v" if kind.latent else "C"


def _mask(form: LayerForm, kind: TransformerArchitecture) -> OpAttributes:
    """What kernels are told that mask scores; nothing where all tokens see one another."""
    has_window = kind.window != "" and not form.full
    if not kind.causal and not has_window:
        return ()
    window: OpAttributes = (("window", "extent:w"), ("chunked", int(kind.window == "chunked")))
    sides: OpAttributes = () if kind.causal else (("two_sided", 1),)
    return (*_PLACES, *((*window, *sides) if has_window else ()))


def _core(attention: str, kind: TransformerArchitecture, mask: OpAttributes) -> Iterator[Op]:
    """Scores, softmax and the mix of values.  The flash kind stores no scores; it applies no attention dropout (a stated rule)."""
    yield Op("queries", "B S K R C -> B Q A R C", ("q",), ("queries",), "relabel")
    yield Op("keys", "B S K C -> B Z A C", ("k",), ("keys",), "relabel")
    value = _value_dim(kind)
    yield Op("values", f"B S K {value} -> B Z A {value}", ("v",), ("values",), "relabel")
    if kind.sinks:  # stacks keep them in float32
        yield Op("sinks_cast", "K R -> K R", ("sinks",), ("sinks32",), "cast", (FLOAT32,))
        yield Op("enter_sinks", "K R -> A R", ("sinks32",), ("sinks_in",), "relabel", (FLOAT32,))
    yield from _scores_and_mix(attention, kind, mask)
    yield Op("leave_core", f"B Q A R {value} -> B S K R {value}", ("attended",), ("mixed",), "relabel")


def _scores_and_mix(attention: str, kind: TransformerArchitecture, mask: OpAttributes) -> Iterator[Op]:
    scale = _SCALE if kind.scores_scaled else _UNSCALED
    value, told, scores, lowers = _value_dim(kind), (*scale, *mask), "scores", kind.positions == "alibi"
    has_biases = kind.positions == "relative"
    if attention == "flash" and not has_biases:
        expr = f"B Q A R C, B Z A C, B Z A {value}{', A R' * kind.sinks} -> B Q A R {value}, B A R Q"
        inputs, outputs = ("queries", "keys", "values", *(["sinks_in"] if kind.sinks else [])), ("attended", "log_sum_exp")
        name = "sink_attention" if kind.sinks else "flash_attention"
        told = (*told, *((("cap", ATTENTION_CAP),) if kind.caps_scores else ()), *_SLOPES * lowers, *(() if mask else (("causal", 0),)))
        yield Op("flash", expr, inputs, outputs, name, (COMPUTE, FLOAT32), told)
        return
    yield Op("scores", "B Q A R C, B Z A C -> B A R Q Z", ("queries", "keys"), ("scores",))
    same = "B A R Q Z -> B A R Q Z"
    if kind.caps_scores:  # between the factor and the mask
        yield Op("factor", same, ("scores",), ("factored",), "scale", attributes=_SCALE)
        yield Op("cap", same, ("factored",), ("capped",), "softcap", attributes=(("cap", ATTENTION_CAP),))
        scores, told = "capped", (("scale", 1.0), *mask)
    if has_biases:  # which mask, too
        if kind.scores_scaled:
            yield Op("scale", same, (scores,), ("scaled",), "scale", attributes=_SCALE)
            scores = "scaled"
        yield Op("add_biases", "B A R Q Z, A R Q Z -> B A R Q Z", (scores, "biases"), ("biased",), "bias", in_place=True)
        yield Op("softmax", same, ("biased",), ("probabilities",), "softmax")
    elif attention == "unfused" or kind.sinks or lowers:
        yield Op("scale", same, (scores,), ("scaled",), "causal_scale" if mask else "scale", attributes=told)
        scores = "scaled"
        if lowers:
            yield Op("lower", same, (scores,), ("lowered",), "alibi", attributes=(*_PLACES, *_SLOPES), in_place=True)
            scores = "lowered"
        if kind.sinks:
            yield Op("softmax", "B A R Q Z, A R -> B A R Q Z", (scores, "sinks_in"), ("probabilities",), "sink_softmax")
        else:
            yield Op("softmax", same, (scores,), ("probabilities",), "softmax")
    else:
        yield Op("softmax", same, (scores,), ("probabilities",), "causal_softmax" if mask else "scaled_softmax", attributes=told)
    mixing = "probabilities"
    if kind.dropout and kind.scores_dropped:
        mixing = "dropped"
        yield Op("scores_mask", "-> B A R Q Z", (), ("scores_mask",), "draw", (MASK,))
        expr = "B A R Q Z, B A R Q Z -> B A R Q Z"
        yield Op("scores_dropout", expr, ("probabilities", "scores_mask"), ("dropped",), "dropout", attributes=DROP)
    yield Op("mix", f"B A R Q Z, B Z A {value} -> B Q A R {value}", (mixing, "values"), ("attended",))


def _ups(kind: TransformerArchitecture) -> tuple[str, ...]:
    return ("gate", "up") if kind.activation in GATED else ("up",)


def _down_bias(kind: TransformerArchitecture) -> str:
    return "down.bias" * kind.biases_mlp


def _mlp(kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    yield from _enter("mlp", "x1", "norm2", kind, fusions, MLP)
    yield from in_region(MLP, _up_and_down(kind, fusions))
    yield from _residual("mlp", ("mlp_out", _down_bias(kind), "x1"), "y", "norm2", kind, fusions)


def _experts(kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """A norm, the experts of each token, and beside them those that all tokens pass."""
    x = "norm2" if kind.norms_first else "x1"
    if kind.norms_first:
        yield from in_region(LAYER_NORM, norm(x, "x1", kind, fusions))
    yield from in_region(MOE, experts(x, "experts_out" if kind.shared_experts else "mlp_out", _ups(kind), kind, fusions))
    if kind.shared_experts:
        yield from in_region(MOE, _shared_experts(x, kind, fusions))
    yield from _residual("mlp", ("mlp_out", "", "x1"), "y", "norm2", kind, fusions)


def _beside_experts(kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """An MLP, and experts beside it whose router reads a norm of its own: huggingface/transformers, modeling_gemma4.py
    (`Gemma4TextDecoderLayer`, `Gemma4TextRouter`)."""
    yield from _enter("mlp", "x1", "norm2", kind, fusions, MLP)
    yield from in_region(MLP, _up_and_down(kind, fusions))
    yield from in_region(LAYER_NORM, norm("mlp_behind", "mlp_out", kind, fusions))
    yield from in_region(MOE, rms_norm(_ROUTER_NORM, "x1", fusions, out=f"{_ROUTER_NORM}ed", dims="B T D"))
    told: OpAttributes = (("scale", "rsqrt:D"),)
    yield Op("router_scale", "B T D -> B T D", (f"{_ROUTER_NORM}ed",), ("router_in",), "scale", attributes=told, tag=MOE)
    yield from in_region(LAYER_NORM, norm("experts_before", "x1", kind, fusions))
    yield from in_region(MOE, experts("experts_before", "experts_out", _ups(kind), kind, fusions, routed="router_in"))
    yield from in_region(LAYER_NORM, norm("experts_behind", "experts_out", kind, fusions))
    both = ("mlp_behind", "experts_behind")
    yield Op("add_experts", "B T D, B T D -> B T D", both, ("both_out",), "add", in_place=True, tag=MOE)
    yield from _residual("mlp", ("both_out", "", "x1"), "y", "norm2", kind, fusions)


def _shared_experts(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """What all tokens pass, perhaps by a gate of its own: huggingface/transformers, modeling_qwen2_moe.py (`Qwen2MoeSparseMoeBlock`)."""
    if kind.shared_expert_gate:
        yield Op("shared_expert_gate_gemm", "B T D, D -> B T", (x, SHARED_GATE), ("shared_expert_logit",))
        yield Op("shared_expert_gate", "B T -> B T", ("shared_expert_logit",), ("shared_expert_gate",), "sigmoid")
    yield Op("enter_shared", "B T D -> B S D", (x,), (f"{_SHARED}mlp_in",), "relabel")
    yield from _up_and_down(kind, fusions, _SHARED, "L")
    out = f"{_SHARED}mlp_out"
    if kind.shared_expert_gate:
        yield Op("weigh_shared", "B T D, B T -> B T D", (out, "shared_expert_gate"), ("shared_weighed",), "weigh")
        out = "shared_weighed"
    yield Op("add_shared", "B T D, B T D -> B T D", ("experts_out", out), ("mlp_out",), "add", in_place=True)


def _up_and_down(
    kind: TransformerArchitecture, fusions: tuple[str, ...], of: str = "", dim: str = "F", *, x: str = "mlp_in"
) -> Iterator[Op]:
    """The ops between `x`, which enters an MLP, and its result; `of`: what its names begin with, `dim`: its width."""
    hidden = tuple(of + ("hidden" if name == "up" else name) for name in _ups(kind))
    before = tuple(f"{of}{name}_gemm" for name in _ups(kind)) if kind.biases_mlp else hidden
    for name, out in zip(_ups(kind), before, strict=True):
        yield Op(f"{of}{name}_gemm", f"B S D, D {dim} -> B S {dim}", (of + x, f"{of}{name}.weight"), (out,))
    same = f"B S {dim} -> B S {dim}"
    if kind.biases_mlp:
        for name, out in zip(_ups(kind), hidden, strict=True):
            yield _bias(f"{of}{name}_bias", f"B S {dim}, {dim} -> B S {dim}", f"{of}{name}_gemm", f"{of}{name}.bias", out, fusions)
    # Without a bias nothing but a GEMM stands before it, into which the stacks do not fuse it.
    fused = "gelu" in fusions and kind.biases_mlp
    expr = f"B S {dim}, {same}" if len(hidden) > 1 else same
    if kind.activation in GATE_STEPS and "swiglu" not in fusions:  # F.silu(gate) * up: each keeps what it reads
        yield Op(f"{of}swish", same, hidden[:1], (f"{of}swish",), GATE_STEPS[kind.activation], fused=fused)
        yield Op(f"{of}activation", expr, (f"{of}swish", *hidden[1:]), (f"{of}active",), "multiply")
    else:
        numbers = _NUMBERS if kind.activation == XIELU else ()
        expr = f"B S {dim}, {', '.join('o' for _ in numbers)} -> B S {dim}" if numbers else expr
        yield Op(f"{of}activation", expr, (*hidden, *numbers), (f"{of}active",), kind.activation, fused=fused)
    active = f"{of}active"
    if kind.dropped_inside and kind.dropout:
        yield Op(f"{of}active_mask", f"-> B S {dim}", (), (f"{of}active_mask",), "draw", (MASK,))
        expr, inputs = f"B S {dim}, {same}", (active, f"{of}active_mask")
        yield Op(f"{of}active_dropout", expr, inputs, (f"{of}active_dropped",), "dropout", attributes=DROP)
        active = f"{of}active_dropped"
    yield Op(f"{of}down_gemm", f"B S {dim}, {dim} D -> B S D", (active, f"{of}down.weight"), (f"{of}down_gemm",))
    yield Op(f"leave_{of}mlp", "B S D -> B T D", (f"{of}down_gemm",), (f"{of}mlp_out",), "relabel")


def _bias(name: str, expr: str, x: str, bias: str, y: str, fusions: tuple[str, ...]) -> Op:
    # In place: libraries add the bias in the GEMM's epilogue or over its output.
    return Op(name, expr, (x, bias), (y,), "bias", in_place=True, fused="bias" in fusions or "gemm_bias" in fusions)


def _residual(
    name: str, inputs: tuple[str, str, str], out: str, norm_name: str, kind: TransformerArchitecture, fusions: tuple[str, ...]
) -> Iterator[Op]:
    """Bias, dropout, residual add and last norm, as far as they are there; fused, each but the norm joins the kernel of the one before."""
    branch, bias, skip = inputs
    has_bias = bias != ""
    fused = "dropout_add" in fusions
    added = f"{name}_added" if kind.norm_last else out
    if has_bias:
        yield Op(
            f"{name}_bias", "B T D, D -> B T D", (branch, bias), (f"{name}_biased",), "bias", in_place=True, fused="gemm_bias" in fusions
        )
        branch = f"{name}_biased"
    if kind.norms_branches:
        yield from in_region(LAYER_NORM, norm(f"{norm_name}_behind", branch, kind, fusions))
        branch, has_bias = f"{norm_name}_behind", False  # nothing joins a norm
    if kind.scales_residual:
        yield Op(f"{name}_scale", "B T D -> B T D", (branch,), (f"{name}_scaled",), "scale", attributes=RESIDUAL_SCALE)
        branch, has_bias = f"{name}_scaled", False
    same = "B T D, B T D -> B T D"
    if kind.dropout:
        mask, dropped = f"{name}_mask", f"{name}_dropped"
        yield Op(mask, "-> B T D", (), (mask,), "draw", (MASK,), fused=fused)
        joins = fused and has_bias
        yield Op(f"{name}_dropout", same, (branch, mask), (dropped,), "dropout", attributes=DROP, in_place=True, fused=joins)
        branch = dropped
    joins = fused and (has_bias or kind.dropout)
    yield Op(f"{name}_add", same, (branch, skip), (added,), "add", in_place=True, fused=joins)
    if kind.norm_last:
        yield from in_region(LAYER_NORM, norm(norm_name, added, kind, fusions, out=out))
