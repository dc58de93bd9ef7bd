"""FLOPs of every kernel against arithmetic written here, and what all kernels promise: pure functions that return fresh float64 arrays.

B=2 S=3 Z=5 D=4 K=2 R=3 C=2 F=6 V=7.  With query_offset = 2 and 5 keys, queries 0, 1, 2 see 3, 4 and 5 keys: 12 pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parsim.model.gates import gate
from parsim_kernels import KERNELS
from parsim_kernels.four_bits import pack
from parsim_kernels.traffic import touched_bytes

Array = npt.NDArray[Any]


def ones(*shape: int) -> Array:
    return np.ones(shape)


def one_to(high: int, *shape: int) -> Array:
    return np.arange(np.prod(shape, dtype=int)).reshape(shape) % high


X, W, ROW = ones(2, 3, 4), ones(4, 6), ones(4)  # 24 elements
SCORES = ones(2, 2, 3, 3, 5)  # B K R S Z: 180 elements
LOGITS, TOKENS = ones(2, 3, 7), one_to(7, 2, 3)  # 42 and 6 elements
Q, KV, LSE = ones(2, 3, 2, 3, 2), ones(2, 5, 2, 2), ones(2, 2, 3, 3)
HEADS = ones(2, 3, 2, 3, 8)
XBC, STEPS, SCANNED, CONV = ones(2, 5, 1, 14), ones(2, 5, 1, 3), ones(2, 5, 1, 3, 2), (ones(1, 14, 4), ones(1, 14))
CHUNKS = {"state": 4, "chunk": 3}
SLOTS = {"run": 3, "tokens": (0, 1, 2, 0, 1, 2), "chosen": ((3, 3), (0, 1, 2, 0, 1, 2))}
MASK = {"scale": 0.5, "query_offset": 2}
ADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 1}

Case = tuple[tuple[Array, ...], dict[str, object], int]
GATED = {**SLOTS, "inner": 3, "loads": (3, 3), "gate": gate("sigmoid"), "scale": 2.5}

CASES: dict[str, Case] = {
    "einsum": ((X, W), {"expr": "B S D, D F -> B S F"}, 2 * 2 * 3 * 4 * 6),
    "absmax": ((X,), {}, 24),
    "quantise": ((X,), {"format": "e4m3", "scale": "fp32", "rows": 2, "across": 0, "along": 0, "layouts": "row col"}, 2 * 24),
    "bias": ((X, ROW), {"expr": "B S D, D -> B S D"}, 24),
    "sum_to": ((X,), {"expr": "B S D -> D"}, 24),
    "layer_norm": ((X, ROW, ROW), {}, 7 * 24),
    "unshifted_layer_norm": ((X, ROW), {}, 6 * 24),
    "layer_norm_by_head": ((HEADS, ones(2, 3, 8)), {}, 6 * 288),
    "layer_norm_by_head_grad_x": ((HEADS, ones(2, 3, 8), HEADS), {}, 13 * 288),
    "layer_norm_by_head_grad_gamma": ((HEADS, HEADS), {}, 7 * 288),
    "square_sum": ((HEADS,), {}, 2 * 288),
    "square_sum_grad": ((HEADS, ones(2, 3)), {}, 288),
    "rms_normalize_by": ((HEADS, ones(2, 3)), {"count": 48}, 288),
    "rms_normalize_by_grad_sum": ((HEADS, ones(2, 3), HEADS), {"count": 48}, 2 * 288),
    "rms_norm_by": ((HEADS, ones(2, 3), ones(2, 3, 8)), {"count": 48}, 2 * 288),
    "rms_norm_by_grad_sum": ((HEADS, ones(2, 3), ones(2, 3, 8), HEADS), {"count": 48}, 3 * 288),
    "rms_norm_by_grad_gamma": ((HEADS, ones(2, 3), HEADS), {"count": 48}, 3 * 288),
    "gain_by_head": ((HEADS, ones(2, 3, 8)), {}, 288),
    "gain_by_head_grad": ((HEADS, HEADS), {}, 2 * 288),
    "layer_norm_grad_x": ((X, ROW, X), {}, 13 * 24),
    "layer_norm_grad_gamma": ((X, X), {}, 7 * 24),
    "rms_norm": ((X, ROW), {}, 4 * 24),
    "rms_norm_grad_x": ((X, ROW, X), {}, 9 * 24),
    "rms_norm_grad_gamma": ((X, X), {}, 5 * 24),
    "rms_normalize": ((X,), {}, 3 * 24),
    "rms_normalize_grad": ((X, X), {}, 8 * 24),
    "gain": ((X, ROW), {}, 24),
    "gain_grad": ((X, X), {}, 2 * 24),
    "sigmoid": ((X,), {}, 3 * 24),
    "sigmoid_grad": ((X, X), {}, 3 * 24),
    "softcap": ((X,), {"cap": 2.0}, 3 * 24),
    "softcap_grad": ((X, X), {"cap": 2.0}, 4 * 24),
    "geglu": ((X, X), {}, 9 * 24),
    "geglu_grad": ((X, X, X), {}, 19 * 24),
    "weighted_geglu": ((X, X, ones(2, 3)), {}, 10 * 24),
    "weighted_geglu_grad": ((X, X, ones(2, 3), X), {}, 31 * 24),
    "clamped_swiglu": ((X, X), {}, 9 * 24),
    "clamped_swiglu_grad": ((X, X, X), {}, 18 * 24),
    "silu": ((X,), {}, 4 * 24),
    "silu_grad": ((X, X), {}, 9 * 24),
    "multiply": ((X, X), {}, 24),
    "gelu": ((X,), {}, 8 * 24),
    "gelu_grad": ((X, X), {}, 16 * 24),
    "relu": ((X,), {}, 24),
    "relu_grad": ((X, X), {}, 24),
    "quick_gelu": ((X,), {}, 5 * 24),
    "quick_gelu_grad": ((X, X), {}, 10 * 24),
    "squared_relu": ((X,), {}, 2 * 24),
    "squared_relu_grad": ((X, X), {}, 3 * 24),
    "swiglu": ((X, X), {}, 5 * 24),
    "swiglu_grad": ((X, X, X), {}, 11 * 24),
    "tanh": ((X,), {}, 24),
    "tanh_grad": ((X, X), {}, 3 * 24),
    "first": ((X,), {"offset": 0}, 0),
    "first_grad": ((ones(2, 4),), {"offset": 0, "length": 3}, 0),
    "take": ((X,), {"chunk": 1, "num_chunks": 3}, 0),
    "join": ((X, X), {}, 0),
    "dropout": ((X, X), {"p": 0.1}, 2 * 24),
    "add": ((X, X), {}, 24),
    "cast": ((X,), {}, 0),
    "dequantise": (pack(X, 1, double=True), {}, X.size),
    "cast_grad": ((X,), {}, 0),
    "causal_softmax": ((SCORES,), dict(MASK), 5 * 180),
    "causal_softmax_grad": ((SCORES, SCORES), {"scale": 0.5}, 4 * 180),
    "causal_scale": ((SCORES,), dict(MASK), 180),
    "scaled_softmax": ((SCORES,), {"scale": 0.5}, 5 * 180),
    "scale": ((SCORES,), {"scale": 0.5}, 180),
    "scale_grad": ((SCORES,), {"scale": 0.5}, 180),
    "softmax": ((SCORES,), {}, 5 * 180),
    "softmax_grad": ((SCORES, SCORES), {}, 4 * 180),
    "alibi": ((SCORES,), {"slopes": (0.5,) * 6}, 2 * 180),
    "sink_softmax": ((SCORES, ones(2, 3)), {}, 5 * 180),
    "sink_softmax_grad": ((SCORES, SCORES), {}, 3 * 180),
    "sinks_grad": ((Q, Q, LSE, ones(2, 3)), {}, 2 * 72),
    "flash_attention": ((Q, KV, KV), dict(MASK), 4 * 2 * 12 * 2 * 2 * 3),  # 4 C pairs B K R
    "flash_attention_more": ((Q, LSE, Q, KV, KV), dict(MASK), 4 * 2 * 12 * 2 * 2 * 3),
    "flash_attention_grad": ((Q, KV, KV, Q, LSE, Q), dict(MASK), 10 * 2 * 12 * 2 * 2 * 3),
    "lookup": ((TOKENS, ones(7, 4)), {"offset": 0}, 0),
    "lookup_grad": ((TOKENS, X, ones(5, 4)), {"offset": 1}, 24),
    "position": ((X, ones(8, 4)), {"offset": 3}, 24),
    "sinusoid": ((X,), {"offset": 3}, 24),
    "position_grad": ((X, ones(8, 4)), {"offset": 3}, 24),
    "relative_biases": ((ones(8, 2, 3),), {"queries": 5, "keys": 6, "distance": 8, "two_sided": 1}, 0),
    "relative_biases_grad": ((ones(8, 2, 3), ones(2, 3, 5, 6)), {"queries": 5, "keys": 6, "distance": 8, "two_sided": 0}, 180),
    "rotary": ((Q,), {"offset": 3}, 72 // 2 * 6),  # 4 multiplications and 2 additions a pair of elements
    "rotary_grad": ((Q,), {"offset": 3}, 72 // 2 * 6),
    "append": ((KV, ones(*KV.shape[:2], 2)), {}, 0),
    "append_grad": ((KV,), {"part": 1}, KV.size // KV.shape[-1]),
    "flatten": ((X,), {"expr": "B T D -> M D"}, 0),
    "unflatten": ((X,), {"expr": "B T D -> B T A E", "inner": 2}, 0),
    "permute": ((X,), {**SLOTS, "inner": 3}, 0),
    "unpermute": ((ones(6, 2, 4),), {**SLOTS, "inner": 3}, 6 * 2 * 4),
    "route": ((ones(2, 3, 2),), GATED, 4 * 12),
    "route_grad": ((ones(2, 3, 2), ones(6, 2), ones(6, 2)), GATED, 9 * 12),
    "route_again_grad": ((ones(2, 3, 2), ones(6, 2)), GATED, 13 * 12),
    "count_choices": ((ones(2, 3, 2),), dict(SLOTS), 12),
    "steer": ((ones(4), ones(4)), {"rate": 0.5}, 16),
    "balance_loss": ((ones(2, 3, 2),), {**SLOTS, "scale": 0.5}, 5 * 12),
    "balance_loss_grad": ((ones(2, 3, 2),), {**SLOTS, "scale": 0.5}, 7 * 12),
    "grouped_gemm": ((ones(5, 2, 4), ones(2, 4, 7)), {"expr": "X G D, E D J -> X G J", "loads": (5, 0)}, 2 * 5 * 2 * 4 * 7),
    "weigh": ((X, ones(2, 3)), {}, 24),
    "weigh_grad": ((X, X), {}, 2 * 24),
    "weighted_swiglu": ((X, X, ones(2, 3)), {}, 6 * 24),
    "weighted_swiglu_grad": ((X, X, ones(2, 3), X), {}, 19 * 24),
    "weighted_squared_relu": ((X, ones(2, 3)), {}, 3 * 24),
    "weighted_squared_relu_grad": ((X, ones(2, 3), X), {}, 8 * 24),
    "weighted_clamped_swiglu": ((X, X, ones(2, 3)), {}, 10 * 24),
    "weighted_clamped_swiglu_grad": ((X, X, ones(2, 3), X), {}, 30 * 24),
    "expert_bias": ((X, ones(2, 4)), {"loads": (2, 0)}, 24),
    "expert_bias_grad": ((X,), {"loads": (2, 0)}, 24),
    "weighted_expert_bias": ((X, ones(2, 4), ones(2, 3)), {"loads": (1, 1)}, 2 * 24),
    "weighted_expert_bias_grad": ((X, ones(2, 3)), {"loads": (1, 1)}, 2 * 24),
    "xielu": ((ones(2, 3), ones(1), ones(1)), {}, 8 * 6),
    "xielu_grad": ((ones(2, 3), ones(1), ones(1), ones(2, 3)), {}, 9 * 6),
    "xielu_grad_p": ((ones(2, 3), ones(1), ones(2, 3)), {}, 4 * 6),
    "xielu_grad_n": ((ones(2, 3), ones(1), ones(2, 3)), {}, 6 * 6),
    "expert_scale": ((ones(2, 3), ones(2)), {"loads": (2, 0)}, 6),
    "expert_scale_grad": ((ones(2, 3), ones(2, 3)), {"loads": (2, 0)}, 2 * 6),
    "weighted_expert_bias_grad_gates": ((ones(2, 4), X), {"loads": (1, 1)}, 2 * 24),
    "row_max": ((LOGITS,), {}, 42),
    "pick": ((LOGITS, TOKENS), {"offset": 2}, 0),
    "shifted_exp": ((LOGITS, ones(2, 3)), {}, 2 * 42),
    "row_sum": ((LOGITS,), {}, 42),
    "normalize": ((LOGITS, ones(2, 3)), {}, 42),
    "token_loss": ((ones(2, 3), ones(2, 3), ones(2, 3)), {}, 3 * 6),
    "loss_sum": ((ones(2, 3),), {"scale": 0.5}, 6),
    "nll_loss_grad": ((LOGITS, TOKENS), {"offset": 2, "scale": 0.5}, 2 * 42),
    "cross_entropy_grad": ((LOGITS, TOKENS), {"offset": 2, "scale": 0.5}, 2 * 42),
    # 2 sequences of 5 tokens, 1 group of 3 heads as wide as 2, states of 4, chunks of 3: 6 + 3 pairs, 2 chunks.
    "repeat": ((ROW, X), {}, 0),
    "prepend": ((X, ones(2, 4)), {}, 0),
    "prepend_grad": ((X,), {}, 0),
    "excerpt": ((X,), {"start": 1, "length": 2}, 0),
    "excerpt_grad": ((X,), {"start": 1, "whole": 5}, 0),
    "softplus": ((X,), {}, 3 * 24),
    "softplus_grad": ((X, X), {}, 4 * 24),
    "decay": ((STEPS, ones(1, 3)), {}, 30),
    "decay_grad": ((STEPS, ones(1, 3), STEPS), {}, 2 * 30),
    "scan": ((XBC, STEPS, -STEPS, ones(1, 3)), CHUNKS, 4 * (9 * (4 + 6) + (2 * 5 + 2) * 6 * 4) + 2 * 60),
    "scan_grad": ((XBC, STEPS, -STEPS, ones(1, 3), SCANNED), CHUNKS, 4 * (9 * (3 * 4 + 2 * 6) + (5 * 5 + 3 * 2) * 6 * 4) + 2 * 60),
    "scan_skip_grad": ((XBC, SCANNED), {}, 2 * 60),
    "causal_conv": ((XBC, *CONV), {}, (2 * 4 + 4) * 140),
    **{f"causal_conv_grad_{name}": ((XBC, *CONV, XBC), {}, (4 * 4 + 9) * 140) for name in ("x", "weight")},
    "causal_conv_grad_bias": ((XBC, *CONV, XBC), {}, (2 * 4 + 10) * 140),
    "gated_rms_norm": ((SCANNED, SCANNED, ones(1, 3, 2)), {}, 9 * 60),
    "gated_rms_norm_grad": ((SCANNED, SCANNED, ones(1, 3, 2), SCANNED), {}, 21 * 60),
    "gated_rms_norm_grad_gamma": ((SCANNED, SCANNED, SCANNED), {}, 10 * 60),
    "norm_sq": ((X,), {"scale": 1.0}, 2 * 24),
    "clip": ((X, np.array(16.0)), {"max_norm": 1.0}, 24),
    "sgd_momentum": ((X, X, X), {"lr": 0.1, "momentum": 0.9}, 4 * 24),
    "adam": ((X, X, X, X), dict(ADAM), 12 * 24),
    "sgd": ((X, X), {"lr": 0.1}, 2 * 24),
    "average": ((X,), {"replicas": 2}, 24),
    "outer_nesterov": ((X, X, X), {"replicas": 2, "lr": 0.7, "momentum": 0.9}, 8 * 24),
}


def test_every_kernel_has_a_count_here() -> None:
    assert set(CASES) == set(KERNELS)


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_the_shapes(name: str) -> None:
    inputs, attributes, expected = CASES[name]
    flops = KERNELS[name](inputs, attributes)[1]
    assert flops == expected
    assert type(flops) is int


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_writes_to_no_input_and_returns_arrays_of_its_own(name: str) -> None:
    inputs, attributes, _ = CASES[name]
    frozen = tuple(array.copy() for array in inputs)
    for array in frozen:
        array.flags.writeable = False
    for output in KERNELS[name](frozen, attributes)[0]:
        assert isinstance(output, np.ndarray)
        assert output.dtype == np.float64
        assert not any(np.shares_memory(output, array) for array in frozen)


def moved_bytes(name: str) -> int:
    """Of operands of 10 bytes an element and results of 1,000."""
    inputs, attributes, _ = CASES[name]
    results = KERNELS[name](inputs, attributes)[0]
    return touched_bytes(name, [(each, 10) for each in inputs], [(each, 1000) for each in results], accumulate=False)


def test_of_what_is_looked_up_only_what_is_found_moves() -> None:
    assert moved_bytes("lookup") == 10 * (2 * 3 + 2 * 3 * 4) + 1000 * 2 * 3 * 4  # tokens, and a row of 4 for each
    assert moved_bytes("position") == 10 * (2 * 3 * 4 + 3 * 4) + 1000 * 2 * 3 * 4  # x, and 3 rows for both sequences
    assert moved_bytes("pick") == 10 * (2 * 3 + 2 * 3) + 1000 * 2 * 3  # labels, and a logit for each
    assert moved_bytes("first") == 10 * 2 * 4 + 1000 * 2 * 4
    assert moved_bytes("take") == 10 * 2 * 4 + 1000 * 2 * 4  # one of three tokens of each sequence
    assert moved_bytes("lookup_grad") == 10 * (2 * 3 + 2 * 3 * 4) + 1000 * 5 * 4  # zeros are written to all rows


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4)])
def test_a_rank_without_tokens_adds_no_positions(shape: tuple[int, ...]) -> None:
    x, table = np.ones(shape), np.ones((8, 4))
    (y,), flops = KERNELS["position"]((x, table), {"offset": 0})
    (d_table,), more = KERNELS["position_grad"]((x, table), {"offset": 0})
    assert (y.shape, flops, more) == (shape, 0, 0) and not d_table.any()
    with pytest.raises(ValueError, match=r"rows of shape \(3,\) fit no positions of shape \(4,\)"):
        KERNELS["position"]((x, np.ones((8, 3))), {"offset": 0})


def test_add_also_counts_a_scalar_array() -> None:
    assert KERNELS["add"]((np.array(1.0), np.array(2.0)), {})[1] == 1


@pytest.mark.parametrize("sequence_length", [1, 2, 5])
def test_causal_pairs_are_s_times_s_plus_1_over_2(sequence_length: int) -> None:
    q, k = ones(1, sequence_length, 1, 1, 1), ones(1, sequence_length, 1, 1)
    assert KERNELS["flash_attention"]((q, k, k), {"scale": 1.0})[1] == 4 * sequence_length * (sequence_length + 1) // 2


@pytest.mark.parametrize("num_queries, num_keys, offset", [(3, 5, 0), (3, 5, 2), (3, 5, 4), (3, 5, 9), (5, 3, 0), (130, 150, 20)])
def test_pairs_are_those_of_keys_that_exist_at_or_before_the_query(num_queries: int, num_keys: int, offset: int) -> None:
    q, k = ones(1, num_queries, 1, 1, 1), ones(1, num_keys, 1, 1)
    pairs = sum(key <= query + offset for query in range(num_queries) for key in range(num_keys))
    assert KERNELS["flash_attention"]((q, k, k), {"scale": 1.0, "query_offset": offset})[1] == 4 * pairs


def test_without_a_mask_every_query_meets_every_key() -> None:
    attributes = {"scale": 1.0, "causal": 0}
    assert KERNELS["flash_attention"]((Q, KV, KV), attributes)[1] == 4 * 2 * (3 * 5) * 2 * 2 * 3  # 4 C pairs B K R
    assert KERNELS["flash_attention_grad"]((Q, KV, KV, Q, LSE, Q), attributes)[1] == 10 * 2 * (3 * 5) * 2 * 2 * 3
