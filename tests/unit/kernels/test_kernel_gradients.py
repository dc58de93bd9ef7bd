"""Every gradient kernel against central differences of its forward kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parsim_kernels import KERNELS

Array = npt.NDArray[Any]

H = 1e-5  # truncation is H^2 and rounding 1e-16 / H: both near 1e-10
TOLERANCE = 1e-7  # the two above times values and slopes of some tens


def call(kernel: str, *inputs: Array, **attributes: object) -> tuple[Array, ...]:
    return KERNELS[kernel](inputs, attributes)[0]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def differences(forward: Callable[..., Array], inputs: Sequence[Array], which: int, d_y: Array) -> Array:
    """d_inputs[which] of the sum of d_y x forward(*inputs), one element at a time."""
    gradient = np.zeros(inputs[which].shape)
    for index in np.ndindex(gradient.shape):
        values = []
        for sign in (1, -1):
            moved = [array.copy() for array in inputs]
            moved[which][index] += sign * H
            values.append(float((forward(*moved) * d_y).sum()))
        gradient[index] = (values[0] - values[1]) / (2 * H)
    return gradient


def check(forward: Callable[..., Array], inputs: Sequence[Array], which: int, d_y: Array, gradient: Array) -> None:
    np.testing.assert_allclose(gradient, differences(forward, inputs, which, d_y), rtol=TOLERANCE, atol=TOLERANCE)


def test_the_gradients_of_a_contraction_are_contractions() -> None:
    x, w, d_y = draw(2, 3, 4), draw(4, 2, 3), draw(2, 3, 2, 3)

    def forward(x: Array, w: Array) -> Array:
        return call("einsum", x, w, expr="B S D, D K C -> B S K C")[0]

    check(forward, (x, w), 0, d_y, call("einsum", d_y, w, expr="B S K C, D K C -> B S D")[0])
    check(forward, (x, w), 1, d_y, call("einsum", x, d_y, expr="B S D, B S K C -> D K C")[0])


def test_the_gradient_of_a_bias_is_sum_to() -> None:
    x, b, d_y = draw(2, 3, 2, 4), draw(2, 4), draw(2, 3, 2, 4, seed=1)
    gradient = call("sum_to", d_y, expr="B S K C -> K C")[0]
    check(lambda x, b: call("bias", x, b, expr="B S K C, K C -> B S K C")[0], (x, b), 1, d_y, gradient)


def test_layer_norm() -> None:
    x, gamma, beta, d_y = draw(2, 3, 5), draw(5), draw(5, seed=1), draw(2, 3, 5, seed=1)

    def forward(*inputs: Array) -> Array:
        return call("layer_norm", *inputs)[0]

    check(forward, (x, gamma, beta), 0, d_y, call("layer_norm_grad_x", x, gamma, d_y)[0])
    check(forward, (x, gamma, beta), 1, d_y, call("layer_norm_grad_gamma", x, d_y)[0])
    check(forward, (x, gamma, beta), 2, d_y, call("sum_to", d_y, expr="B T D -> D")[0])


def test_rms_norm() -> None:
    x, gamma, d_y = draw(2, 3, 5), draw(5), draw(2, 3, 5, seed=1)

    def forward(*inputs: Array) -> Array:
        return call("rms_norm", *inputs)[0]

    check(forward, (x, gamma), 0, d_y, call("rms_norm_grad_x", x, gamma, d_y)[0])
    check(forward, (x, gamma), 1, d_y, call("rms_norm_grad_gamma", x, d_y)[0])


def test_an_rms_norm_in_steps() -> None:
    x, gamma, d_y = draw(2, 3, 5), draw(5), draw(2, 3, 5, seed=1)
    np.testing.assert_allclose(call("gain", call("rms_normalize", x)[0], gamma)[0], call("rms_norm", x, gamma)[0], rtol=1e-14)
    check(lambda *inputs: call("rms_normalize", *inputs)[0], (x,), 0, d_y, call("rms_normalize_grad", x, d_y)[0])
    check(lambda *inputs: call("gain", *inputs)[0], (x, gamma), 0, d_y, call("gain", d_y, gamma)[0])
    check(lambda *inputs: call("gain", *inputs)[0], (x, gamma), 1, d_y, call("gain_grad", x, d_y)[0])


def test_an_rms_norm_of_all_heads_in_two_steps() -> None:
    x, gamma, d_y, d_sum = draw(2, 3, 2, 2, 4), draw(2, 2, 4), draw(2, 3, 2, 2, 4, seed=1), draw(2, 3, seed=2)
    total, told = call("square_sum", x)[0], {"count": 16}
    y = call("rms_norm_by", x, total, gamma, **told)[0]
    np.testing.assert_allclose(y.reshape(2, 3, 16), call("rms_norm", x.reshape(2, 3, 16), gamma.ravel())[0], rtol=1e-14)
    check(lambda x: call("square_sum", x)[0], (x,), 0, d_sum, call("square_sum_grad", x, d_sum)[0])

    def normalize(*inputs: Array) -> Array:
        return call("rms_normalize_by", *inputs, **told)[0]

    def forward(*inputs: Array) -> Array:
        return call("rms_norm_by", *inputs, **told)[0]

    np.testing.assert_allclose(call("gain_by_head", normalize(x, total), gamma)[0], y, rtol=1e-14)
    check(normalize, (x, total), 0, d_y, normalize(d_y, total))
    check(normalize, (x, total), 1, d_y, call("rms_normalize_by_grad_sum", x, total, d_y, **told)[0])
    check(forward, (x, total, gamma), 0, d_y, forward(d_y, total, gamma))
    check(forward, (x, total, gamma), 1, d_y, call("rms_norm_by_grad_sum", x, total, gamma, d_y, **told)[0])
    check(forward, (x, total, gamma), 2, d_y, call("rms_norm_by_grad_gamma", x, total, d_y, **told)[0])
    check(lambda *inputs: call("gain_by_head", *inputs)[0], (x, gamma), 1, d_y, call("gain_by_head_grad", x, d_y)[0])


def test_swiglu_in_steps() -> None:
    gate, up, d_y = 2 * draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2)
    np.testing.assert_allclose(call("multiply", call("silu", gate)[0], up)[0], call("swiglu", gate, up)[0], rtol=1e-14)
    check(lambda *inputs: call("silu", *inputs)[0], (gate,), 0, d_y, call("silu_grad", gate, d_y)[0])
    check(lambda *inputs: call("multiply", *inputs)[0], (gate, up), 1, d_y, call("multiply", d_y, gate)[0])


def test_a_gated_activation_has_a_gradient_for_each_of_its_inputs() -> None:
    gate, up, d_y = 2 * draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2)
    for which, gradient in enumerate(call("swiglu_grad", gate, up, d_y)):
        check(lambda *inputs: call("swiglu", *inputs)[0], (gate, up), which, d_y, gradient)


@pytest.mark.parametrize("shape", [(2, 3, 2, 3, 4), (2, 3, 2, 4)], ids=["queries", "keys"])
def test_rotary_positions(shape: tuple[int, ...]) -> None:
    x, d_y = draw(*shape), draw(*shape, seed=1)
    check(lambda x: call("rotary", x, offset=5)[0], (x,), 0, d_y, call("rotary_grad", d_y, offset=5)[0])


def test_rotary_positions_of_a_part_of_each_row() -> None:
    x, d_y = draw(2, 3, 2, 3, 6), draw(2, 3, 2, 3, 6, seed=1)
    check(lambda x: call("rotary", x, offset=5, part=4)[0], (x,), 0, d_y, call("rotary_grad", d_y, offset=5, part=4)[0])


def test_a_part_of_keys_that_all_heads_share() -> None:
    own, shared, d_y = draw(2, 3, 4, 3), draw(2, 3, 2, seed=1), draw(2, 3, 4, 5, seed=2)
    for which, gradient in enumerate(call("append_grad", d_y, part=2)):
        check(lambda *inputs: call("append", *inputs)[0], (own, shared), which, d_y, gradient)


@pytest.mark.parametrize("kernel", ["gelu", "quick_gelu", "relu", "squared_relu"])
def test_activations(kernel: str) -> None:
    x, d_y = 2 * draw(4, 5), draw(4, 5, seed=1)
    assert np.abs(x).min() > 10 * H  # no element near the corner of relu
    check(lambda x: call(kernel, x)[0], (x,), 0, d_y, call(f"{kernel}_grad", x, d_y)[0])


def test_tanh() -> None:
    x, d_y = draw(4, 5), draw(4, 5, seed=1)
    check(lambda x: call("tanh", x)[0], (x,), 0, d_y, call("tanh_grad", call("tanh", x)[0], d_y)[0])


@pytest.mark.parametrize("offset", [0, 3])
def test_the_first_token_is_on_the_rank_whose_part_starts_at_zero(offset: int) -> None:
    x, d_y = draw(2, 3, 5), draw(2, 5, seed=1)
    check(lambda x: call("first", x, offset=offset)[0], (x,), 0, d_y, call("first_grad", d_y, offset=offset, length=3)[0])


def test_the_gradient_of_dropout_is_dropout() -> None:
    x, d_y, mask = draw(4, 5), draw(4, 5, seed=1), np.arange(20).reshape(4, 5) % 3 > 0
    check(lambda x: call("dropout", x, mask, p=0.25)[0], (x,), 0, d_y, call("dropout", d_y, mask, p=0.25)[0])


def test_softmax() -> None:
    x, d_y = draw(3, 5), draw(3, 5, seed=1)
    check(lambda x: call("softmax", x)[0], (x,), 0, d_y, call("softmax_grad", call("softmax", x)[0], d_y)[0])


@pytest.mark.parametrize("num_keys, query_offset", [(4, 0), (7, 3)])
def test_causal_softmax(num_keys: int, query_offset: int) -> None:
    scores, d_y = draw(1, 2, 2, 4, num_keys), draw(1, 2, 2, 4, num_keys, seed=1)

    def forward(scores: Array) -> Array:
        return call("causal_softmax", scores, scale=0.7, query_offset=query_offset)[0]

    check(forward, (scores,), 0, d_y, call("causal_softmax_grad", forward(scores), d_y, scale=0.7)[0])


def test_unfused_scale_and_softmax_have_the_gradient_of_the_fused() -> None:
    scores, d_y = draw(1, 2, 2, 4, 4), draw(1, 2, 2, 4, 4, seed=1)

    def forward(scores: Array) -> Array:
        return call("softmax", call("causal_scale", scores, scale=0.7)[0])[0]

    d_scaled = call("softmax_grad", forward(scores), d_y)[0]
    check(forward, (scores,), 0, d_y, call("scale_grad", d_scaled, scale=0.7)[0])


def test_the_softmax_of_an_encoder_has_the_gradient_of_the_causal_one_and_of_its_steps() -> None:
    scores, d_y = draw(1, 2, 2, 4, 5), draw(1, 2, 2, 4, 5, seed=1)

    def forward(scores: Array) -> Array:
        return call("scaled_softmax", scores, scale=0.7)[0]

    def steps(scores: Array) -> Array:
        return call("softmax", call("scale", scores, scale=0.7)[0])[0]

    check(forward, (scores,), 0, d_y, call("causal_softmax_grad", forward(scores), d_y, scale=0.7)[0])
    check(steps, (scores,), 0, d_y, call("scale_grad", call("softmax_grad", steps(scores), d_y)[0], scale=0.7)[0])


@pytest.mark.parametrize("mask", [{"query_offset": 0}, {"query_offset": 2}, {"causal": 0}], ids=["square", "offset", "both ways"])
def test_flash_attention(mask: dict[str, int]) -> None:
    num_keys = 4 + mask.get("query_offset", 1)
    q, k, v, d_o = draw(2, 4, 2, 3, 2), draw(2, num_keys, 2, 2), draw(2, num_keys, 2, 3, seed=1), draw(2, 4, 2, 3, 3, seed=1)
    attributes = {"scale": 0.6, **mask}

    def forward(*inputs: Array) -> Array:
        return call("flash_attention", *inputs, **attributes)[0]

    o, lse = call("flash_attention", q, k, v, **attributes)
    for which, gradient in enumerate(call("flash_attention_grad", q, k, v, o, lse, d_o, **attributes)):
        check(forward, (q, k, v), which, d_o, gradient)


def test_lookup_adds_up_repeated_tokens_and_leaves_out_other_shards() -> None:
    tokens, table, d_y = np.array([[3, 5, 3], [0, 4, 9]]), draw(3, 4), draw(2, 3, 4)  # rows 3, 4, 5
    gradient = call("lookup_grad", tokens, d_y, table, offset=3)[0]
    check(lambda table: call("lookup", tokens, table, offset=3)[0], (table,), 0, d_y, gradient)


def test_position() -> None:
    x, table, d_y = draw(2, 3, 4), draw(6, 4), draw(2, 3, 4, seed=1)
    gradient = call("position_grad", d_y, table, offset=2)[0]
    check(lambda x, table: call("position", x, table, offset=2)[0], (x, table), 1, d_y, gradient)


def test_cross_entropy_of_logits() -> None:
    logits, labels = draw(2, 3, 5), np.array([[0, 4, 2], [1, 1, 3]])

    def loss(logits: Array) -> Array:
        (maximum,) = call("row_max", logits)
        (exponentials,) = call("shifted_exp", logits, maximum)
        (losses,) = call("token_loss", call("row_sum", exponentials)[0], maximum, call("pick", logits, labels, offset=0)[0])
        return call("loss_sum", losses, scale=0.25)[0]

    (maximum,) = call("row_max", logits)
    (exponentials,) = call("shifted_exp", logits, maximum)
    (probabilities,) = call("normalize", exponentials, call("row_sum", exponentials)[0])
    gradient = call("cross_entropy_grad", probabilities, labels, offset=0, scale=0.25)[0]
    check(loss, (logits,), 0, np.array(1.0), gradient)
    of_logs, of_logits = call("nll_loss_grad", probabilities, labels, offset=0, scale=0.25)
    np.testing.assert_allclose(of_logits, gradient, rtol=1e-14)
    np.testing.assert_array_equal(of_logs, -0.25 * (np.arange(logits.shape[-1]) == labels[..., None]))
