"""Encoder-decoder models over ranks of a sequence: the contract, and the keys of the source that decoders bring together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate, stages_of
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import SPLIT, WHOLE
from parsim.step import place
from parsim.step.check import faults as step_faults
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, machine
from support import STACKS, forget_steps, scenario, tiered

TRANSLATOR = EncoderDecoderSpec.of(
    name="toy", num_layers=4, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=16
)
_T5: dict[str, Any] = {"norm": "rms_norm", "norm_last": False, "positions": "relative", "relative_buckets": 8, "relative_distance": 6}
T5 = replace(TRANSLATOR, bias=False, qkv_bias=False, scores_scaled=False, dropped_inside=True, **_T5)
MODELS = {
    "translator": TRANSLATOR,
    "norms first": replace(TRANSLATOR, norm_last=False, positions="learned", tied_embedding=False),
    "t5": T5,
    "adapted t5": replace(T5, tuning=Tuning((BASE,), 4, 8.0, 0.1, ("q_proj", "v_proj"))),
}
BATCH = Batch(8, 8, source_length=4)
KINDS = ("all_gather", "contiguous", "ulysses", "ring")
PLANS: dict[str, dict[str, Any]] = {
    "alone": {},
    "sp, dp": {"tensor_parallel": 2, "sequence_parallel": True, "data_parallel": 2},
    "pp, zero 1": {"pipeline_parallel": 2, "data_parallel": 2, "zero_stage": 1},
    "zero 3, full": {"data_parallel": 2, "zero_stage": 3, "recompute": "full"},
}
FAST = {("ring", "translator", "sp, dp"), ("all_gather", "t5", "zero 3, full"), ("ulysses", "norms first", "alone")}


def _cases() -> list[Any]:
    """Each kind of each model on each plan, where it is legal."""
    found = []
    for number, (kind, model, plan) in enumerate((k, m, p) for k in KINDS for m in MODELS for p in PLANS):
        chosen = Plan(context_parallel=2, context_kind=kind, **PLANS[plan])
        toy = scenario(model=MODELS[model], batch=BATCH, stack=STACKS[2 if kind == "ring" else number % len(STACKS)])
        if not faults(chosen, toy.model, BATCH, chosen.num_devices, stack=toy.stack):
            found.append(tiered((toy, chosen), f"{kind}-{model}-{plan}", slow=(kind, model, plan) not in FAST))
    groups = Plan(context_parallel=4, context_kind="ulysses_ring", context_group=2)
    return [*found, tiered((scenario(model=TRANSLATOR, batch=Batch(8, 16, source_length=8), stack=STACKS[2]), groups), "groups", slow=True)]


CASES = _cases()


@pytest.mark.parametrize("case", CASES)
def test_translators_keep_the_contract_over_ranks_of_a_sequence(case: tuple[Any, Plan]) -> None:
    toy, plan = case
    assert not [check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok]


@pytest.mark.parametrize("phases", [WHOLE, SPLIT])
def test_steps_of_translators_over_ranks_of_a_sequence_are_sound(phases: tuple[object, ...]) -> None:
    for toy, plan in (each.values[0] for each in CASES):
        assert not step_faults(stages_of(toy, plan).workload.step, phases)  # type: ignore[arg-type]


def _sent_by_source_length(kind: str) -> dict[int, int]:
    """Bytes that the first rank sends over the axis of sequences, by the length of the source."""
    plan, sent = Plan(context_parallel=2, context_kind=kind, micro_batch=2), dict[int, int]()
    for length in (4, 8):
        toy = scenario(model=TRANSLATOR, batch=Batch(2, 8, source_length=length), stack=STACKS[2])
        sent[length] = estimate(toy, plan).sent_bytes[0]["cp"]
    return sent


def test_each_layer_brings_the_keys_and_values_of_the_source_together_in_each_pass() -> None:
    """Layers of the encoder for itself, those of the decoder of the memory, which nobody gathers; backward their gradients go home."""
    sent = _sent_by_source_length("all_gather")
    layers, sequences, more, width = 4, 2, 4, 12
    assert sent[8] - sent[4] == layers * 3 * 2 * (sequences * more * width * 2) // 2  # of two ranks each sends its half, in bf16


def test_ulysses_trades_queries_keys_values_and_what_attention_gives_for_heads() -> None:
    """Of the source the encoder trades four tensors and the decoder two, a half of each rank's half; backward their gradients."""
    sent = _sent_by_source_length("ulysses")
    layers, sequences, more, width = 2, 2, 4, 12
    assert sent[8] - sent[4] == layers * (4 + 2) * 2 * (sequences * more * width * 2) // 4


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
def test_what_would_cut_biases_of_scores_is_refused(kind: str) -> None:
    (fault,) = faults(Plan(context_parallel=2, context_kind=kind), T5, BATCH, 2, stack=STACKS[2])
    assert "adds biases (positions = relative): that is not built. Legal: all_gather, contiguous" in str(fault)


def test_a_source_that_ranks_cannot_share_out_is_refused() -> None:
    (fault,) = faults(Plan(context_parallel=2), TRANSLATOR, replace(BATCH, source_length=3), 2, stack=STACKS[2])
    assert "cuts a source into 2 parts, which do not divide source_length = 3. Make source_length a multiple of 2" in str(fault)


def _positions_begin_anew(patch: pytest.MonkeyPatch) -> None:
    right = KERNELS["sinusoid"]
    patch.setattr(machine, "KERNELS", {**KERNELS, "sinusoid": lambda inputs, told, *more: right(inputs, {**told, "offset": 0}, *more)})


def _biases_are_not_summed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(place, "_ELEMENTWISE", place._LINEAR)


@pytest.mark.parametrize(
    ("model", "mutate", "quantity"), [(TRANSLATOR, _positions_begin_anew, "loss"), (T5, _biases_are_not_summed, "weight gradients")]
)
def test_verify_notices_what_ranks_of_a_sequence_do_wrong(
    model: EncoderDecoderSpec, mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = scenario(model=replace(model, num_layers=2, encoder_layers=1), batch=Batch(1, 8, source_length=4))
    forget_steps()
    mutate(monkeypatch)
    try:
        checks = verify_plan(toy, Plan(context_parallel=2, context_kind="contiguous"), "toy")
    finally:
        forget_steps()
    assert quantity in {check.quantity for check in checks if not check.ok}
