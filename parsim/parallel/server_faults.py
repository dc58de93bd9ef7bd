"""What a plan cannot be whose replicas are workers of parameter servers, and the keys that say nothing without these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parsim.model.spec import ModelSpec
from parsim.parallel.fault import PlanFault
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import KEYS, SERVED, Plan

KEYS_OF_SERVERS: Final = ("parameter_servers", "staleness_bound", "backup_workers")
# A worker is one device with all weights, and hands its gradients on as they are.
_ONE_DEVICE: Final = (
    *("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel", "expert_tensor_parallel", "dimensions"),
    *("zero_stage", "offload_optimizer"),  # of optimizer_in_backward the rule of optimizers tells
)
READS: Final = ("gradient_sync", *KEYS_OF_SERVERS, *_ONE_DEVICE, "data_parallel", "optimizer")
MOST_MESSAGES: Final = 250_000  # of all workers where they wait for one update; else of one
_OTHERWISE: Final = "or gradient_sync = all_reduce"


def servers(plan: Plan) -> Iterator[PlanFault]:
    """Workers of one device each, and keys that fit one another."""
    if not plan.is_served:
        for name in (name for name in KEYS_OF_SERVERS if getattr(plan, name) != KEYS[name].default):
            message = f"{name} = {getattr(plan, name)} is of parameter servers, but gradient_sync = {plan.gradient_sync}"
            yield PlanFault(name, message, f"Set gradient_sync = {SERVED}, or leave {name} out")
        return
    for name in (name for name in _ONE_DEVICE if getattr(plan, name) != KEYS[name].default):
        message = f"a worker of parameter servers is one device that updates nothing, but {name} = {_text_of(getattr(plan, name))}"
        yield PlanFault(name, message, f"Set {name} = {_text_of(KEYS[name].default)}, {_OTHERWISE}")
    messages = plan.parameter_servers * (plan.data_parallel if plan.staleness_bound == 0 else 1)
    if messages > MOST_MESSAGES:
        message = f"parameter_servers = {plan.parameter_servers} would be {messages:,} messages of a round to look at, which takes minutes"
        yield PlanFault("parameter_servers", message, f"Legal: so many servers that there are at most {MOST_MESSAGES:,}")
    if OPTIMIZERS[plan.optimizer].paged:
        message = f"optimizer = {plan.optimizer} keeps states in pages for a device, but parameter servers hold them"
        yield PlanFault("optimizer", message, f"Choose another optimizer, {_OTHERWISE}")
    if plan.backup_workers and plan.staleness_bound != 0:
        message = f"backup_workers = {plan.backup_workers} are of workers that wait for one update, but each gradient is one by itself"
        yield PlanFault("backup_workers", message, "Set staleness_bound = 0, or backup_workers = 0")
    elif plan.backup_workers >= plan.data_parallel:
        message = f"backup_workers = {plan.backup_workers} of data_parallel = {plan.data_parallel} leave no gradient to apply"
        yield PlanFault("backup_workers", message, f"Legal: at most {plan.data_parallel - 1}")


def steered_experts(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """Biases that steer choices of experts follow the loads of all replicas, which asynchronous ones never know together."""
    if plan.is_served and model.steering:
        message = f'workers of parameter servers do not sum loads of experts, by which steer_rate of model "{model.name}" moves biases'
        yield PlanFault("gradient_sync", message, "Set gradient_sync = all_reduce, or steer_rate of the model to 0")


def _text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "none" if value == () else str(value)
