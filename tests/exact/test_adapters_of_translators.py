"""Frozen parts and adapters of encoder-decoder models: the contract holds, and nobody asks for a gradient that leads to nothing trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate, stages_of
from parsim.model import adapters
from parsim.model.adapters import ALL, CROSS, each_target
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.parameters import model_flops_per_token, num_parameters, num_trained_parameters
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.tuning_faults import tuning_faults
from parsim.scenario import from_mapping
from parsim.scenario.rows import read
from parsim.schedules.phase import Phase
from parsim.step import gradient
from parsim.step.task import Send
from parsim.verify import verify_plan
from support import STACKS, forget_steps, scenario, tiered

POST_NORM = EncoderDecoderSpec.of(name="toy", num_layers=4, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=8)
_T5: dict[str, Any] = {"norm": "rms_norm", "norm_last": False, "positions": "relative", "relative_buckets": 8, "relative_distance": 6}
T5 = replace(POST_NORM, bias=False, qkv_bias=False, scores_scaled=False, dropped_inside=True, head_dim=4, **_T5)
MODELS = {"t5": T5, "untied t5": replace(T5, activation="geglu", tied_embedding=False), "norms last": POST_NORM}
BATCH = Batch(8, 8, source_length=4)
OF_PEFT = Tuning((BASE,), 4, 8.0, 0.1, ("q_proj", "v_proj"))  # its default targets of T5
ALL_LINEAR = replace(OF_PEFT, lora_targets=each_target([ALL]))
ENCODER = ("embedding", "layers 0..1")  # of four layers in two stacks
TUNINGS = {
    "lora": OF_PEFT,
    "qlora": replace(ALL_LINEAR, lora_dropout=0.0, quantization="nf4", double_quantization=True),
    "all-linear": ALL_LINEAR,
    "fused": Tuning((BASE,), 4, 2.0, 0.0, ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")),
    "a frozen encoder": Tuning(ENCODER),
    "a frozen decoder": Tuning(("layers 2..3",)),
    "frozen parts": Tuning(("embedding", "mlp", "norms")),
    "a head": Tuning(("embedding", "layers")),
    "half an encoder": Tuning(("embedding", "layers 0..0")),
}
PLANS = {
    "tp, dp": Plan(tensor_parallel=2, data_parallel=2),
    "pp": Plan(pipeline_parallel=4, data_parallel=2),
    "sp, full": Plan(tensor_parallel=4, sequence_parallel=True, recompute="full"),
    "zero 3": Plan(tensor_parallel=2, data_parallel=2, zero_stage=3, recompute="selective"),
    "interleaved": Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", micro_batch=2, data_parallel=2, zero_stage=1),
    "zero bubble": Plan(pipeline_parallel=2, tensor_parallel=2, schedule="zero_bubble_h1"),
    "a stage of both": Plan(pipeline_parallel=2, layers_per_stage=(1, 3), tensor_parallel=2, sequence_parallel=True),
    "every second": Plan(data_parallel=2, zero_stage=2, recompute="full", recompute_every=2),
    "in backward": Plan(data_parallel=2, micro_batch=4, optimizer_in_backward=True),
}
FAST = {("lora", "t5", "pp"), ("qlora", "untied t5", "tp, dp"), ("a frozen encoder", "norms last", "zero 3")}


def _cases() -> list[Any]:
    """Each tuning of each model on each plan that trains it."""
    found = []
    for number, (tuning, plan, model) in enumerate((t, p, m) for t in TUNINGS for p in PLANS for m in MODELS):
        toy = scenario(model=replace(MODELS[model], tuning=TUNINGS[tuning]), batch=BATCH, stack=STACKS[number % len(STACKS)])
        if not [*tuning_faults(toy.model)] and not faults(PLANS[plan], toy.model, BATCH, PLANS[plan].num_devices, stack=toy.stack):
            found.append(tiered((toy, PLANS[plan]), f"{tuning}-{model}-{plan}", slow=(tuning, model, plan) not in FAST))
    return found


@pytest.mark.parametrize("case", _cases())
def test_tuned_translators_keep_the_contract(case: tuple[Any, Plan]) -> None:
    toy, plan = case
    assert not [check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_adapters_of_mt0_large_are_as_many_as_peft_counts() -> None:
    """2,359,296: huggingface/peft, docs/source/quicktour.md; the attention of T5 large is as wide, and its layers are as many."""
    model = replace(read("models", "t5-large"), tuning=replace(OF_PEFT, lora_rank=8))
    assert num_trained_parameters(model) == 2_359_296 == (24 + 2 * 24) * 2 * 8 * (1024 + 1024)
    assert num_parameters(model) == num_parameters(read("models", "t5-large")) + 2_359_296


def test_what_a_frozen_encoder_makes_is_asked_for_no_gradient() -> None:
    step = stages_of(scenario(model=replace(T5, tuning=TUNINGS["a frozen encoder"]), batch=BATCH), Plan()).workload.step
    for name in ("embedding", "bottom_frozen_encoder_layer", "encoder_end", "decoder_embedding"):
        segment = step.segments[name]
        assert not segment.kept[Phase.F] or {each.name for each in segment.kept[Phase.F]} == {each.value.name for each in segment.beside}
        assert segment.entering[Phase.B] is segment.leaving[Phase.B] is None
    assert not [each for segment in step.segments.values() for each in segment.beside if each.gradient]


def test_a_memory_has_a_gradient_where_the_encoder_learns_and_frozen_biases_have_none() -> None:
    workload = stages_of(scenario(model=replace(T5, tuning=OF_PEFT), batch=BATCH), Plan(pipeline_parallel=4)).workload
    segments = workload.step.segments
    with_gradient = {each.value.name for segment in segments.values() for each in segment.beside if each.gradient}
    assert with_gradient == {"memory"}
    assert segments["bottom_layer"].leaving[Phase.B] is None  # nothing below a decoder's first layer learns but by the memory
    sent = [each.sources for stage in (3, 2, 1) for each in workload.pass_of(stage, Phase.B).epilogue if isinstance(each, Send)]
    assert [[operand.name for operand in sources] for sources in sent] == [["d_y", "d_memory"], ["d_memory"], ["d_y"]]


def test_a_frozen_encoder_costs_a_third_of_its_attention_and_of_its_products() -> None:
    """Forward alone; decoders ask for no gradient of the memory, nor of what enters the first, nor of the table that is their head's."""
    model = replace(POST_NORM, positions="learned", norm_last=False)
    whole, frozen = (model_flops_per_token(replace(model, tuning=tuning), 8, 8)[0] for tuning in (Tuning(), Tuning(ENCODER)))
    width, ffn, layers, length, table = 12, 16, 2, 8, 60 * 12
    encoder = layers * (4 * width**2 + 2 * width * ffn + ffn + 5 * width + 2 * 2 * width)  # with biases and norms
    keys, norm = layers * 2 * width**2, 2 * width
    pairs = layers * 2 * 4 * length * width  # two products of 2 FLOPs, with two gradients each
    assert whole - frozen == 4 * encoder + 2 * (keys + norm + table) + pairs


