"""What is not trained has no gradient, no state and no communication of either, and nobody computes gradients for what lies below."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

import parsim
from parsim.cost import buckets
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model.parameters import model_flops_per_token, num_parameters, num_trained_parameters
from parsim.model.tuning import Tuning
from parsim.parallel.plan import Plan
from parsim.schedules.phase import Phase
from parsim.step import lower
from parsim.step.step import Segment
from parsim.step.structure import Structure
from parsim.verify.contract import verify_plan
from support import GPT, MOE, STACKS, feature_sets, forget_steps, scenario, tiered, with_features

LOWER = Tuning(("embedding", "layers 0..0", "mlp"))  # of GPT's four layers; its output embedding is the frozen one
UPPER = Tuning(("head", "norms", "attention"))
FEATURES = [
    tiered((names, tuning), f"{'+'.join(names)}-{number}", slow=len(names) > 1 or (place + number) % 3 > 0)
    for place, names in enumerate(feature_sets(2))
    for number, tuning in enumerate((LOWER, UPPER))
]
OTHERS: dict[str, tuple[object, Tuning, Plan]] = {
    "the head alone": (replace(GPT, tied_embedding=False), Tuning(("embedding", "layers")), Plan(data_parallel=2, zero_stage=3)),
    "the head alone, recomputed": (replace(GPT, tied_embedding=False), Tuning(("embedding", "layers")), Plan(recompute="full")),
    "a stage that is frozen": (replace(GPT, tied_embedding=False), Tuning(("head", "layers 2..3")), Plan(pipeline_parallel=2)),
    "experts": (replace(MOE, tied_embedding=False), Tuning(("mlp", "embedding")), Plan(data_parallel=2, expert_parallel=2, zero_stage=2)),
}


def failed(toy: parsim.Scenario, plan: Plan) -> list[str]:
    return [check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok]


@pytest.mark.parametrize("case", FEATURES)
def test_frozen_weights_keep_the_contract_beside_every_feature(case: tuple[tuple[str, ...], Tuning]) -> None:
    toy, plan = with_features(case[0], STACKS[1])
    assert not failed(replace(toy, model=replace(toy.model, tuning=case[1])), plan)


@pytest.mark.parametrize("case", OTHERS)
def test_frozen_ends_stages_and_experts_do(case: str) -> None:
    model, tuning, plan = OTHERS[case]
    assert not failed(scenario(model=replace(model, tuning=tuning)), plan)  # type: ignore[type-var]


def test_what_lies_below_all_that_is_trained_has_no_backward_and_keeps_nothing() -> None:
    toy = scenario(model=replace(GPT, tuning=LOWER))
    step = lower.lower(Structure.of(toy.model, toy.batch, Plan(), toy.stack))
    assert [*step.segments] == ["embedding", "bottom_frozen_layer", "bottom_layer", "layer", "head"]
    for name in ("embedding", "bottom_frozen_layer"):
        segment = step.segments[name]
        assert not (segment.phases[Phase.B] or segment.kept[Phase.F] or segment.trained_weights)
        assert segment.entering[Phase.B] is segment.leaving[Phase.B] is None
    assert step.segments["bottom_layer"].leaving[Phase.B] is None  # nobody asks for the gradient of what it takes
    kept = {name: {operand.name for operand in step.segments[name].kept[Phase.F]} for name in ("layer", "bottom_layer")}
    assert not kept["layer"] & {"norm2", "active"}  # inputs of frozen matrices
    assert {"norm1"} <= kept["layer"]  # those of trained ones
    assert "x" not in kept["bottom_layer"] or "norm1.gamma" in {weight.name for weight in step.segments["bottom_layer"].trained_weights}


def test_states_gradients_and_sums_are_of_trained_weights_alone() -> None:
    whole = scenario(model=replace(GPT, tied_embedding=False, vocab_size=64))
    half = replace(whole, model=replace(whole.model, tuning=Tuning(("attention", "mlp", "norms"))))
    trained = num_trained_parameters(half.model)
    assert trained == 64 * 12 * 2 + 8 * 12  # three tables: words, positions and output; norms are frozen wherever they are
    plan = Plan(data_parallel=2)
    before, after = estimate(whole, plan), estimate(half, plan)
    assert after.memory_bytes[0]["optimizer"] == 12 * trained and after.memory_bytes[0]["gradients"] == 4 * trained
    assert after.memory_bytes[0]["parameters"] == before.memory_bytes[0]["parameters"] == 2 * num_parameters(whole.model)
    assert after.sent_bytes[0]["dp"] == 4 * trained  # a ring of two sends its gradients once in float32


def test_a_frozen_weight_costs_two_flops_less_and_two_more_where_nothing_below_is_trained() -> None:
    whole = replace(GPT, tied_embedding=False)
    table, norm, frozen = whole.vocab_size * 12, 2 * 12, replace(whole, tuning=Tuning(("embedding", "layers")))
    everything, attention = model_flops_per_token(whole, 8)[0], whole.attention_flops_per_token(8)[0]
    layers = (everything - attention - 6 * (table + norm)) // 6
    assert model_flops_per_token(frozen, 8)[0] == 6 * table + 4 * norm + 2 * layers + attention // 3  # of what enters the norm none


def _frozen_weights_have_states(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(buckets, "lasting_weights", lambda weights, role, structure: [*weights])
    for name in ("parsim.estimator.memory", "parsim.simulator.memory"):
        patch.setattr(f"{name}.lasting_weights", buckets.lasting_weights)


def _some_trained_weights_are_neither_summed_nor_updated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Segment, "trained_weights", property(lambda self: tuple(each for each in self.own_weights if each.trained)[1:]))


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [(_frozen_weights_have_states, "peak bytes"), (_some_trained_weights_are_neither_summed_nor_updated, "weight gradients")],
)
def test_verify_notices(mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, plan = scenario(model=replace(GPT, tuning=LOWER)), Plan(data_parallel=2, zero_stage=1)
    forget_steps()
    mutate(monkeypatch)
    assert quantity in failed(toy, plan)
    monkeypatch.undo()
    forget_steps()


@pytest.mark.parametrize(
    ("plan", "freeze", "said"),
    [
        ({"pipeline_parallel": 2}, ["embedding", "layers 0..1"], "the first stage has no trained weights"),
        ({}, "base", "nothing is trained"),
        ({}, ["layers 3..4"], "names no layers of the model, which are 0 to 3"),
        ({}, ["layer 3"], "unknown part to freeze"),
    ],
)
def test_what_cannot_be_frozen_is_refused(plan: dict[str, int], freeze: object, said: str) -> None:
    tiny = {"model": {"base": "tiny-gpt", "num_layers": 4}, "cluster": {"node": "dgx-a100-80gb"}}
    batch = {"global_batch": 16, "sequence_length": 8}
    with pytest.raises(ScenarioError, match=said):
        parsim.from_mapping({**tiny, "batch": batch, "plans": {"a": plan}, "tuning": {"freeze": freeze}})
