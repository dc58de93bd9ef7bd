"""Gradients that are applied, and die, as soon as they are there; and optimizer states in pages that the host holds."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cost.buckets import lasting_parts
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.model.parameters import num_parameters
from parsim.parallel.legality import faults
from parsim.parallel.optimizer import Optimizer
from parsim.parallel.plan import Batch, Plan
from parsim.verify.contract import verify_plan
from support import GPT, STACK, STACKS, enough, scenario, tiered

GIB = 2**30
UNPADDED = replace(GPT, vocab_size=64)
AT_ONCE = Plan(micro_batch=8, optimizer_in_backward=True)
PLANS = {
    "one rank": AT_ONCE,
    "recomputed": replace(AT_ONCE, recompute="full", optimizer="sgd_momentum"),
    "paged": Plan(optimizer="paged_adamw_8bit"),
    "paged at once": replace(AT_ONCE, optimizer="paged_adamw_8bit"),
    "tensor": replace(AT_ONCE, tensor_parallel=2, sequence_parallel=True),
    "replicas": replace(AT_ONCE, data_parallel=2, micro_batch=4),
    "zero 1": replace(AT_ONCE, data_parallel=2, micro_batch=4, zero_stage=1),
    "zero 2": replace(AT_ONCE, data_parallel=2, micro_batch=4, zero_stage=2, tensor_parallel=2),
    "zero 3, paged": replace(AT_ONCE, data_parallel=2, micro_batch=4, zero_stage=3, optimizer="paged_adamw"),
}
# Llama 3.1 8B on one RTX 4090: 18.9 GiB (README of meta-pytorch/torchtune, full fine-tuning on a single device).
TUNED = {
    "model": "llama3-8b",
    "cluster": {"node": "one-rtx-4090"},
    "batch": {"global_batch": 2, "sequence_length": 512, "dtype": "bf16_pure"},
    "stack": "pytorch-2",
    "plans": {"a": {"optimizer": "paged_adamw_8bit", "recompute": "full", "micro_batch": 2, "optimizer_in_backward": True}},
}


def failed(plan: Plan, **others: object) -> list[str]:
    return [check.quantity for check in verify_plan(scenario(**{"batch": enough(plan, most=8), **others}), plan, "toy") if not check.ok]  # type: ignore[arg-type]


KINDS = dict(zip(("waits", "overlaps", "flash"), STACKS, strict=False))
CASES = [
    tiered((plan, kind), f"{plan}-{kind}", slow=(i + j) % 3 > 0)  # each plan meets one stack, and each stack three plans
    for i, plan in enumerate(PLANS)
    for j, kind in enumerate(KINDS)
]


@pytest.mark.parametrize("case", CASES)
def test_the_readers_agree_and_weights_are_those_of_one_rank(case: tuple[str, str]) -> None:
    plan, stack = PLANS[case[0]], KINDS[case[1]]
    assert not failed(plan, stack=stack)
    assert not failed(plan, stack=stack, model=replace(GPT, tied_embedding=False), batch=Batch(8, 8, "bf16_pure"))


def test_it_trains_like_a_plan_that_updates_at_the_end() -> None:
    plans = {"end": {}, "at once": {"micro_batch": 4, "optimizer_in_backward": True}, "paged": {"optimizer": "paged_adamw"}}
    row = {"model": "tiny-gpt", "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 1}}}
    chosen = parsim.from_mapping({**row, "batch": {"global_batch": 4, "sequence_length": 8}, "plans": plans})
    found = [parsim.execute(chosen, name, num_steps=3, transport="lockstep", clocks=False).losses for name in plans]
    np.testing.assert_allclose(found, [found[0]] * 3, rtol=1e-12)  # sums in another order


def test_no_gradient_outlives_its_layer() -> None:
    end, at_once = (estimate(scenario(model=UNPADDED), plan).memory_bytes[0] for plan in (Plan(micro_batch=8), AT_ONCE))
    assert (end["gradients"], at_once["gradients"]) == (4 * num_parameters(UNPADDED), 0)
    assert 0 < at_once["transients"] - end["transients"] < 4 * num_parameters(UNPADDED)
    assert (end["optimizer"], end["parameters"]) == (at_once["optimizer"], at_once["parameters"])


def test_the_update_takes_its_time_in_the_backward_and_nothing_is_clipped() -> None:
    model = replace(UNPADDED, tied_embedding=False)
    end, at_once = (estimate(scenario(model=model), plan).breakdown_s for plan in (Plan(micro_batch=8), AT_ONCE))
    update_s = num_parameters(model) * (2 * 12 + 4 + 4 + 2) / (1e9 * 0.8)  # Adam, and the cast, at the toy's bandwidth
    launches_s = 2 * 6 * 1e-6  # of an update and a cast, for the embedding, four layers and the head
    assert at_once["optimizer"] == 0
    assert at_once["compute"] - end["compute"] == pytest.approx(update_s + launches_s, rel=1e-6)


def test_pages_lie_on_the_host_and_pass_its_link_both_ways() -> None:
    chosen, weights = scenario(model=UNPADDED), num_parameters(UNPADDED)
    paged, plain = (estimate(chosen, Plan(optimizer=name)) for name in ("paged_adamw_8bit", "adamw_8bit"))
    assert plain.memory_bytes[0]["optimizer"] - paged.memory_bytes[0]["optimizer"] == 2 * weights
    assert paged.host_memory_bytes["optimizer"] == paged.sent_bytes[0]["host"] == 2 * weights
    spared_s = weights * 4 / (1e9 * 0.8)  # states that the kernel finds in pages
    assert paged.step_s - plain.step_s == pytest.approx(2 * (1e-6 + 2 * weights / 1e8) - spared_s, abs=1e-11)


def test_an_eight_billion_parameter_model_is_tuned_on_one_card_of_24_gb() -> None:
    found = estimate(parsim.from_mapping(TUNED), "a")
    assert found.fits and found.peak_bytes == pytest.approx(18.9 * GIB, rel=0.1)
    assert found.memory_bytes[0]["parameters"] == 2 * 8_030_261_248


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"micro_batch": 2}, "applies gradients at once, but a replica adds up those of 4 micro-batches. Set micro_batch = 8, or"),
        ({"pipeline_parallel": 2}, "optimizer_in_backward with pipeline_parallel = 2 is not built. Set pipeline_parallel to 1, or"),
        (
            {"offload_optimizer": True},
            "optimizer_in_backward with offload_optimizer = True is not built. Set offload_optimizer to false, or",
        ),
        ({"optimizer": "paged_adamw", "offload_optimizer": True}, "keeps states on the host and updates on the device"),
    ],
)
def test_what_it_does_not_go_with_is_told(change: dict[str, object], said: str) -> None:
    plan = replace(AT_ONCE, **change)  # type: ignore[arg-type]
    assert said in " ".join(map(str, faults(plan, GPT, Batch(8, 8), plan.num_devices, stack=STACK)))


def test_clipping_by_the_norm_of_all_gradients_is_refused() -> None:
    with pytest.raises(ParsimError, match=r"updates before the norm of all gradients is known, by which training\.max_norm clips"):
        parsim.from_mapping({**TUNED, "training": {"max_norm": 1.0}})


@pytest.mark.parametrize(("reader", "quantity"), [("estimator", "peak bytes"), ("simulator", "peak bytes, simulated")])
def test_a_mutant_that_keeps_gradients_is_noticed(monkeypatch: pytest.MonkeyPatch, reader: str, quantity: str) -> None:
    monkeypatch.setattr(f"parsim.{reader}.memory.lasting_parts", lambda structure: {**lasting_parts(structure), "gradients": "whole"})
    assert failed(AT_ONCE) == [quantity]


def test_a_mutant_that_moves_half_of_the_pages_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizer, "state_bytes", lambda self, weight_bytes: 1)
    assert failed(Plan(optimizer="paged_adamw_8bit")) == [
        *("bytes sent over host", "bytes sent over host, simulated", "host bytes", "host bytes, simulated")
    ]


def test_a_mutant_that_updates_before_it_sums_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from support import forget_steps

    monkeypatch.setattr("parsim.step.finish._sums", lambda structure, every: iter(()))
    forget_steps()
    wrong = failed(replace(AT_ONCE, data_parallel=2, micro_batch=4))
    forget_steps()
    assert "weight gradients" in wrong and "updated weights" in wrong


def test_the_plain_plan_is_told_which_keys_would_help() -> None:
    from parsim.planner import remedies
    from parsim.report.choosing import remedy_lines

    chosen = parsim.from_mapping({**TUNED, "plans": {"plain": {"optimizer": "adamw_8bit", "recompute": "full", "micro_batch": 2}}})
    said = "\n".join(remedy_lines(chosen, remedies(chosen, "plain"), "plain", elsewhere=False))
    assert all(key in said for key in ("offload_optimizer", "paged_adamw_8bit", "optimizer_in_backward"))
