"""torchtitan in its three dialects: what is written is read as the same plan, and what it cannot say or would not run is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from launch_plans import drawn_setup
from parsim.errors import PlanError
from parsim.targets import ForeignJob, Launch, NotExpressible, Setup, read_job
from parsim.targets.exporting import differences, export_setup, find
from parsim.targets.launchers import torchtitan as launcher
from round_trips import unnoticed

VERSIONS = ("0.3.0", "main-2026-08", "0.2.2")
MODELS = ("llama3-8b", "llama3-70b", "qwen3-30b-a3b", "deepseek-v2-lite", "llama2-7b")
STACKS = ("torchtitan", "torchtitan", "torchtitan-compiled")


USUAL = {
    "recompute_every": (1,),
    "zero_stage": (3,),
    "context_kind": ("all_gather",),
    "optimizer": ("adamw",),
    "sequence_parallel": (True,),
    "precision": (None, "bf16", "fp32", "fp8_rowwise"),
}


def written(setup: Setup, version: str) -> Launch:
    target, _ = find(f"torchtitan@{version}")
    return export_setup(target, version, setup)


def read_back(launch: Launch) -> ForeignJob:
    name, text = next(iter(launch.files.items()))
    return read_job(text, name, "torchtitan")


def setups(seeds: range, *, all_fields: bool = False) -> Iterator[Setup]:
    mostly = {} if all_fields else USUAL
    return (drawn_setup(seed, models=MODELS, stacks=STACKS, all_fields=all_fields, mostly=mostly) for seed in seeds)


def round_trip(seeds: range, version: str, all_fields: bool, enough: int = 10**9) -> Counter[str]:
    """Draws by what became of them: "same", or the field that was refused."""
    found: Counter[str] = Counter()
    for setup in setups(seeds, all_fields=all_fields):
        try:
            launch = written(setup, version)
        except NotExpressible as error:
            found[error.field] += 1
            continue
        except PlanError as error:
            found[f"would not run: {error}".split("\n")[0][:160]] += 1
            continue
        job = read_back(launch)
        assert not [*differences(setup, job)] and job.keys["stack"] == setup.stack.name, setup.plan
        found["same"] += 1
        if found["same"] == enough:
            break
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_comes_back_from_its_files(version: str) -> None:
    assert round_trip(range(100), version, False, 12)["same"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_five_hundred_plans_come_back_from_their_files(version: str) -> None:
    assert round_trip(range(5_000), version, False, 500)["same"] == 500


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_plans_with_all_fields_come_back_or_are_refused(version: str) -> None:
    assert round_trip(range(500), version, True)["same"] > 0


def _drop(key: str, patch: pytest.MonkeyPatch) -> None:
    """A key that is not written, so that its usual value is read."""
    for name in ("_as_toml", "_flags"):
        right = getattr(launcher, name)
        patch.setattr(launcher, name, lambda keys, right=right: right({k: v for k, v in keys.items() if not k.endswith(key)}))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", ["tensor_parallel_degree", "data_parallel_replicate_degree", "pipeline_parallel_schedule"])
def test_a_key_that_is_not_written_is_noticed(key: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _drop(key, monkeypatch)
    with pytest.raises(AssertionError):
        round_trip(range(60), version, False)


# What is always the same: the stack is no part of a plan, the newer dialects know one kind of context parallelism, the file one optimizer.
SAME = {"stack", "plan.context_kind"}


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_no_entry_could_be_silent_or_deaf_without_notice(version: str) -> None:
    same = SAME | ({"plan.optimizer", "plan.sequence_parallel"} if version == "0.2.2" else set())
    drawn = [*setups(range(120)), *setups(range(60), all_fields=True), *map(more, setups(range(40)))]
    assert not {each.split()[1] for each in unnoticed(f"torchtitan@{version}", drawn)} - same


def more(setup: Setup) -> Setup:
    """The setup with what is seldom drawn, on all devices of a pipeline's stages."""
    return replace(setup, plan=replace(setup.plan, context_kind="ring", optimizer_in_backward=setup.plan.expert_parallel == 1))


OLD = """
[model]
name = "llama3"
flavor = "70B"
norm_type = "rmsnorm"
[training]
batch_size = 8
seq_len = 8192
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
compile = true
[experimental]
pipeline_parallel_degree = 2
enable_async_tensor_parallel = true
[activation_checkpoint]
mode = "full"
[float8]
enable_float8_linear = true
"""


def test_a_file_of_a_release_before_0_1_has_its_degrees_in_other_sections() -> None:
    """Source: pytorch/torchtitan, the parent of 785c34c99 (March 2025), torchtitan/config_manager.py."""
    job = read_job(OLD, "llama3_70b.toml")
    asked = ("plan.tensor_parallel", "plan.pipeline_parallel", "plan.zero_stage", "plan.recompute", "batch.dtype")
    assert [job.keys[key] for key in asked] == [8, 2, 3, "full", "fp8_current"]
    assert {each.key for each in job.left} == {"model.norm_type", "parallelism.enable_async_tensor_parallel"}
