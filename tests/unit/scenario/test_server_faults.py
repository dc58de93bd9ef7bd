"""What parameter servers cannot run, each said in a sentence with its way out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from parsim import from_mapping, load
from parsim.errors import ScenarioError
from parsim.parallel import server_faults
from parsim.parallel.legality import faults
from parsim.parallel.plan import KEYS, Plan
from parsim.targets import NotExpressible, export_plan

SERVED = {"data_parallel": 4, "gradient_sync": "parameter_server"}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        (
            {"tensor_parallel": 2},
            "tensor_parallel",
            "is one device that updates nothing, but tensor_parallel = 2",
        ),
        ({"zero_stage": 1}, "zero_stage", "Set zero_stage = 0, or gradient_sync = all_reduce"),
        ({"offload_optimizer": True}, "offload_optimizer", "Set offload_optimizer = false"),
        ({"optimizer_in_backward": True}, "optimizer_in_backward", "with gradient_sync = parameter_server is not built"),
        ({"optimizer": "paged_adamw"}, "optimizer", "parameter servers hold them"),
        ({"backup_workers": 1}, "backup_workers", "Set staleness_bound = 0, or backup_workers = 0"),
        ({"backup_workers": 4, "staleness_bound": 0}, "backup_workers", "Legal: at most 3"),
        ({"staleness_bound": -1}, "staleness_bound", "staleness_bound = -1 is below 0"),
        ({"parameter_servers": 250_001}, "parameter_servers", "at most 250,000"),
        ({"parameter_servers": 62_501, "staleness_bound": 0}, "parameter_servers", "250,004 messages of a round"),
        ({"parameter_servers": 0}, "parameter_servers", "is not a positive whole number"),
        (
            {"gradient_sync": "all_reduce", "staleness_bound": 0},
            "staleness_bound",
            "is of parameter servers, but",
        ),
        ({"gradient_sync": "master", "parameter_servers": 2}, "parameter_servers", "Set gradient_sync = parameter_server, or leave"),
    ],
)
def test_what_parameter_servers_cannot_run_is_said(changes: dict[str, Any], field: str, said: str) -> None:
    found = faults(Plan(**(SERVED | changes)), None, None, None)
    assert [(fault.field, said in str(fault)) for fault in found] == [(field, True)], [*map(str, found)]


def test_the_rule_of_servers_reads_no_other_field_than_it_says() -> None:
    rng = random.Random(16)
    values: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(server_faults.KEYS_OF_SERVERS, (0, 1, 2)),
        **dict.fromkeys(("tensor_parallel", "pipeline_parallel", "expert_parallel", "micro_batch", "recompute_every"), (1, 2)),
        **{
            "zero_stage": (0, 1),
            "optimizer": ("adamw", "paged_adamw"),
            "offload_optimizer": (False, True),
            "sequence_parallel": (False, True),
        },
    }
    told = set()
    for _ in range(200):
        plan = Plan(**SERVED, **{name: rng.choice((KEYS[name].default, *own)) for name, own in values.items()})  # type: ignore[arg-type]
        found = [*server_faults.servers(plan)]
        assert found == [*server_faults.servers(Plan(**{name: getattr(plan, name) for name in server_faults.READS}))]
        told |= {fault.field for fault in found}
    assert told >= {"tensor_parallel", "zero_stage", "optimizer", "offload_optimizer", "backup_workers"}


def test_what_is_left_out_of_documents_is_what_no_other_plan_has() -> None:
    assert not {"parameter_servers", "staleness_bound", "backup_workers"} & Plan().to_dict().keys()
    plan = Plan(**SERVED, staleness_bound=0, backup_workers=1, parameter_servers=2)  # type: ignore[arg-type]
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("target", ["pytorch", "tensorflow", "tensorflow-parameter-server", "keras"])
def test_no_program_has_workers_that_push_each_for_itself(target: str) -> None:
    with pytest.raises(NotExpressible, match="gradient_sync"):
        export_plan(load("scenarios/digits-mlp.yaml"), Plan(**SERVED, micro_batch=16), target)  # type: ignore[arg-type]


def test_loads_that_steer_experts_are_sums_that_no_worker_knows() -> None:
    model = {"base": "deepseek-v3", "name": "small", "num_layers": 4, "steer_rate": 0.001}
    cluster = {"node": "dgx-a100-80gb"}
    scenario = {"model": model, "cluster": cluster, "batch": {"global_batch": 8, "sequence_length": 64}, "plans": {"a": {**SERVED}}}
    scenario["plans"]["a"]["data_parallel"] = 8  # type: ignore[index]
    with pytest.raises(ScenarioError, match='steer_rate of model "small" moves biases'):
        from_mapping(scenario)
