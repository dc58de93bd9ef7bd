"""What replicas that train apart (gradient_sync = local_sgd) do not go together with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parsim.model.spec import ModelSpec
from parsim.parallel.fault import PlanFault
from parsim.parallel.optimizer import LOCAL_SGD, OPTIMIZERS
from parsim.parallel.plan import KEYS, Batch, Plan, Stack
from parsim.parallel.precision import RECIPES

_WITH: Final = f"gradient_sync = {LOCAL_SGD}"
PERIOD: Final = ("local_steps", "outer_optimizer")


def local_sgd(plan: Plan) -> Iterator[PlanFault]:
    """What a plan says besides."""
    if plan.gradient_sync != LOCAL_SGD:
        for name in PERIOD:
            if (value := getattr(plan, name)) != KEYS[name].default:
                message = f"{name} = {value} is of replicas that train apart, but gradient_sync = {plan.gradient_sync}"
                yield PlanFault(name, message, f"Set {_WITH}, or leave {name} out")
        return
    if plan.data_parallel == (plan.zero_group or 1):
        group = "" if plan.zero_group is None else f" and zero_group = {plan.zero_group}"
        message = f"{_WITH} lets replicas train apart, but data_parallel = {plan.data_parallel}{group}"
        yield PlanFault("gradient_sync", message, "Set data_parallel above that, or gradient_sync = all_reduce")
    elif plan.zero_stage and plan.zero_group is None:
        message = f"{_WITH} lets each replica change weights of its own, but zero_stage = {plan.zero_stage} shares them out over all"
        yield PlanFault("zero_stage", message, "Set zero_stage = 0, or zero_group to the replicas that stay together")
    elif plan.zero_group == 1:
        yield PlanFault("zero_group", f"{_WITH} with zero_group = 1 keeps no replicas together", "Leave zero_group and zero_stage out")
    not_built = {
        "optimizer_in_backward": plan.optimizer_in_backward,
        "offload_optimizer": plan.offload_optimizer,
        "optimizer": OPTIMIZERS[plan.optimizer].paged,
        "expert_parallel": plan.expert_parallel > 1,
        "expert_tensor_parallel": plan.expert_tensor_parallel > 1,
    }
    for name in (name for name, is_asked in not_built.items() if is_asked):
        value, usual = (str(each).lower() for each in (getattr(plan, name), KEYS[name].default))
        yield PlanFault(name, f"{_WITH} with {name} = {value} is not built", f"Set {name} = {usual}, or gradient_sync = all_reduce")


def local_model(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """Experts, whose loads all replicas count together."""
    if plan.gradient_sync == LOCAL_SGD and "E" in model.extents:
        yield PlanFault(
            "gradient_sync", f'{_WITH} is not built for experts, which model "{model.name}" has', "Set gradient_sync = all_reduce"
        )


def local_precision(plan: Plan, batch: Batch) -> Iterator[PlanFault]:
    """Formats whose scales all replicas find together."""
    name = Stack("any").precision(plan.precision or batch.dtype)
    if plan.gradient_sync == LOCAL_SGD and name in RECIPES and RECIPES[name].narrows:
        yield PlanFault("gradient_sync", f"{_WITH} is not built in {name}", "Set gradient_sync = all_reduce, or precision = bf16")
