"""Megatron-Bridge: plans come back from the recipe that is written, and recipes of others are read and never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_plans import drawn
from parsim.errors import ParsimError
from parsim.targets import read_job
from parsim.targets.entries import Unresolved
from parsim.targets.exporting import differences, export_setup, find
from parsim.targets.launchers.megatron_bridge import VERSIONS, entries
from parsim.targets.recipes import MOST_STEPS, Reader, flat

COMMON = """
from megatron.bridge.training.config import ConfigContainer, TrainingConfig
LENGTH: int = 4 * 1024

def _common(tensor=1, **others):
    cfg = ConfigContainer(model=None, train=TrainingConfig(global_batch_size=32, micro_batch_size=2), mixed_precision="bf16_mixed")
    cfg.model = AutoBridge.from_hf_pretrained("meta-llama/Meta-Llama-3-8B").to_megatron_provider(load_weights=False)
    cfg.model.tensor_model_parallel_size = tensor
    cfg.model.seq_length = LENGTH
    return cfg
"""
RECIPES = """
from megatron.bridge.recipes.common import _common

def small_pretrain_8gpu_h100_bf16_config():
    return _common(tensor=2)

def large_pretrain_config(layers=2):
    cfg = small_pretrain_8gpu_h100_bf16_config()
    layout = {(4, 1): [["embedding"] + ["decoder"] * 8] + [["decoder"] * 8] * 2 + [["decoder"] * 8 + ["loss"]]}
    cfg.model.pipeline_model_parallel_size = 4
    cfg.model.pipeline_model_parallel_layout = layout[4, 1]
    cfg.train.global_batch_size = int(os.environ["BATCH"])
    cfg.mixed_precision = bf16_with_fp8_current_scaling_mixed()
    cfg.mixed_precision.num_layers_at_end_in_bf16 = 2
    open("PATH", "w").write("ran")
    return cfg
"""


def beside(path: str) -> str | None:
    return COMMON if path == "megatron/bridge/recipes/common.py" else None


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 500))])
def test_a_plan_comes_back_from_its_recipe(seed: int) -> None:
    setup, version = drawn(seed), VERSIONS[seed % len(VERSIONS)]
    text = export_setup(find("megatron-bridge")[0], version, setup).files["recipe.py"]
    compile(text, "recipe.py", "exec")  # it is Python; nothing of it runs
    job = read_job(text, "recipe.py")
    assert [*differences(setup, job, entries(version))] == [] and job.left == ()
    assert setup.dtype == "fp32" or job.keys["stack.gradient_dtype"] == setup.stack.gradient_dtype
    assert job.num_devices == setup.plan.num_devices


def test_a_recipe_is_read_through_the_functions_that_it_calls() -> None:
    job = read_job(RECIPES, "recipes.py::small_pretrain_8gpu_h100_bf16_config", beside=beside)
    assert job.num_devices == 8  # as its name says
    asked = ("model", "plan.tensor_parallel", "plan.data_parallel", "plan.micro_batch", "batch.global_batch", "batch.sequence_length")
    assert [job.keys[key] for key in asked] == ["llama3-8b", 2, 4, 2, 32, 4096]


def test_chunks_of_a_rank_are_read_beside_a_layout_that_is_not() -> None:
    lines = "cfg.model.pipeline_model_parallel_size = 4\n    cfg.model.virtual_pipeline_model_parallel_size = 2"
    odd = "cfg.model.pipeline_model_parallel_layout = [['decoder'], ['embedding']] * 4"
    text = f"{COMMON}\ndef own_config():\n    cfg = _common()\n    {lines}\n    {odd}\n    return cfg\n"
    job = read_job(text, "recipes.py::own_config")
    assert (job.keys["plan.virtual_pipeline"], job.keys["plan.schedule"]) == (2, "interleaved_1f1b")
    assert "plan.layers_per_stage" not in job.keys and "pipeline_model_parallel_layout" in {each.key for each in job.left}


def test_what_a_recipe_computes_is_told_as_left_out_and_nothing_runs(tmp_path: Path) -> None:
    text = RECIPES.replace("PATH", str(tmp_path / "ran"))
    job = read_job(text, "recipes.py::large_pretrain_config", beside=beside)
    assert job.keys["plan.layers_per_stage"] == (8, 8, 8, 8) and not (tmp_path / "ran").exists()
    assert (job.keys["batch.dtype"], job.keys["batch.num_layers_at_end_in_bf16"]) == ("fp8_current", 2)
    assert "batch.global_batch" not in job.keys and {each.key for each in job.left} == {"global_batch_size"}


@pytest.mark.parametrize(
    ("lines", "zero_stage", "gradient_dtype"),
    [
        ("cfg.ddp = D(use_distributed_optimizer=False)\n    cfg.optimizer = O(use_distributed_optimizer=True)", 1, "fp32"),
        ("cfg.ddp = D(use_distributed_optimizer=True)\n    cfg.optimizer = O(use_distributed_optimizer=False)", 1, "fp32"),
        ("cfg.ddp = D(use_distributed_optimizer=False)\n    cfg.optimizer = O(use_distributed_optimizer=False)", 0, "fp32"),
        ("cfg.ddp = D(use_distributed_optimizer=False)\n    cfg.optimizer = O(optimizer='dist_muon')", 1, "fp32"),
        ("cfg.ddp = D(grad_reduce_in_fp32=False)", 0, "fp32"),  # bf16_mixed overwrites it
        ("cfg.mixed_precision = bf16_mixed()\n    cfg.mixed_precision.grad_reduce_in_fp32 = False", 0, "compute"),
        ("cfg.ddp = D(grad_reduce_in_fp32=True)\n    cfg.mixed_precision = 'fp16_mixed'", 0, "compute"),
        ("cfg.ddp = D(grad_reduce_in_fp32=False)\n    cfg.mixed_precision = None", 0, "compute"),
    ],
)
def test_of_two_switches_that_say_the_same_one_counts_for_both(lines: str, zero_stage: int, gradient_dtype: str) -> None:
    """As Megatron-Bridge's ConfigContainer settles them: training/config.py and mixed_precision.py."""
    text = f"{COMMON}\ndef own_config():\n    cfg = _common()\n    {lines}\n    return cfg\n"
    keys = read_job(text, "recipes.py::own_config").keys
    assert (keys["plan.zero_stage"], keys["stack.gradient_dtype"]) == (zero_stage, gradient_dtype)


