"""Plans of one scenario train the same numbers: their losses agree, step by step, however far a plan pads the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parsim import Scenario, execute, from_mapping, load
from parsim_kernels import kernels, pointwise

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
ODD = {  # 100 of 128 rows, or of 256, whose second half is padding alone
    "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
    "batch": {"global_batch": 4, "sequence_length": 8},
    "plans": {
        "data": {"data_parallel": 4},
        "tensor": {"data_parallel": 2, "tensor_parallel": 2},
        "sequence": {"tensor_parallel": 2, "pipeline_parallel": 2, "sequence_parallel": True},
        "zero": {"data_parallel": 2, "tensor_parallel": 2, "zero_stage": 3},
    },
}
MODELS = {
    "a decoder": {"base": "tiny-gpt", "vocab_size": 100, "source": "made up"},
    "a decoder with an untied head": {"base": "tiny-gpt", "vocab_size": 100, "tied_embedding": False, "source": "made up"},
}


def losses(scenario: Scenario, num_steps: int = 2) -> np.ndarray:
    """[plan, step]"""
    return np.array([execute(scenario, name, num_steps=num_steps, transport="lockstep", clocks=False).losses for name in scenario.plans])


def assert_equal(found: np.ndarray) -> None:
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), rtol=1e-12)  # sums in another order


def test_the_losses_of_all_plans_of_the_tiny_scenario_are_equal() -> None:
    assert_equal(losses(load(TINY), 3))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_vocabulary_that_every_plan_pads_otherwise_gives_one_loss(model: dict[str, object]) -> None:
    assert_equal(losses(from_mapping({**ODD, "model": model})))


def test_the_first_loss_of_equal_logits_is_the_logarithm_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of zero say that each of 100 tokens is as likely, and that padding is not."""
    monkeypatch.setattr("parsim.executor.values._WEIGHT_SCALE", 0.0)
    first = losses(from_mapping({**ODD, "model": MODELS["a decoder"]}), 1)
    np.testing.assert_allclose(first, np.log(100), rtol=1e-12)


def test_padding_in_the_softmax_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(inputs, attributes, out=pointwise.fresh):  # type: ignore[no-untyped-def]
        return pointwise.cast(inputs, {}, out)

    monkeypatch.setattr("parsim_kernels.machine.KERNELS", {**kernels.KERNELS, "cast": unmasked})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal(losses(load(TINY), 1))
