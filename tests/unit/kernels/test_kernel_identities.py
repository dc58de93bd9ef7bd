"""Forward kernels against closed forms, numpy and one another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim_kernels import KERNELS

Array = npt.NDArray[Any]


def call(kernel: str, *inputs: Array, **attributes: object) -> tuple[Array, ...]:
    return KERNELS[kernel](inputs, attributes)[0]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


LETTERS = dict(zip(("B", "S", "Z", "K2", "R", "head_dim"), "abcdef", strict=True))


@settings(max_examples=60, deadline=None)
@given(
    left=st.lists(st.sampled_from(list(LETTERS)), unique=True),
    right=st.lists(st.sampled_from(list(LETTERS)), unique=True),
    order=st.randoms(use_true_random=False),
)
def test_einsum_equals_numpys_bit_by_bit_on_small_integers(left: list[str], right: list[str], order: Any) -> None:
    sizes = {dim: 2 + i for i, dim in enumerate(LETTERS)}
    dims = sorted({*left, *right})
    out = order.sample(dims, order.randint(0, len(dims)))
    rng = np.random.default_rng(0)
    operands = [rng.integers(-2, 3, [sizes[d] for d in term]).astype(float) for term in (left, right)]
    expr = f"{' '.join(left)}, {' '.join(right)} -> {' '.join(out)}"
    short = "{},{}->{}".format(*("".join(LETTERS[d] for d in term) for term in (left, right, out)))
    (product,), flops = KERNELS["einsum"](operands, {"expr": expr})
    assert np.array_equal(product, np.einsum(short, *operands))
    assert flops == 2 * math.prod(sizes[d] for d in dims)


def test_gelu_in_its_tanh_form_is_near_the_one_with_erf() -> None:
    x = np.linspace(-4, 4, 81)
    exact = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])
    assert np.abs(call("gelu", x)[0] - exact).max() < 1e-3  # Hendrycks and Gimpel 2016: an approximation


def test_layer_norm_has_the_mean_of_beta_and_the_deviation_of_gamma() -> None:
    x = 3 + 100 * draw(4, 64)
    y = call("layer_norm", x, np.full(64, 2.0), np.full(64, 5.0))[0]
    np.testing.assert_allclose(y.mean(axis=-1), 5, rtol=1e-12)
    np.testing.assert_allclose(y.std(axis=-1), 2, rtol=1e-8)  # 1e-5 beside a variance near 1e4


def test_causal_softmax_rows_sum_to_one_and_see_no_later_key() -> None:
    y = call("causal_softmax", draw(2, 2, 3, 4, 6), scale=0.5, query_offset=2)[0]
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-14)
    for s in range(4):
        assert not y[..., s, s + 3 :].any()
        assert (y[..., s, : s + 3] > 0).all()


def test_unfused_scale_then_softmax_is_causal_softmax_exactly() -> None:
    scores = draw(2, 2, 3, 4, 4)
    assert np.array_equal(call("softmax", call("causal_scale", scores, scale=0.5)[0])[0], call("causal_softmax", scores, scale=0.5)[0])


@pytest.mark.parametrize("num_keys, query_offset", [(5, 0), (9, 4)])
def test_flash_attention_is_the_unfused_attention_forward_and_backward(num_keys: int, query_offset: int) -> None:
    b, s, heads, r, c = 2, 5, 3, 2, 4
    q, d_o = draw(b, s, heads, r, c), draw(b, s, heads, r, c, seed=1)
    k, v = draw(b, num_keys, heads, c), draw(b, num_keys, heads, c, seed=1)
    mask = {"scale": 1 / math.sqrt(c), "query_offset": query_offset}
    (scores,) = call("einsum", q, k, expr="B S K R C, B Z K C -> B K R S Z")
    (y,) = call("causal_softmax", scores, **mask)
    (d_y,) = call("einsum", d_o, v, expr="B S K R C, B Z K C -> B K R S Z")
    (d_scores,) = call("causal_softmax_grad", y, d_y, scale=mask["scale"])
    unfused = (
        call("einsum", y, v, expr="B K R S Z, B Z K C -> B S K R C")[0],
        call("einsum", d_scores, k, expr="B K R S Z, B Z K C -> B S K R C")[0],
        call("einsum", d_scores, q, expr="B K R S Z, B S K R C -> B Z K C")[0],
        call("einsum", y, d_o, expr="B K R S Z, B S K R C -> B Z K C")[0],
    )
    o, lse = call("flash_attention", q, k, v, **mask)
    for fused, plain in zip((o, *call("flash_attention_grad", q, k, v, o, lse, d_o, **mask)), unfused, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-12)
    (scaled,) = call("causal_scale", scores, **mask)
    np.testing.assert_allclose(lse, np.log(np.exp(scaled).sum(axis=-1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_lookups_in_shards_of_the_vocabulary_sum_to_the_whole(num_shards: int) -> None:
    table, tokens = draw(8, 3), np.array([[0, 7, 3], [4, 4, 1]])
    rows = 8 // num_shards
    parts = [call("lookup", tokens, table[i * rows : (i + 1) * rows], offset=i * rows)[0] for i in range(num_shards)]
    assert np.array_equal(sum(parts), table[tokens])


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_the_gradients_of_vocabulary_shards_are_the_rows_of_the_whole(num_shards: int) -> None:
    table, tokens, d_y = draw(8, 3), np.array([[0, 7, 3], [4, 4, 1]]), draw(2, 3, 3)
    whole = np.einsum("bsv,bsd->vd", np.eye(8)[tokens], d_y)
    shards = np.split(table, num_shards)
    parts = [call("lookup_grad", tokens, d_y, shard, offset=i * len(shard))[0] for i, shard in enumerate(shards)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_the_vocabulary_parallel_loss_is_the_plain_log_softmax(num_shards: int) -> None:
    logits, labels = 5 * draw(2, 3, 8), np.array([[0, 7, 3], [4, 4, 1]])
    shards = np.split(logits, num_shards, axis=-1)
    offsets = [i * 8 // num_shards for i in range(num_shards)]
    maximum = np.max([call("row_max", x)[0] for x in shards], axis=0)
    exponentials = [call("shifted_exp", x, maximum)[0] for x in shards]
    total = np.sum([call("row_sum", e)[0] for e in exponentials], axis=0)
    picked = np.sum([call("pick", x, labels, offset=offset)[0] for x, offset in zip(shards, offsets, strict=True)], axis=0)
    (loss,) = call("token_loss", total, maximum, picked)

    whole = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(np.take_along_axis(whole, labels[..., None], -1)[..., 0]), rtol=1e-12)
    assert call("loss_sum", loss, scale=0.5)[0] == pytest.approx(0.5 * loss.sum(), rel=1e-15)
    gradients = [
        call("cross_entropy_grad", call("normalize", e, total)[0], labels, offset=offset, scale=0.5)[0]
        for e, offset in zip(exponentials, offsets, strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(gradients, axis=-1), 0.5 * (whole - np.eye(8)[labels]), rtol=0, atol=1e-14)


def test_clip_leaves_a_short_gradient_alone_and_brings_a_long_one_to_the_norm() -> None:
    short, long = np.array([0.3, 0.4]), np.array([30.0, 40.0])
    assert np.array_equal(call("clip", short, call("norm_sq", short, scale=1.0)[0], max_norm=1.0)[0], short)
    clipped = call("clip", long, call("norm_sq", long, scale=1.0)[0], max_norm=1.0)[0]
    assert math.sqrt(float(call("norm_sq", clipped, scale=1.0)[0])) == pytest.approx(50 / (50 + 1e-6), rel=1e-12)


def test_norm_sq_of_shards_add_up_as_scalar_arrays() -> None:
    g = np.arange(6.0)  # 0 + 1 + 4 + 9 + 16 + 25 = 55
    parts = [call("norm_sq", half, scale=1.0)[0] for half in np.split(g, 2)]
    (total,) = call("add", *parts)
    assert total.shape == () and isinstance(total, np.ndarray) and total == 55


ADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 0.0, "weight_decay": 0.0, "step": 1}


def test_the_first_step_of_adam_moves_each_weight_by_lr_against_its_gradient() -> None:
    weight, g = draw(5), np.array([-3.0, 0.01, 7.0, -0.2, 1e6])
    moved, m, v = call("adam", weight, np.zeros(5), np.zeros(5), g, **ADAM)
    np.testing.assert_allclose(moved - weight, -0.1 * np.sign(g), rtol=1e-9)  # Kingma and Ba 2015, section 2.1
    np.testing.assert_allclose(m, 0.1 * g, rtol=1e-12)
    np.testing.assert_allclose(v, 0.01 * g * g, rtol=1e-12)


def test_the_second_step_of_adam_is_the_arithmetic_of_its_paper() -> None:
    # m = .9 x 1 + .1 x 3 = 1.2, v = .99 x 2 + .01 x 9 = 2.07; corrected by 1 - .81 = .19 and 1 - .9801 = .0199
    attributes = {**ADAM, "step": 2, "eps": 0.5, "weight_decay": 0.2}
    weight, m, v = call("adam", *(np.array([x]) for x in (10.0, 1.0, 2.0, 3.0)), **attributes)
    assert (m[0], v[0]) == (pytest.approx(1.2), pytest.approx(2.07))
    assert weight[0] == pytest.approx(10 - 0.1 * ((1.2 / 0.19) / (math.sqrt(2.07 / 0.0199) + 0.5) + 0.2 * 10), rel=1e-12)


def test_sgd_is_weight_minus_lr_times_gradient() -> None:
    assert call("sgd", np.array([4.0]), np.array([2.0]), lr=0.5)[0].tolist() == [3.0]


ILL: list[tuple[str, tuple[Array, ...], dict[str, object], str]] = [
    ("einsum", (np.ones((2, 3)), np.ones((4, 5))), {"expr": "B D, D F -> B F"}, "dim D is 3 in one operand and 4 in another"),
    ("einsum", (np.ones(2), np.ones(2)), {"expr": "B, B -> F"}, "stand in no operand"),
    ("einsum", (np.ones((2, 2)), np.ones(2)), {"expr": "B B, B -> B"}, "twice in one term"),
    ("einsum", (np.ones(2), np.ones(2)), {}, "attribute 'expr'"),
    ("bias", (np.ones((2, 3)), np.ones((3, 2))), {"expr": "B D, D B -> B D"}, "is no bias"),
    ("sum_to", (np.ones((2, 3)),), {"expr": "B D -> D B"}, "is no sum"),
    ("add", (np.ones((2, 3)), np.ones(3)), {}, "shapes differ"),
    ("gelu_grad", (np.ones((2, 3)), np.ones((1, 3))), {}, "shapes differ"),
    ("layer_norm", (np.ones((2, 3)), np.ones(1), np.ones(1)), {}, "does not fit the last dim"),
    ("dropout", (np.ones(2), np.ones(2)), {"p": 1.0}, r"not in \[0, 1\)"),
    ("causal_softmax", (np.ones((1, 1, 1, 2, 2)),), {}, "attribute 'scale' is missing"),
    ("causal_softmax", (np.ones((1, 1, 1, 2, 2)),), {"scale": 1.0, "query_offset": -1}, "would see no key"),
    ("flash_attention", (np.ones((1, 2, 3, 1, 4)), np.ones((1, 2, 1, 4)), np.ones((1, 2, 1, 4))), {"scale": 1.0}, "do not fit"),
    ("lookup", (np.ones((1, 2)), np.ones((3, 2))), {"offset": 0}, "are integers"),
    ("lookup_grad", (np.ones((1, 2), int), np.ones((1, 3, 2)), np.ones((3, 2))), {"offset": 0}, "fits no lookup"),
    ("position", (np.ones((1, 3, 2)), np.ones((4, 2))), {"offset": 2}, "leave a table of 4 rows"),
    ("normalize", (np.ones((2, 3)), np.ones(3)), {}, "one value a row"),
    ("pick", (np.ones((2, 3, 4)), np.ones((2, 4), int)), {"offset": 0}, "one label a row"),
    ("clip", (np.ones(2), np.ones(2)), {"max_norm": 1.0}, "scalar array"),
    ("adam", (np.ones(2),) * 4, {**ADAM, "step": 0}, "first step is 1"),
    ("sgd", (np.ones(2), np.ones(2)), {"lr": "small"}, "not a number"),
]


@pytest.mark.parametrize("kernel, inputs, attributes, message", ILL)
def test_what_does_not_fit_is_named(kernel: str, inputs: tuple[Array, ...], attributes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KERNELS[kernel](inputs, attributes)


def test_rotary_positions_are_a_product_with_complex_numbers() -> None:
    x = draw(2, 5, 3, 6)  # Su et al. 2021, equation 13: a pair as a complex number, times exp(i m theta)
    (turned,) = call("rotary", x, offset=2)
    angles = np.arange(2, 7)[:, None, None] * 10000.0 ** (-2 * np.arange(3) / 6)
    expected = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned, np.concatenate((expected.real, expected.imag), axis=-1), rtol=0, atol=1e-14)  # a few roundings


def test_rotary_scores_depend_on_the_distance_of_positions_only() -> None:
    q, k = (np.repeat(draw(1, 1, 1, 8, seed=s), 6, axis=1) for s in (1, 2))  # the same query and key at each of 6 positions
    scores = [call("rotary", q, offset=o)[0][0, :, 0] @ call("rotary", k, offset=o)[0][0, :, 0].T for o in (0, 100)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-12)  # angles near 100 keep 14 digits
    for distance in range(-5, 6):
        assert np.ptp(np.diagonal(scores[0], distance)) < 1e-12


def test_attention_to_one_block_of_keys_after_another_is_attention_to_all() -> None:
    """Queries 4 to 8 of 12 positions, whose keys lie in three blocks, in any order; one block is behind all queries."""
    q, k, v, d_o = draw(2, 4, 2, 3, 4), draw(2, 12, 2, 4, seed=1), draw(2, 12, 2, 4, seed=2), draw(2, 4, 2, 3, 4, seed=3)
    mask = {"scale": 0.5, "query_offset": 4}
    whole = o, lse = call("flash_attention", q, k, v, **mask)
    gradients = call("flash_attention_grad", q, k, v, o, lse, d_o, **mask)
    blocks = [((8, 12),), ((0, 2), (6, 8)), ((2, 6),)]
    pieces = [([token for run in runs for token in range(*run)], {**mask, "key_offset": runs}) for runs in blocks]
    (first, own), *others = pieces
    found = call("flash_attention", q, k[:, first], v[:, first], **own)
    for keys, own in others:
        found = call("flash_attention_more", *found, q, k[:, keys], v[:, keys], **own)
    for mine, theirs in zip(found, whole, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)
    parts = [call("flash_attention_grad", q, k[:, keys], v[:, keys], o, lse, d_o, **own) for keys, own in pieces]
    np.testing.assert_allclose(sum(part[0] for part in parts), gradients[0], atol=1e-13)
    for (keys, _), part in zip(pieces, parts, strict=True):
        np.testing.assert_allclose(part[1], gradients[1][:, keys], atol=1e-13)


def test_a_shard_of_the_sequence_is_turned_as_in_the_whole() -> None:
    x = draw(2, 6, 2, 4)
    (whole,) = call("rotary", x, offset=0)
    assert np.array_equal(whole[:, 4:], call("rotary", x[:, 4:], offset=4)[0])


@pytest.mark.parametrize(("width", "offset"), [(3, 0), (4, -1)])
def test_rotary_refuses_odd_widths_and_negative_positions(width: int, offset: int) -> None:
    with pytest.raises(ValueError, match="from position 0 on"):
        call("rotary", draw(1, 2, 1, width), offset=offset)


def test_rms_norm_is_layer_norm_where_the_mean_is_zero() -> None:
    x, gamma = draw(3, 4, 6), draw(6)
    x -= x.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(call("rms_norm", x, gamma)[0], call("layer_norm", x, gamma, np.zeros(6))[0], rtol=1e-13)


def test_swiglu_is_swish_times_up_and_squared_relu_the_square_of_relu() -> None:
    x, up = draw(4, 5), draw(4, 5, seed=1)
    np.testing.assert_allclose(call("swiglu", x, up)[0], x * (1 + np.tanh(x / 2)) / 2 * up, rtol=1e-13)  # sigmoid by tanh
    assert np.array_equal(call("squared_relu", x)[0], call("relu", x)[0] ** 2)


def test_sgd_with_momentum_is_plain_sgd_at_momentum_0_and_sums_gradients_at_1() -> None:
    weight, velocity, g = np.array([1.0, 2.0]), np.array([0.5, -0.5]), np.array([4.0, 8.0])
    moved, _ = call("sgd_momentum", weight, velocity, g, lr=0.25, momentum=0.0)
    assert np.array_equal(moved, call("sgd", weight, g, lr=0.25)[0])
    assert np.array_equal(call("sgd_momentum", weight, velocity, g, lr=0.25, momentum=1.0)[1], velocity + g)
