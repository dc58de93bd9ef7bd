"""A model of Mamba-2 layers and others by hand: the recurrence of Dao and Gu 2024 (arXiv:2405.21060), Eq. 1 and 2, token after token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parsim.model.families.hybrid import ATTENTION, DENSE, EXPERTS, HALVES, MAMBA, HybridSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, chain
from parsim.verify.by_hand import Forwards, attention, embedding, feed_forward, head, later_token, mixed_experts, residual
from parsim.verify.encoder_by_hand import FORWARDS as OTHERS
from parsim_kernels.signature import Array

PullbackOfTwo = Callable[[Array], tuple[Array, Array]]


def hybrid(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch."""
    model = run.job.spec
    assert isinstance(model, HybridSpec)
    x, back = embedding(run, model, (int(run.job.sizes.dims["B"][0]), run.job.model.batch.sequence_length))
    pullbacks = [back]
    branches: dict[str, tuple[str, Callable[..., Valued]]] = {
        MAMBA: ("norm1", _mixer),
        ATTENTION: ("norm1", attention),
        DENSE: ("norm2", feed_forward),
    }
    for i, letter in enumerate(model.letters):
        second = (EXPERTS if model.num_experts else DENSE) if letter in HALVES else ""
        for half in (HALVES.get(letter, letter), *second):
            norm, branch = branches.get(half, ("norm2", mixed_experts))
            x, back = residual(run, model, f"layer{i}", norm, branch, x)
            pullbacks.append(back)
    last, later = head(run, model, x), later_token(run, model, x) if model.mtp_layers else None
    return chain(*pullbacks, lambda dy: last(dy) + later(dy) if later else last(dy))


def _mixer(run: Arithmetic, model: HybridSpec, at: str, x: Array) -> Valued:
    (z, z_back), (xbc, xbc_back), (dt, dt_back) = (run.dense(f"{at}/{name}", x) for name in ("z", "xbc", "dt"))
    convolved, through = _convolution(run, f"{at}/conv", xbc)
    y, scanned = _recurrence(run, model, at, convolved, dt)
    y, normed = _gated_norm(run, f"{at}/mixer_norm", y, z)
    y, out = run.dense(f"{at}/mixer_out", y, summed=3)

    def back(dy: Array) -> Array:
        d_y, d_z = normed(out(dy))
        d_convolved, d_dt = scanned(d_y)
        return z_back(d_z) + xbc_back(through(d_convolved)) + dt_back(d_dt)

    return y, back


def _convolution(run: Arithmetic, name: str, x: Array) -> Valued:
    """Each channel by itself, by a matrix [token, token that it sees] of its weights, and SiLU."""
    weight, bias = run.weights[f"{name}.weight"], run.weights[f"{name}.bias"]
    length, width = x.shape[1], weight.shape[-1]
    back_by = np.subtract.outer(np.arange(length), np.arange(length))
    seen = (back_by >= 0) & (back_by < width)
    column = np.where(seen, width - 1 - back_by, 0)
    matrix = np.where(seen, weight[..., column], 0)  # g f i j
    before = np.einsum("gfij,bjgf->bigf", matrix, x) + bias
    share = 1 / (1 + np.exp(-before))

    def back(dy: Array) -> Array:
        d_before = dy * share * (1 + before * (1 - share))
        d_matrix = np.einsum("bigf,bjgf->gfij", d_before, x)
        for tap in range(width):
            run.gradients[f"{name}.weight"][..., tap] += np.where(seen & (column == tap), d_matrix, 0).sum((-2, -1))
        run.gradients[f"{name}.bias"] += d_before.sum((0, 1))
        return np.asarray(np.einsum("gfij,bigf->bjgf", matrix, d_before))

    return before * share, back


def _recurrence(run: Arithmetic, model: HybridSpec, at: str, xbc: Array, dt: Array) -> tuple[Array, PullbackOfTwo]:
    """What each head's state gives, a token after the other; its pullback gives the gradients of xbc and of dt."""
    inner = dt.shape[-1] * model.mamba_head_dim
    x, b, c = xbc[..., :inner], xbc[..., inner : inner + model.state_size], xbc[..., inner + model.state_size :]
    x = x.reshape(*dt.shape, model.mamba_head_dim)
    rate, skip = -np.exp(run.weights[f"{at}/decay"]), run.weights[f"{at}/skip"]
    steps = np.log1p(np.exp(dt))
    left = np.exp(rate * steps)
    states, state = [], np.zeros((*x.shape[:1], *x.shape[2:], model.state_size))
    y = skip[..., None] * x
    for t in range(x.shape[1]):
        state = left[:, t, ..., None, None] * state + (steps[:, t, ..., None] * x[:, t])[..., None] * b[:, t, :, None, None]
        states.append(state)
        y[:, t] += (state * c[:, t, :, None, None]).sum(-1)

    def back(dy: Array) -> tuple[Array, Array]:
        d_x, d_b, d_c, d_steps = dy * skip[..., None], np.zeros_like(b), np.zeros_like(c), np.zeros_like(steps)
        run.gradients[f"{at}/skip"] += (dy * x).sum((0, 1, -1))
        d_state = np.zeros_like(state)
        for t in reversed(range(x.shape[1])):
            d_state = d_state + dy[:, t, ..., None] * c[:, t, :, None, None]
            d_c[:, t] = (states[t] * dy[:, t, ..., None]).sum((2, 3))
            d_b[:, t] = (d_state * (steps[:, t, ..., None] * x[:, t])[..., None]).sum((2, 3))
            d_added = (d_state * b[:, t, :, None, None]).sum(-1)
            d_x[:, t] += d_added * steps[:, t, ..., None]
            d_left = (d_state * states[t - 1]).sum((-2, -1)) if t else np.zeros_like(left[:, t])
            d_steps[:, t] = (d_added * x[:, t]).sum(-1) + d_left * left[:, t] * rate
            run.gradients[f"{at}/decay"] += (d_left * left[:, t] * steps[:, t]).sum(0) * rate
            d_state = left[:, t, ..., None, None] * d_state
        d_xbc = np.concatenate([d_x.reshape(*xbc.shape[:-1], inner), d_b, d_c], axis=-1)
        return d_xbc, d_steps / (1 + np.exp(-dt))

    return y, back


def _gated_norm(run: Arithmetic, name: str, y: Array, z: Array) -> tuple[Array, PullbackOfTwo]:
    """The norm of y silu(z) over all heads of a group; its pullback gives the gradients of both."""
    share = 1 / (1 + np.exp(-z))
    flat = (*y.shape[:3], -1)
    gamma = run.weights[f"{name}.gamma"]
    unit, through = run.norm(f"{name} without gamma", (y * z * share).reshape(flat), "rms_norm")

    def back(dy: Array) -> tuple[Array, Array]:
        run.gradients[f"{name}.gamma"] += (dy * unit.reshape(y.shape)).sum((0, 1))
        d_gated = through((dy * gamma).reshape(flat)).reshape(y.shape)
        return d_gated * z * share, d_gated * y * (share + z * share * (1 - share))

    return unit.reshape(y.shape) * gamma, back


FORWARDS: Forwards = {**OTHERS, HybridSpec: hybrid}
