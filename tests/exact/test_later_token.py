"""The module that predicts the token after the next keeps the contract, on the last stage with embedding and output layer shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim.cost.sizes import Sizes
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.executor.job import Job
from parsim.model.tuning import Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Plan, Stack
from parsim.parallel.tuning_faults import tuning_faults
from parsim.step import finish
from parsim.step.task import Compute
from parsim.verify import verify_plan
from support import GPT, MOE, STACKS, enough, every_other, forget_steps, scenario

MODELS = {
    "untied, of experts": replace(MOE, num_layers=4, mtp_layers=1, mtp_loss_weight=0.3, tied_embedding=False),
    "tied, with windows": replace(GPT, mtp_layers=1, sliding_window=3, full_attention_every=3),  # its layer is as the last, with a window
}
STACK = replace(STACKS[2], fusions=("swiglu", "gradient_accumulation", "loss_in_place"))
PLANS = {
    "alone": Plan(),
    "sp": Plan(tensor_parallel=2, sequence_parallel=True),
    "pp": Plan(pipeline_parallel=2, schedule="zero_bubble_h1", recompute="full"),
    "v": Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="dual_pipe_v"),
    "zero": Plan(pipeline_parallel=3, layers_per_stage=(2, 1, 1), data_parallel=2, zero_stage=1),
    "cp": Plan(context_parallel=2, context_kind="ring", data_parallel=2, zero_stage=3),
}


def failures(model: str, plan: Plan, loss_chunks: int = 1, stack: Stack = STACK) -> set[str]:
    toy = scenario(model=MODELS[model], batch=enough(plan, most=8), stack=replace(stack, loss_chunks=loss_chunks))
    assert not faults(plan, MODELS[model], toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("case", every_other(PLANS, MODELS, "{}-{}".format))
def test_a_module_for_a_later_token_keeps_the_contract(case: tuple[str, str]) -> None:
    plan, model = case
    assert not failures(model, PLANS[plan], loss_chunks=1 + (plan == "sp"))


@pytest.mark.parametrize(("plan", "loss_chunks"), [("alone", 1), ("sp", 2)])
def test_a_table_that_three_ops_read_gets_what_each_adds_where_no_kernel_does(plan: str, loss_chunks: int) -> None:
    assert not failures("tied, with windows", PLANS[plan], loss_chunks, stack=replace(STACK, fusions=("swiglu",)))


def test_a_model_of_which_all_is_trained_has_nothing_to_tune() -> None:
    assert not [*tuning_faults(MODELS["tied, with windows"])]
    assert [key for key, _ in tuning_faults(replace(MODELS["tied, with windows"], tuning=Tuning(freeze=("embedding",))))] == ["freeze"]


def test_experts_of_the_module_are_split() -> None:
    assert not failures("untied, of experts", Plan(data_parallel=2, expert_parallel=2, pipeline_parallel=2))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"head": "text", "tied_embedding": False}, "goes with head = next_token"),
        ({"norm_last": True}, "norm_last"),
        ({"mtp_layers": 0, "mtp_loss_weight": 0.3}, "mtp_loss_weight = 0.3 goes with mtp_layers, which is 0"),
    ],
)
def test_a_head_of_labels_predicts_no_later_token(figures: dict[str, object], said: str) -> None:
    stated = {name: getattr(GPT, name) for name in type(GPT).figures()}
    with pytest.raises(ParsimError, match=said):
        type(GPT).of(name="wrong", **{**stated, "mtp_layers": 1, **figures})


def _weighs_1(patch: pytest.MonkeyPatch) -> None:
    right = Job._attribute

    def attribute(job: Job, task: Compute, value: float | str, sizes: Sizes) -> object:
        return right(job, task, "per_token" if value == "per_later_token" else value, sizes)

    patch.setattr(Job, "_attribute", attribute)


def _copies_are_not_summed(patch: pytest.MonkeyPatch) -> None:
    right = finish._sums
    patch.setattr(finish, "_sums", lambda *given: [task for task in right(*given) if task.name != "tied_embedding_gradients"])


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, set[str]]] = {
    _weighs_1: ("alone", {"loss, by hand"}),
    _copies_are_not_summed: ("pp", {"weight gradients"}),
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_module_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, noticed = MUTANTS[mutate]
    forget_steps()
    mutate(monkeypatch)
    try:
        assert noticed <= failures("untied, of experts", PLANS[plan])
    finally:
        forget_steps()


def test_a_model_that_predicts_a_later_token_is_asked_about_by_its_structs() -> None:
    assert estimate(scenario(model=MODELS["untied, of experts"], stack=STACKS[2]), Plan()).step_s > 0
