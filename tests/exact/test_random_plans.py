"""The exactness contract on plans drawn from a seed: whatever is legal together agrees, on every rank and in every quantity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import asdict

from parsim import collectives, schedules
from parsim.collectives.ring import Ring
from parsim.executor.job import Job
from parsim.executor.lockstep import Mail
from parsim.model import gates
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.legality import faults
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import DISPATCHES, Batch, Plan
from parsim.verify import verify_plan
from random_plans import FUSIONS, MEMORY_FLAGS, MOST_RANKS, NARROW, ORDERS, Drawn, drawn
from support import GPT, STACK, tiered

FAST, ALL = 28, 1_100  # seeds behind FAST are slow, and those that take as long as several others
LONG = (1, 4, 7, 9, 18, 19, 24, 25, 27)
DEFAULT = [seed for seed in range(FAST) if seed not in LONG]


def wrong(case: Drawn) -> list[str]:
    return [str(check) for check in verify_plan(case.scenario, case.plan, "drawn") if not check.ok]


def told(case: Drawn, found: list[str]) -> str:
    s = case.scenario
    return "\n".join(map(str, (*found, case.plan, s.model, s.batch, s.stack, s.cluster.node)))


@pytest.mark.parametrize("seed", [tiered(seed, str(seed), slow=seed not in DEFAULT) for seed in range(ALL)])
def test_prediction_and_execution_agree_on_a_plan_drawn_from_the_seed(seed: int) -> None:
    case = drawn(seed)
    found = wrong(case)
    assert not found, told(case, found)


ROUTED = ("gates", "drop_policy", "steer_rate", "expert_groups", "load_skew", "balance_coefficient", "pad_to_capacity", "gates_on_input")


def values(case: Drawn) -> Iterator[tuple[str, object]]:
    """What a case chose."""
    for part in (case.plan, case.scenario.stack):
        yield from asdict(part).items()
    model = case.scenario.model
    yield "family", model.family
    yield from ((name, getattr(model, name)) for name in ("norm", "positions", "head", "causal") if hasattr(model, name))
    if getattr(model, "num_experts", 0):
        yield from ((name, getattr(model, name)) for name in ROUTED)
        yield from (("dispatch of experts", case.scenario.stack.dispatch), ("dtype of experts", case.scenario.batch.dtype))
    yield from (("activation", model.activation), ("num_devices", case.plan.num_devices))


def test_one_hundred_drawn_plans_meet_every_value_of_every_switch() -> None:
    met: dict[str, set[object]] = {}
    for name, value in (pair for seed in range(100) for pair in values(drawn(seed))):
        met.setdefault(name, set()).add(tuple(sorted(value.items())) if isinstance(value, dict) else value)
    named = {name for name in met["schedule"] if isinstance(name, str)}
    assert named == set(schedules.names()) and any(isinstance(each, tuple) for each in met["schedule"])
    for name, expected in {
        "recompute": {"none", "selective", "full"},
        "gradient_sync": {"all_reduce", "master"},
        "rank_order": set(ORDERS),
        "optimizer": set(OPTIMIZERS),
        "zero_stage": {0, 1, 2, 3},
        "context_kind": set(kinds()),
        "attention": {"unfused", "fused_softmax", "flash"},
        "gradient_dtype": {"fp32", "compute"},
        "gradient_copies": {"none", "update", "sum"},
        "layer_split": {"even", "embedding_and_head", "remainder_first"},
        "family": {"transformer", "mlp"},
        "head": {"next_token", "masked_token", "text", "token"},
        "gates": set(gates.names()),
        "drop_policy": {"position", "probs"},
        "dispatch of experts": set(DISPATCHES),
        **{name: {0.0, rate} for name, rate in (("steer_rate", 0.001), ("load_skew", 0.9), ("balance_coefficient", 0.01))},
        **{key: {True, False} for key in ("pad_to_capacity", "gates_on_input")},
        "activation": {"gelu", "relu", "squared_relu", "swiglu", "tanh"},
        **{key: {True, False} for key in ("sequence_parallel", "offload_optimizer", "causal")},
        "reshard_after_forward": {True, False, None},
        **{key: {True, False} for key in ("gather_logits", "tensor_overlap", "gradient_overlap", "scatter_gather", "recompute_early_stop")},
        **{key: {True, False} for key in ("optimizer_in_backward", "host_float32_gradients", "frees_gradients", *MEMORY_FLAGS)},
    }.items():
        assert met[name] == expected, name
    for name in (
        "data_parallel",
        "tensor_parallel",
        "context_parallel",
        "pipeline_parallel",
        "virtual_pipeline",
        "micro_batch",
        "recompute_every",
    ):
        assert len(met[name]) >= 2, name
    for name in ("zero_group", "layers_per_stage", "recompute_modules", "recompute_ops", "loss_chunks"):
        assert len(met[name]) >= 3, name
    assert {fusion for fusions in met["fusions"] for fusion in fusions} == set(FUSIONS)  # type: ignore[attr-defined]
    assert {name for chosen in met["collectives"] for _, name in chosen} == set(collectives.names()) - {"pairwise", "rotation"}  # type: ignore[attr-defined]
    assert max(met["num_devices"]) == MOST_RANKS  # type: ignore[type-var]
    assert met["dtype of experts"] >= set(NARROW)


def test_of_drawn_plans_a_fifth_hides_exchanges_of_experts_and_some_do_in_the_default_tier() -> None:
    plans = [drawn(seed).plan for seed in range(100)]
    hidden = [(plan.expert_parallel > 1, plan.schedule) for plan in plans]
    usual = [hidden[seed] for seed in DEFAULT]
    for name, least in (("combined_1f1b", 8), ("combined_1f1b_delayed", 4), ("dual_pipe", 4), ("dual_pipe_v", 4)):
        assert hidden.count((True, name)) >= least and (True, name) in usual, name


def _one_more(right: Callable[..., int]) -> Callable[..., int]:
    return lambda *args: right(*args) + 1


def _late_messages(right: Callable[..., None]) -> Callable[..., None]:
    return lambda *args: right(*args[:-1], args[-1] + 1)


def _mean_of_the_replica(right: Callable[..., float]) -> Callable[..., float]:
    return lambda job, *args: right(job, *args) * (1 if args[1] != "per_token" else job.asked.plan.data_parallel)


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "quantity"),
    [
        (Ring, "sent_elements", _one_more, "bytes sent"),
        (Mail, "post", _late_messages, "picoseconds, virtual clocks"),
        (Job, "_attribute", _mean_of_the_replica, "weight gradients"),
    ],
)
def test_drawn_plans_notice_a_mutant(
    owner: type, name: str, mutant: Callable[..., Any], quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant(getattr(owner, name)))
    assert any(quantity in line for seed in DEFAULT for line in wrong(drawn(seed)))


@pytest.mark.parametrize("name", ["mix", "core_attn"])
def test_an_op_that_selective_recomputation_runs_again_is_not_chosen_a_second_time(name: str) -> None:
    """Found by seeds 450 and 607: the second results would meet the first."""
    found = faults(Plan(recompute="selective", recompute_ops=(name,)), GPT, Batch(8, 8), 1, stack=STACK)
    assert [str(fault).endswith("again already. Leave it out, or set recompute to none") for fault in found] == [True]
