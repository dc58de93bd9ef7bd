"""What is exported to DeepSpeed and accelerate goes through their own parsers, where these are installed (extra [export])."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_deepspeed import scenario

import parsim
from parsim.parallel.plan import Plan
from parsim.targets import Launch
from random_plans import drawn
from round_trips import nearest, of_one_stage

TRAPS = {
    "zero 3 with the optimizer on the host": Plan(data_parallel=8, micro_batch=2, zero_stage=3, offload_optimizer=True, recompute="full"),
    "parameters that stay": Plan(data_parallel=8, zero_stage=3, reshard_after_forward=False),
    "sequences over ranks": Plan(data_parallel=4, context_parallel=2, context_kind="ulysses", zero_stage=2),
}
TP = {"tensor parallelism": Plan(data_parallel=4, tensor_parallel=2, zero_stage=1)}
PP = {"a pipeline": Plan(data_parallel=4, pipeline_parallel=2, zero_stage=1, recompute="full")}
MESH = {"a mesh": Plan(data_parallel=4, tensor_parallel=2, zero_stage=3), "groups": Plan(data_parallel=8, zero_stage=3, zero_group=2)}


def launches(target: str, plans: dict[str, Plan]) -> Iterator[tuple[Plan, Launch]]:
    """Of these plans, and of drawn ones."""
    for plan in plans.values():
        yield plan, parsim.export_plan(scenario(), plan, target)
    for seed in range(40):
        for case, said in nearest(of_one_stage(drawn(seed)), target):
            if isinstance(said, Launch):
                yield case.plan, said


def test_deepspeed_takes_each_export_and_finds_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("deepspeed.runtime.config")
    monkeypatch.setattr(config.dist, "get_rank", lambda: 0)
    for plan, launch in launches("deepspeed", {**TRAPS, **TP, **PP}):
        document = json.loads(launch.files["ds_config.json"])
        mpu = Namespace(get_data_parallel_world_size=lambda plan=plan: plan.data_parallel)
        read = config.DeepSpeedConfig(dict(document), mpu=mpu)
        assert read.train_batch_size == read.train_micro_batch_size_per_gpu * read.gradient_accumulation_steps * plan.data_parallel
        assert (read.train_micro_batch_size_per_gpu, int(read.zero_config.stage)) == (plan.micro_batch, plan.zero_stage)
        assert bool(read.zero_config.offload_optimizer) is plan.offload_optimizer
        assert read.tensor_parallel_config.autotp_size in (0, plan.tensor_parallel)
        assert read.expert_parallel_config.autoep_size == plan.expert_parallel
        assert read.pipeline["stages"] in ("auto", plan.pipeline_parallel)


def test_deepspeed_refuses_by_name_what_an_import_refuses_by_name() -> None:
    config = pytest.importorskip("deepspeed.runtime.config")
    from parsim.targets.launchers import deepspeed

    assert {*config._REMOVED_TOP_LEVEL_CONFIG_KEYS} == {*deepspeed._REMOVED}
    assert {*config._REMOVED_ZERO_CONFIG_KEYS} == {*deepspeed._REMOVED_OF_ZERO}


def test_accelerate_takes_each_export_and_finds_as_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    for number, (plan, launch) in enumerate(launches("accelerate", {**TRAPS, **MESH})):
        file = tmp_path / f"{number}.yaml"
        file.write_text(launch.files["accelerate.yaml"])
        args, config, sizes = _accelerates(file, launch, monkeypatch)
        assert config.num_processes == plan.num_devices == args.num_processes
        assert args.mixed_precision in ("bf16", "fp16", "no")
        if config.parallelism_config:
            assert sizes.total_size == (plan.context_parallel if sizes.sp_size > 1 else plan.num_devices)
        if config.deepspeed_config:
            assert args.zero_stage == plan.zero_stage and args.use_deepspeed
        if config.fsdp_config:
            assert (
                args.use_fsdp
                and args.fsdp_version == 2
                and str(args.fsdp_reshard_after_forward).lower() == str(plan.reshard_after_forward is not False).lower()
            )


def _accelerates(file: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """What its launcher makes of the file: arguments, config, sizes."""
    from accelerate import ParallelismConfig
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_extend_env_parallelism_config

    monkeypatch.setattr("accelerate.commands.launch.is_bf16_available", lambda *args, **kwargs: True, raising=False)
    words = launch.command.replace("accelerate.yaml", str(file)).split()[2:]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    config = load_config_from_file(str(file))
    env = prepare_extend_env_parallelism_config(args, {}) if args.use_parallelism_config else {}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    sizes = ParallelismConfig() if env else None
    for name in env:
        monkeypatch.delenv(name)
    return args, config, sizes
