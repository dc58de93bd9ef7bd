"""What replicas that train apart (gradient_sync = local_sgd) do not go together with."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.spec import ModelSpec
from parsim.parallel.fault import PlanFault
from parsim.parallel.optimizer import LOCAL_SGD, OPTIMIZERS
from parsim.parallel.plan import KEYS, Batch, Plan, Stack
from parsim.parallel.precision import RECIPES

_WITH: str = f"gradient_sync = {LOCAL_SGD}"
PERIOD = ("local_steps", "outer_optimizer")


def local_sgd(plan: Plan) -> Iterator[PlanFault]:
    """What a plan says besides."""
    if plan.gradient_sync != LOCAL_SGD:
        for name in PERIOD:
            if (value := getattr(plan, name)) != KEYS[name].default:
                message = f"{name} = {value} is of replicas that train apart, but gradient_sync = {plan.gradient_sync}"
                yield PlanFault(name, message, f"Set {_WITH}, or leave {name} out")
        return
    if plan.data_parallel == 1:
        message = f"{_WITH} lets replicas train apart, but data_parallel = 1"
        yield PlanFault("gradient_sync", message, "Set data_parallel above 1, or gradient_sync = all_reduce")
    if plan.zero_stage:
        message = f"{_WITH} lets each replica change weights of its own, but zero_stage = {plan.zero_stage} shares them out over replicas"
        yield PlanFault("zero_stage", message, "Set zero_stage = 0, or gradient_sync = all_reduce")
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
