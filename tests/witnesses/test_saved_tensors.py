"""What a layer keeps for backward, counted by hand from what autograd saves (PyTorch, tools/autograd/derivatives.yaml).

A matmul saves both factors, `mul` the factors whose other side needs a gradient, `pow`, `silu` and fused norms their input, attention
q, k, v, its result and a float32 number a query and head; `add`, casts and rotations by constants save nothing.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Plan, Stack
from parsim.scenario.rows import read
from parsim.schedules.phase import Phase
from support import GPT, STACK, scenario

LLAMA = replace(GPT, num_kv_heads=2, activation="swiglu", dropout=0.0, norm="rms_norm", positions="rotary", bias=False, qkv_bias=False)
TOKENS, D, A, KV, F, HEADS = 8, 12, 16, 8, 16, 4  # of the toy model in one micro_batch: widths of the stream, queries, keys, and the MLP
ATTENTION = 2 * (A + KV + KV + A) + 4 * HEADS
EAGER = 2 * (4 + 2 + 2) * D + ATTENTION + 4 * 2 * F  # a norm: x in float32, normalised, scaled; gate, up, silu(gate), their product
FUSED = 2 * (2 + 2) * D + ATTENTION + 3 * 2 * F  # a norm: x, and its result


def kept(stack: Stack, recompute: str = "none") -> int:
    """Bytes that one layer keeps of one micro_batch."""
    workload = stages_of(scenario(model=LLAMA, stack=stack), Plan(recompute=recompute)).workload
    return sum(int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["layer"].kept[Phase.F])


@pytest.mark.parametrize(
    ("fusions", "a_token"),
    [((), EAGER), (("rms_norm", "swiglu"), FUSED), (("swiglu",), EAGER - 2 * F), (("rms_norm",), EAGER - 8 * D)],
)
def test_a_llama_layer_keeps_what_autograd_saves(fusions: tuple[str, ...], a_token: int) -> None:
    assert kept(replace(STACK, attention="flash", fusions=fusions)) == TOKENS * a_token


def test_selective_recomputation_of_torchtitan_keeps_attention_and_each_second_matmul() -> None:
    # wq and wv, the result of attention, what attention adds up to (for that of wo), and w1, beside the layer's own input
    stack = replace(read("stacks", "torchtitan"), vocab_multiple=8)
    assert kept(stack) == TOKENS * EAGER
    assert kept(stack, "selective") == TOKENS * (2 * D + 2 * A + 2 * KV + 2 * A + 4 * HEADS + 2 * D + 2 * F)


def test_selective_recomputation_of_megatron_saves_next_to_nothing_where_attention_is_flash() -> None:
    stack = replace(read("stacks", "megatron-core"), vocab_multiple=8)
    assert kept(stack, "selective") == kept(stack) - TOKENS * 4 * HEADS  # a number a query and head
