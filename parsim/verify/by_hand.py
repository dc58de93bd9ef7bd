"""A step of one rank a second time, in plain numpy from the mathematics: no kernel, no task and no derivation is shared.

Source: Vaswani et al. 2017 (arXiv:1706.03762); Touvron et al. 2023 (arXiv:2302.13971), section 2.2; Devlin et al. 2019
(arXiv:1810.04805); Rumelhart et al. 1986, Nature 323, for the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from parsim.model.blocks import GATED
from parsim.model.dims import COMPUTE, GRADIENT, MASTER, QUANTISED
from parsim.model.families.mlp import MlpSpec
from parsim.model.transformer import TransformerSpec
from parsim.scenario.types import Training
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, alibi_bias, chain
from parsim.verify.beside_by_hand import mlp_and_experts
from parsim.verify.experts_by_hand import experts, number_of, steers_by_hand
from parsim.verify.heads_by_hand import head_projections
from parsim.verify.latent_by_hand import latent_projections
from parsim.verify.lengths_by_hand import labels, sight
from parsim.verify.nf4_by_hand import bytes_in_nf4
from parsim.verify.parallel_by_hand import side_by_side
from parsim.verify.xielu_by_hand import xielu_mlp
from parsim_kernels.signature import Array

if TYPE_CHECKING:
    from parsim.executor.job import Job


Forwards = Mapping[type[Any], Callable[[Arithmetic], Pullback]]  # the loss of a micro_batch, by the spec of a model


class Expected(Struct, frozen=True):
    """What a step of one rank comes to: gradients before they are clipped, and what its memory holds when all else is freed."""

    loss: float
    gradients: dict[str, Array]
    weights: dict[str, Array]
    lasting_bytes: int


def by_hand(job: Job, forwards: Forwards) -> Expected | None:
    """The first step of a job of one rank; None for another family of models, or another optimizer."""
    forward, optimizer = forwards.get(type(job.spec)), OPTIMIZERS_BY_HAND.get(job.step.structure.optimizer)
    if forward is None or optimizer is None:
        return None
    run, (direction, states_of), given, tuning = Arithmetic(job), optimizer, job.training, job.spec.tuning
    for run.micro_batch in range(job.workload.num_micro_batches):
        forward(run)(np.array(1.0))
    gradients = {name: g for name, g in run.gradients.items() if name in run.trained}
    length = np.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
    share = min(1.0, given.max_norm / (length + 1e-6))  # Source: PyTorch, torch.nn.utils.clip_grad_norm_
    updated = {
        name: run.weights[name] - given.learning_rate * direction(given, run.weights[name], g * share) for name, g in gradients.items()
    }
    frozen = {name: weight for name, weight in run.weights.items() if name not in run.trained}
    steers = steers_by_hand(job.spec, job.model.batch.sequence_length) if isinstance(job.spec, TransformerSpec) else {}
    structure = job.step.structure
    copies = job.itemsize(MASTER) * structure.master_weights + job.itemsize(COMPUTE) * structure.narrow_gradients
    # Source: Rajbhandari et al. 2020, section 3.1.
    each = job.itemsize(COMPUTE) + job.itemsize(GRADIENT) * (not structure.frees_gradients) + copies + states_of(job.itemsize(MASTER))
    scalars = 2 * 4  # the loss and the norm of the gradients
    lasting = each * sum(g.size for g in gradients.values()) + scalars
    towers = tuple(f"layer{i}/" for i in range(job.spec.first_stack if job.spec.image_tokens else 0))
    for name, weight in frozen.items():  # in 4 bits the matrices of layers, but for those of a vision tower
        in_4_bits = tuning.quantization and name.startswith("layer") and name.endswith(".weight") and "router" not in name
        in_4_bits = in_4_bits and "shared_expert_gate" not in name and not name.startswith(towers)
        lasting += bytes_in_nf4(weight.size, double=tuning.double_quantization) if in_4_bits else weight.size * job.itemsize(COMPUTE)
    lasting += 2 * 4 * sum(each.size for each in steers.values())  # biases that steer choices, and counts of these
    if structure.narrows and not structure.narrows.by_row:  # the layouts of what linear layers multiply, made once a step
        count = sum(run.weights[name].size for name in run.weights if run.is_narrow_matrix(name))
        lasting += len(structure.lasting_layouts) * (job.itemsize(QUANTISED) * count)
        lasting -= job.itemsize(COMPUTE) * count * structure.narrow_alone
        frozen = {name: weight for name, weight in frozen.items() if not (structure.narrow_alone and run.is_narrow_matrix(name))}
    return Expected(run.loss, gradients, frozen | updated | steers, lasting)


def _adamw(given: Training, weight: Array, g: Array) -> Array:
    """The first step of Adam, whose unbiased means are g and g g: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2."""
    return np.asarray(g / (np.abs(g) + given.eps) + given.weight_decay * weight)


def _sgd(given: Training, weight: Array, g: Array) -> Array:
    """The first step of SGD, whose velocity is the gradient."""
    return g


def activation(kind: str, x: Array) -> Valued:
    """A nonlinearity of one input, and its derivative."""
    match kind:
        case "relu":
            value, slope = np.maximum(x, 0), (x > 0).astype(x.dtype)
        case "squared_relu":
            value, slope = np.maximum(x, 0) ** 2, 2 * np.maximum(x, 0)
        case "tanh":
            value, slope = np.tanh(x), 1 / np.cosh(x) ** 2
        case "quick_gelu":  # the same section
            share = 1 / (1 + np.exp(-1.702 * x))
            value, slope = x * share, share + 1.702 * x * share * (1 - share)
        case "gelu":  # x times the logistic function of 2 u: its tanh form, Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2
            root = np.sqrt(8 / np.pi)
            share = 1 / (1 + np.exp(-root * (x + 0.044715 * x**3)))
            value, slope = x * share, share + x * share * (1 - share) * root * (1 + 3 * 0.044715 * x**2)
        case _:
            raise KeyError(kind)
    return value, lambda dy: dy * slope


def softcap(x: Array, cap: float) -> Valued:
    """c tanh(x / c), or x where c is 0: Gemma Team 2024 (arXiv:2408.00118), section 2."""
    return (cap * np.tanh(x / cap), lambda dy: dy / np.cosh(x / cap) ** 2) if cap else (x, lambda dy: dy)


def transformer(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch of a decoder or an encoder."""
    model = run.job.spec
    assert isinstance(model, TransformerSpec)
    shape = int(run.job.sizes.dims["B"][0]), run.job.model.batch.sequence_length
    x, first = embedding(run, model, shape)
    pullbacks = [first]
    for i in range(model.num_layers):
        x, back = transformer_layer(run, model, f"layer{i}", x)
        pullbacks.append(back)
    last, later = head(run, model, x), later_token(run, model, x) if model.mtp_layers else None
    return chain(*pullbacks, lambda dy: last(dy) + later(dy) if later else last(dy))


