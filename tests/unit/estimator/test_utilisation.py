"""MFU counts what the model needs, HFU on top what recomputation runs again; both count attention alike, so HFU is never below MFU."""

from __future__ import annotations

from typing import Any

import pytest

from parsim.estimator.estimate import estimate
from parsim.scenario import from_mapping

LAYERS, WIDTH, KV_WIDTH, FFN, VOCABULARY, TOKENS = 32, 4096, 1024, 14336, 128_256, 8192  # Llama 3 8B: arXiv:2407.21783, table 3
# Per layer and token: queries and output, keys and values, three matrices of the MLP, two norms; the scores and the mix of all pairs.
MATRICES = 2 * WIDTH * WIDTH + 2 * WIDTH * KV_WIDTH + 3 * WIDTH * FFN
ATTENTION = 2 * 2 * TOKENS * WIDTH
NEEDED = 6 * (LAYERS * (MATRICES + 2 * WIDTH) + WIDTH + VOCABULARY * WIDTH) + 3 * LAYERS * ATTENTION  # arXiv:2204.02311, appendix B


def utilisation(stack: str, **plan: Any) -> tuple[float, float, float]:
    """MFU, HFU, and the FLOPs of the peak in a step by token."""
    scenario = from_mapping(
        {
            "model": "llama3-8b",
            "cluster": {"node": "hgx-h100-80gb"},
            "batch": {"global_batch": 8, "sequence_length": TOKENS},
            "stack": stack,
            "plans": {"a": plan},
        }
    )
    found = estimate(scenario, "a")
    return found.mfu, found.hfu, 989.4e12 * 8 * found.step_s / (8 * TOKENS)


@pytest.mark.parametrize(
    ("stack", "plan", "again"),
    [
        ("torchtitan", {"zero_stage": 3}, 0),
        ("pytorch-2", {"zero_stage": 3, "recompute": "full"}, LAYERS * (2 * MATRICES + ATTENTION)),
        ("pytorch-2", {"zero_stage": 3, "recompute": "full", "recompute_every": 2}, LAYERS // 2 * (2 * MATRICES + ATTENTION)),
        ("torchtitan", {"zero_stage": 3, "recompute": "full"}, LAYERS * (2 * (MATRICES - WIDTH * FFN) + ATTENTION)),  # it stops early
        ("pytorch-2", {"zero_stage": 3, "recompute": "selective"}, LAYERS * ATTENTION),
        ("pytorch-2", {"tensor_parallel": 2, "pipeline_parallel": 2, "recompute": "full"}, LAYERS * (2 * MATRICES + ATTENTION)),
        ("plain-pytorch", {"tensor_parallel": 2, "recompute": "selective"}, LAYERS * ATTENTION),
    ],
)
def test_hfu_is_mfu_and_what_recomputation_runs_again(stack: str, plan: dict[str, Any], again: int) -> None:
    mfu, hfu, peak = utilisation(stack, **plan)
    assert mfu * peak == pytest.approx(NEEDED, rel=1e-3)  # the peak's digits
    assert hfu / mfu == pytest.approx(1 + again / NEEDED, rel=1e-12)  # a few roundings of float64


@pytest.mark.parametrize("plan", [{"data_parallel": 8}, {"context_parallel": 2, "context_kind": "all_gather"}])
@pytest.mark.parametrize(("window", "pairs"), [({"sliding_window": 1024}, 8192**2 - 7168**2), ({"attention_chunk": 1024}, 8 * 1024**2)])
def test_a_window_leaves_both_as_many_pairs_as_it_leaves_attention(window: dict[str, int], pairs: int, plan: dict[str, Any]) -> None:
    """Full recomputation runs the forward again, a third of what matmuls and attention need."""
    model = {"base": "llama3-8b", "name": "windowed", "source": "a test", **window, "full_attention_every": 2}
    scenario = from_mapping(
        {
            "model": model,
            "cluster": {"node": "hgx-h100-80gb"},
            "batch": {"global_batch": 8, "sequence_length": TOKENS},
            "stack": "pytorch-2",
            "plans": {"a": {"zero_stage": 3, "recompute": "full", **plan}},
        }
    )
    found = estimate(scenario, "a")
    attention = 2 * 2 * WIDTH * (TOKENS + pairs // TOKENS) // 2  # every second layer sees all
    counted = NEEDED + 3 * LAYERS * (attention - ATTENTION)
    assert found.mfu * 989.4e12 * 8 * found.step_s / (8 * TOKENS) == pytest.approx(counted, rel=1e-3)  # the peak's digits
    assert found.hfu / found.mfu == pytest.approx(1 + LAYERS * (2 * MATRICES + attention) / counted, rel=1e-12)  # a few roundings
    assert found.mfu_causal * counted == pytest.approx(found.mfu * (counted - 3 * LAYERS * attention // 2), rel=1e-12)
