"""A plan that is exported to a launcher's file and imported again is the same work, on as many devices, of the same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan
from parsim.errors import PlanError
from parsim.targets import TARGETS, Setup, find, read_job
from parsim.targets.launchers import accelerate, deepspeed
from round_trips import expressed, of_one_stage, plan_of, same_work, tally, unnoticed

LAUNCHERS = ("accelerate", "deepspeed")


@pytest.mark.parametrize("target", LAUNCHERS)
def test_plans_come_back_from_a_launchers_file_or_are_refused(target: str) -> None:
    found = tally(target, range(15), of_one_stage)
    assert not found.failed, "\n".join(found.failed)
    assert found.came_back > 5


@pytest.mark.slow
@pytest.mark.parametrize("target", LAUNCHERS)
def test_500_plans_come_back_from_a_launchers_file_or_are_refused(target: str) -> None:
    drawn, of_one = tally(target, range(500)), tally(target, range(500), of_one_stage)
    assert not drawn.failed + of_one.failed, "\n".join(drawn.failed + of_one.failed)
    assert drawn.came_back > 50 and of_one.came_back > 300


def test_a_reader_that_loses_a_key_of_the_file_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, lost in ((deepspeed, "train_micro_batch_size_per_gpu"), (accelerate, "parallelism_config.parallelism_config_tp_size")):
        whole = module.flatten

        def flatten(mapping, above="", whole=whole, lost=lost):  # type: ignore[no-untyped-def]
            return ((key, value) for key, value in whole(mapping, above) if key != lost)

        monkeypatch.setattr(module, "flatten", flatten)
        assert tally(module.NAME, range(15), of_one_stage).failed


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_what_clips_gradients_comes_back_from_accelerate(zero_stage: int) -> None:
    tiny = parsim.load("scenarios/tiny.yaml")
    clipped = replace(tiny, training=replace(tiny.training, max_norm=0.5), batch=replace(tiny.batch, dtype="bf16"))
    launch = parsim.export_plan(clipped, Plan(data_parallel=4, zero_stage=zero_stage), "accelerate")
    assert read_job(launch.files["accelerate.yaml"], "accelerate.yaml").keys["training.max_norm"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("target", LAUNCHERS)
def test_no_entry_could_be_silent_or_deaf_without_notice(target: str) -> None:
    tiny = parsim.load("scenarios/tiny.yaml")
    clipped = replace(tiny, batch=replace(tiny.batch, dtype="bf16"), training=replace(tiny.training, max_norm=0.5))
    long = Setup("long", clipped, Plan(data_parallel=2, context_parallel=2, context_kind="ulysses", zero_stage=1))
    same = {"plan.expert_tensor_parallel"}  # 1, or refused
    assert not {each.split()[1] for each in unnoticed(target, [long, *expressed(target, range(300))])} - same


@pytest.mark.slow
def test_every_plan_of_every_scenario_comes_back_from_each_target_or_is_refused() -> None:
    find("pytorch")  # with which all targets are there
    targets, written = [TARGETS.get(name) for name in TARGETS.names()], 0
    for path in sorted(Path("scenarios").glob("*.yaml")):
        scenario = parsim.load(path)
        for name, plan in scenario.plans.items():
            for to in (f"{target.name}@{version}" for target in targets for version in target.versions):
                try:
                    launch = parsim.export_plan(scenario, name, to)
                except PlanError:  # and nothing else
                    continue
                file, text = next(iter(launch.files.items()))
                job = read_job(text, file)
                assert job.target == launch.target and same_work(scenario, plan, plan_of(job)), (path.stem, name, to)
                written += 1
    assert written > 200