def transformer_layer(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Valued:
    """A layer of this number, or that of a module for a later token."""
    if model.parallel_block:
        return side_by_side(run, model, at, x, attention, feed_forward)
    x, attended = residual(run, model, at, "norm1", attention, x)
    x, back = residual(run, model, at, "norm2", mixed_experts if model.has_experts(number_of(model, at)) else feed_forward, x)
    scale = model.layer_scale or 1.0
    return scale * x, chain(attended, back, lambda dy: scale * dy)


def embedding(run: Arithmetic, model: TransformerSpec, shape: tuple[int, int]) -> Valued:
    """The residual stream of so many sequences and tokens."""
    x, words = run.lookup("embedding/word.weight", run.draw("embedding", "tokens", *shape))
    tables: list[Pullback] = [lambda dy: words(dy * model.embedding_scale)]
    x = x * model.embedding_scale
    if model.embedding_size:
        x, through = run.dense("embedding/project_in", x)
        tables = [chain(*tables, through)]
    if model.positions == "learned":
        more, back = run.lookup("embedding/position.weight", np.broadcast_to(np.arange(shape[1]), shape))
        x, tables = x + more, [*tables, back]
    if model.num_token_types:
        more, back = run.lookup("embedding/token_type.weight", run.draw("embedding", "token_types", *shape))
        x, tables = x + more, [*tables, back]

    def lookup(dy: Array) -> Array:
        for back in tables:
            back(dy)
        return dy

    pullbacks: list[Pullback] = [lookup]
    if (model.norm_last and not model.unnormed_embedding) or model.embedding_norm:
        x, back = run.norm("embedding/norm", x, model.norm)
        pullbacks.append(back)
    if model.embedding_dropped:
        x, back = run.dropout("embedding", "embedding_mask", x)
        pullbacks.append(back)
    return x, chain(*pullbacks)


def residual(run: Arithmetic, model: TransformerSpec, at: str, norm: str, branch: Callable[..., Valued], x: Array) -> Valued:
    """x plus a branch of it, with norms before the branch, behind it or behind the sum."""
    name = f"{at}/{norm}"
    form = model.form(number_of(model, at))
    is_bare = model.norm_last or model.norm_after or (form.unnormed if norm == "norm1" else form.experts and model.experts_beside_mlp)
    entering, before = (x, lambda dy: dy) if is_bare else run.norm(name, x, model.norm)
    y, through = branch(run, model, at, entering)
    y, after = run.norm(f"{name}_behind", y, model.norm) if model.sandwich_norm or model.norm_after else (y, lambda dy: dy)
    mask = f"{norm.removesuffix('norm1')}attention_mask" if norm.endswith("norm1") else "mlp_mask"
    y, dropped = run.dropout(at, _mask(at, mask), y * model.residual_scale)
    inside = chain(before, through, after, lambda dy: dropped(dy) * model.residual_scale)
    if not model.norm_last:
        return x + y, lambda dy: dy + inside(dy)
    y, behind = run.norm(name, x + y, model.norm)

    def back(dy: Array) -> Array:
        d_sum = behind(dy)
        return d_sum + inside(d_sum)

    return y, back


def attention(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Valued:
    """Attention of x to itself."""
    project = latent_projections if model.kv_lora_rank else head_projections
    *read, projections = project(run, model, at, x)
    q, k, v = run.in_8_bits(at, *read)  # q: B S K R C; k, v: B S K C
    root = np.sqrt(q.shape[-1]) if model.scores_scaled else 1.0
    scores, uncapped = softcap(np.einsum("bskrc,bzkc->bkrsz", q, k) / root, model.attn_logit_softcapping)
    if model.positions == "alibi":
        scores = scores - alibi_bias(model.num_heads, x.shape[1]).reshape(scores.shape[1:])
    seen = sight(run, x.shape[1], model.window_of(number_of(model, at)), model.attention_chunk, is_causal=model.causal)
    scores = np.where(seen, scores, -np.inf)
    sinks = run.weights[f"{at}/sinks"][..., None, None] if model.attention_sinks else -np.inf
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    shares = odds / (odds.sum(-1, keepdims=True) + np.exp(sinks - scores.max(-1, keepdims=True)))
    is_dropped = model.scores_dropped and run.job.model.stack.attention != "flash"
    mixing, dropped = (shares, lambda dy: dy) if not is_dropped else run.dropout(at, _mask(at, "scores_mask"), shares)
    y, out = run.dense(f"{at}/out", np.einsum("bkrsz,bzkc->bskrc", mixing, v), summed=3)

    def back(dy: Array) -> Array:
        (d_mixed,) = run.in_8_bits(at, out(dy), gradient=True)
        d_shares = dropped(np.einsum("bskrc,bzkc->bkrsz", d_mixed, v))
        mean = (shares * d_shares).sum(-1, keepdims=True)
        if model.attention_sinks:  # a key whose value is 0
            run.gradients[f"{at}/sinks"] -= ((1 - shares.sum(-1, keepdims=True)) * mean).sum((0, 3, 4))
        d_scores = uncapped(shares * (d_shares - mean)) / root
        d_q, d_k = np.einsum("bkrsz,bzkc->bskrc", d_scores, k), np.einsum("bkrsz,bskrc->bzkc", d_scores, q)
        return projections(d_q, d_k, np.einsum("bkrsz,bskrc->bzkc", mixing, d_mixed))

    return y, back


def _mask(at: str, name: str) -> str:
    return name if at.startswith("layer") else f"mtp_{name}"


def mixed_experts(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Valued:
    """The experts of each token, beside those that all tokens pass, or an MLP."""
    if model.experts_beside_mlp:
        return mlp_and_experts(run, model, at, x, up_and_down)
    y, back = experts(run, model, at, x, up_and_down)
    if not model.shared_ffn_hidden_size:
        return y, back
    more, through = feed_forward(run, model, at, x, "shared_")
    if not model.shared_expert_gate:
        return y + more, lambda dy: back(dy) + through(dy)
    row = f"{at}/shared_expert_gate.weight"
    gate = 1 / (1 + np.exp(-x @ run.weights[row]))

    def back_by_gate(dy: Array) -> Array:
        d_logit = (dy * more).sum(-1) * gate * (1 - gate)
        run.gradients[row] += np.tensordot(d_logit, x, 2)
        return np.asarray(back(dy) + through(dy * gate[..., None]) + d_logit[..., None] * run.weights[row])

    return y + more * gate[..., None], back_by_gate


def feed_forward(run: Arithmetic, model: TransformerSpec, at: str, x: Array, of: str = "") -> Valued:
    """The MLP of a layer, or one beside its experts."""
    if model.activation == "xielu":
        return xielu_mlp(run, at, x)
    return up_and_down(model, lambda name, x: run.dense(f"{at}/{of}{name}", x), x)


def up_and_down(model: TransformerSpec, dense: Callable[[str, Array], Valued], x: Array) -> Valued:
    """An MLP of these linear layers."""
    up, up_back = dense("up", x)
    if model.activation not in GATED:
        active, through = activation(model.activation, up)
        y, down = dense("down", active)
        return y, chain(up_back, through, down)
    gate, gate_back = dense("gate", x)
    steep, most, more = (1.702, 7.0, 1.0) if model.activation == "clamped_swiglu" else (1.0, np.inf, 0.0)  # openai/gpt-oss, torch/model.py
    is_free, is_free_up = gate < most, abs(up) < most
    own, through = activation("gelu", gate) if model.activation == "geglu" else _swish(np.minimum(gate, most), steep)
    up = np.clip(up, -most, most) + more
    y, down = dense("down", own * up)

    def back(dy: Array) -> Array:
        d_active = down(dy)
        return gate_back(through(d_active * up) * is_free) + up_back(d_active * own * is_free_up)

    return y, back


def _swish(x: Array, steep: float) -> Valued:
    share = 1 / (1 + np.exp(-steep * x))
    return x * share, lambda dy: dy * share * (1 + steep * x * (1 - share))


def later_token(run: Arithmetic, model: TransformerSpec, x: Array) -> Pullback:
    """The weighted loss of the token after the next: DeepSeek-AI 2024 (arXiv:2412.19437), Eq. 21 to 25."""
    words, looked_up = run.lookup("embedding/word.weight", run.draw("head", "mtp_tokens", *x.shape[:2]))
    pairs = []
    for name, each in (("hidden", x), ("embedding", words)):
        normed, before = run.norm(f"head/mtp_{name}_norm", each, model.norm)
        projected, through = run.dense(f"head/mtp_{name}", normed)
        pairs.append((projected, chain(before, through)))
    (hidden, to_x), (embedded, to_words) = pairs
    y, layer = transformer_layer(run, model, "head", hidden + embedded)
    y, last = run.norm("head/mtp_norm", y, model.norm)
    logits, output = vocabulary(run, model, y)
    scale = model.mtp_loss_weight / (run.job.model.batch.global_batch * x.shape[1])
    loss = chain(layer, last, output, run.cross_entropy(logits, run.draw("head", "mtp_labels", *x.shape[:2]), scale))

    def back(dy: Array) -> Array:
        d_projected = loss(dy)
        looked_up(to_words(d_projected))
        return to_x(d_projected)

    return back


def head(run: Arithmetic, model: TransformerSpec, x: Array) -> Pullback:
    """From the last layer to the loss."""
    pullbacks: list[Pullback] = []
    (batch, length, _), per_text = x.shape, 1 / run.job.model.batch.global_batch
    if not model.norm_last:
        x, back = run.norm("head/norm", x, model.norm)
        pullbacks.append(back)
    if model.head == "text":
        return chain(*pullbacks, _text_head(run, x, per_text))
    if model.head == "token":
        x, dropped = run.dropout("head", "head_mask", x)
        logits, back = run.dense("head/label", x, transposed=True)
        return chain(
            *pullbacks, dropped, back, run.cross_entropy(logits, run.draw("head", "token_labels", batch, length), per_text / length)
        )
    if model.head == "masked_token":
        x, dense = run.dense("head/dense", x)
        x, through = activation("gelu" if model.activation in GATED else model.activation, x)
        x, normed = run.norm("head/dense_norm", x, model.norm)
        pullbacks += [dense, through, normed]
    if model.embedding_size:
        x, narrow = run.dense("head/project_out", x)
        pullbacks.append(narrow)
    logits, back = vocabulary(run, model, x)
    words, is_trained, per_token = labels(run, batch, length)
    return chain(*pullbacks, back, run.cross_entropy(logits, words, per_token, is_trained))


def vocabulary(run: Arithmetic, model: TransformerSpec, x: Array) -> Valued:
    """Logits of all tokens."""
    words = next(name for name in run.weights if name.endswith("embedding/word.weight"))
    name = words if model.tied_embedding else f"head/{'output' if model.mtp_layers else 'word'}.weight"
    table, bias = run.weights[name], "head/word.bias"
    logits, uncapped = softcap((x @ table.T + run.weights.get(bias, 0.0)) * model.logit_scale, model.final_logit_softcapping)
    logits[..., model.vocab_size :] = -np.inf  # padding is no word

    def back(dy: Array) -> Array:
        dy = uncapped(dy) * model.logit_scale
        run.gradients[name] += np.einsum("bsv,bsd->vd", dy, x)
        if bias in run.weights:
            run.gradients[bias] += dy.sum((0, 1))
        return np.asarray(dy @ table)

    return logits, back


def _text_head(run: Arithmetic, x: Array, scale: float) -> Pullback:
    """A label a text, from its first token: google-research/bert, run_classifier.py (`create_model`)."""

    def first(dy: Array) -> Array:
        d_x = np.zeros_like(x)
        d_x[:, 0] = dy
        return d_x

    pooled, dense = run.dense("head/pooler", x[:, 0])
    pooled, through = activation("tanh", pooled)
    pooled, dropped = run.dropout("head", "pooled_mask", pooled)
    logits, back = run.dense("head/label", pooled, transposed=True)
    return chain(first, dense, through, dropped, back, run.cross_entropy(logits, run.draw("head", "text_labels", len(x)), scale))


def mlp(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch of dense layers with a nonlinearity between them."""
    model = run.job.spec
    assert isinstance(model, MlpSpec)
    batch, length = int(run.job.sizes.dims["B"][0]), run.job.model.batch.sequence_length
    x, back = run.dense("embedding/input", run.draw("embedding", "features", batch, length, model.num_features))
    pullbacks = [back]

    def active(instance: str, name: str, x: Array) -> Array:
        y, through = activation(model.activation, x)
        y, dropped = run.dropout(instance, f"{name}_mask", y)
        pullbacks.extend((through, dropped))
        return y

    for at in (f"layer{i}" for i in range(model.num_layers)):
        for name, matrix in (("enter", "up"), ("inner", "down")):
            x, back = run.dense(f"{at}/{matrix}", active(at, name, x))
            pullbacks.append(back)
    logits, back = run.dense("head/label", active("head", "enter", x), transposed=True)
    scale = 1 / (run.job.model.batch.global_batch * length)
    return chain(*pullbacks, back, run.cross_entropy(logits, run.draw("head", "row_labels", batch, length), scale))


FORWARDS: Forwards = {TransformerSpec: transformer, MlpSpec: mlp}
# The direction of the first update, and the bytes of an element's states; of 8 bits: Dettmers et al. 2022 (arXiv:2110.02861), section 2.
OPTIMIZERS_BY_HAND: Mapping[str, tuple[Callable[[Training, Array, Array], Array], Callable[[int], int]]] = {
    "adamw": (_adamw, lambda weight: weight + weight),
    "precision_aware_adamw": (_adamw, lambda weight: 2 + 2),
    "adamw_8bit": (_adamw, lambda weight: 1 + 1),
    "paged_adamw": (_adamw, lambda weight: 0),  # on the device
    "paged_adamw_8bit": (_adamw, lambda weight: 0),
    "sgd_momentum": (_sgd, lambda weight: weight),
}