def test_of_several_recipes_one_is_named() -> None:
    with pytest.raises(ParsimError, match=r"it has 2 recipes: small_pretrain_8gpu_h100_bf16_config"):
        read_job(RECIPES, "recipes.py", "megatron-bridge", beside)
    with pytest.raises(ParsimError, match="no function 'small'"):
        read_job(RECIPES, "recipes.py::small", "megatron-bridge", beside)


def test_a_recipe_without_end_is_given_up() -> None:
    loop = "def f():\n    for a in [0] * 9999:\n        for b in [0] * 9999:\n            c = b\n"
    with pytest.raises(ParsimError, match=f"more than {MOST_STEPS} steps"):
        Reader(loop, "loop.py").call("f")
    assert Reader("def f():\n    return f()", "deep.py").call("f") == "f"
    assert Reader("def f():\n    return 9 ** 9 ** 9, 'a' * 10 ** 12", "large.py").call("f") == ("9 ** 9 ** 9", "'a' * 10 ** 12")


@pytest.mark.parametrize(
    "lines", ["for n in range(10**9):\n        cfg.n = n", "while cfg.n:\n        cfg.n += 1", "if UNKNOWN:\n        cfg.n += 1"]
)
def test_what_a_loop_or_a_branch_that_nobody_follows_assigns_is_not_known(lines: str) -> None:
    text = f"def f():\n    cfg = C(n=1, m=2)\n    {lines}\n    return cfg"
    found = dict(flat(Reader(text, "loop.py").call("f")))
    assert isinstance(found["n"], Unresolved) and found["m"] == 2


@pytest.mark.parametrize(
    ("test", "taken"),
    [
        ("isinstance(cfg.own, str)", False),
        ("not isinstance(cfg.own, str)", True),
        ("isinstance(cfg.own, Own)", True),
        ("isinstance(cfg.name, str)", True),
        ("cfg.own is None", False),
        ("cfg.own is not None", True),
        ("isinstance(cfg.own, Base)", None),  # it may inherit from that
        ("isinstance(cfg.given, str)", None),
        ("cfg.given is None", None),
    ],
)
def test_a_branch_on_what_an_object_is_is_followed_where_that_is_known(test: str, taken: bool | None) -> None:
    text = f"def f():\n    cfg = C(own=Own(a=1), name='a', given=unknown(), n=1)\n    if {test}:\n        cfg.n = 2\n    return cfg"
    found = dict(flat(Reader(text, "branch.py").call("f")))["n"]
    assert isinstance(found, Unresolved) if taken is None else found == 1 + taken


def test_a_record_that_holds_itself_is_named_by_what_makes_it() -> None:
    text = "def f():\n    cfg = C(n=1)\n    cfg.own = cfg\n    return cfg"
    assert dict(flat(Reader(text, "own.py").call("f"))) == {"n": 1, "own": "C"}