def test_adapters_save_the_states_of_all_else() -> None:
    plan, model = Plan(tensor_parallel=2), replace(T5, tuning=OF_PEFT)
    found = estimate(scenario(model=model, batch=BATCH), plan).memory_bytes[0]
    # Of A the columns are cut, of B those of queries and values: each rank holds half of both.
    assert found["optimizer"] == 12 * num_trained_parameters(model) // 2


def _those_of_the_memory_are_not_scaled(patch: pytest.MonkeyPatch) -> None:
    right = adapters._up
    wrong = lambda base, summed, group, stem, scale: right(base, summed, group, stem, 1.0 if stem.startswith(CROSS) else scale)  # noqa: E731
    patch.setattr(adapters, "_up", wrong)


def _no_gradient_enters_the_memory(patch: pytest.MonkeyPatch) -> None:
    right = gradient._Derivation.pass_through

    def pass_through(self, op, target, d_out):  # type: ignore[no-untyped-def]
        if target != "memory":
            yield from right(self, op, target, d_out)

    patch.setattr(gradient._Derivation, "pass_through", pass_through)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (None, ""),
        (_those_of_the_memory_are_not_scaled, "loss, by hand"),
        (_no_gradient_enters_the_memory, "weight gradients, by hand"),
    ],
)
def test_verify_notices_adapters_of_a_translator_that_are_wrong(
    mutate: Callable[[pytest.MonkeyPatch], None] | None, quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = scenario(model=replace(POST_NORM, num_layers=2, encoder_layers=1, tuning=OF_PEFT), batch=Batch(1, 4))
    forget_steps()
    if mutate:
        mutate(monkeypatch)
    try:
        wrong = {check.quantity for check in verify_plan(toy, Plan(), "toy") if not check.ok}
    finally:
        forget_steps()
    assert quantity in wrong if mutate else not wrong


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ({"freeze": ["embedding", "layers"]}, "freezes all weights of model"),  # its head is the embedding, and has no norm before it
        ({"lora_rank": 4, "lora_targets": "q_a_proj"}, "has no q_a_proj"),
        ({"lora_rank": 4, "share_expert_adapters": True}, "is of adapters beside experts"),
    ],
)
def test_what_of_a_translator_cannot_be_tuned_is_refused(tuning: dict[str, object], said: str) -> None:
    batch = {"global_batch": 16, "sequence_length": 16}
    with pytest.raises(ScenarioError, match=said):
        from_mapping({"model": "transformer-base", "cluster": {"node": "dgx-a100-80gb"}, "batch": batch, "tuning": tuning})
