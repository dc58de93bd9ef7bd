"""The real parsers of torchtitan, where they are installed, take what is written, and read the degrees that the plan has."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from launch_plans import drawn_setup, unknown_model
from parsim.errors import PlanError
from parsim.targets import Launch, Setup
from parsim.targets.exporting import export_setup, find

FLAVOURS = ("llama3-8b", "llama3-70b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b")


def launches(version: str, count: int) -> list[tuple[Setup, Launch]]:
    found: list[tuple[Setup, Launch]] = []
    target, _ = find(f"torchtitan@{version}")
    for seed in range(40 * count):
        setup = drawn_setup(seed, models=FLAVOURS, stacks=("torchtitan",))
        try:
            found.append((setup, export_setup(target, version, setup)))
        except PlanError:
            continue
        if len(found) == count:
            break
    return found


def check_degrees(setup: Setup, parallelism: Any, dims: Any) -> None:
    plan = setup.plan
    degrees = (dims.dp_replicate * dims.dp_shard, dims.cp, dims.tp, dims.pp, dims.ep)
    asked = (plan.data_parallel, plan.context_parallel, plan.tensor_parallel, plan.pipeline_parallel, plan.expert_parallel)
    assert degrees == asked
    shards = dims.dp_shard if dims.dp_replicate > 1 else None
    assert plan.zero_group in (None, dims.dp_shard) and (plan.zero_stage == 0 or shards in (None, plan.zero_group))
    if plan.layers_per_stage and plan.pipeline_parallel > 1:
        counts = [sum(name.startswith("layers.") for name in part) for part in parallelism.module_fqns_per_model_part]
        assert tuple(counts) == plan.layers_per_stage


@pytest.mark.slow
def test_the_command_line_of_0_3_is_taken_by_torchtitans_own_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tyro")
    config = pytest.importorskip("torchtitan.config")
    if not hasattr(config, "ConfigManager") or not hasattr(config, "ParallelismConfig"):
        pytest.skip("another release of torchtitan")
    from torchtitan.distributed import ParallelDims

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for setup, launch in launches("0.3.0", 40):
        for name, text in launch.files.items():
            Path(name).write_text(text)
        sys.modules.pop("parsim_job", None)
        words = shlex.split(launch.files["train.sh"].splitlines()[-1])
        if setup.dtype.startswith(("fp8", "mxfp8")):  # whose converters ask for a device that multiplies them
            continue
        found = config.ConfigManager().parse_args(words[words.index("--module") :])
        check_degrees(setup, found.parallelism, ParallelDims.from_config(found.parallelism, setup.plan.num_devices))
        assert found.training.seq_len == setup.batch.sequence_length and found.training.global_batch_size == setup.batch.global_batch
        piped = setup.plan.pipeline_parallel > 1
        size = found.parallelism.pipeline_parallel_microbatch_size if piped else found.training.local_batch_size
        assert size == setup.plan.micro_batch


@pytest.mark.slow
def test_the_file_of_0_2_is_taken_by_torchtitans_own_parser(tmp_path: Path) -> None:
    if place := os.environ.get("TORCHTITAN_0_2"):  # a folder of pip install --target
        sys.path.insert(0, place)
    manager = pytest.importorskip("torchtitan.config")
    job = pytest.importorskip("torchtitan.config.job_config", reason="another release of torchtitan")
    from torchtitan.distributed import ParallelDims

    assert job.JobConfig
    for setup, launch in launches("0.2.2", 40):
        path = tmp_path / "torchtitan.toml"
        path.write_text(launch.files["torchtitan.toml"])
        found = manager.ConfigManager().parse_args([f"--job.config_file={path}"])
        told = found.parallelism
        names = {"dp_replicate": "data_parallel_replicate", "dp_shard": "data_parallel_shard", "cp": "context_parallel"}
        names |= {"tp": "tensor_parallel", "pp": "pipeline_parallel", "ep": "expert_parallel", "etp": "expert_tensor_parallel"}
        dims = ParallelDims(**{axis: getattr(told, f"{name}_degree") for axis, name in names.items()}, world_size=setup.plan.num_devices)
        check_degrees(setup, told, dims)
        assert found.training.seq_len == setup.batch.sequence_length and found.training.global_batch_size == setup.batch.global_batch


@pytest.mark.slow
def test_a_model_that_torchtitan_has_not_is_built_by_the_flavour_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchtitan.models.llama3")
    if not hasattr(models, "llama3_configs") or not callable(next(iter(models.llama3_configs.values()))):
        pytest.skip("another release of torchtitan")
    (tmp_path / "parsim_job.py").write_text(unknown_model("0.3.0").files["parsim_job.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("parsim_job", None)
    made = importlib.import_module("parsim_job").llama3_my_llama()
    with torch.device("meta"):
        model = made.model_spec.model.build()
    # A layer: q and out, k and v, three of the MLP, two norms; the last norm; one table of words for both ends.
    layer = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 6144 + 2 * 2048
    assert sum(each.numel() for each in {id(each): each for each in model.parameters()}.values()) == 12 * layer + 2048 + 32000 * 2048
