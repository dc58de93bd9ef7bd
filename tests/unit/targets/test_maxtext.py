"""MaxText: what is written is read as the same plan, each key is one of its base.yml, and what it would run otherwise is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import parsim
from launch_plans import drawn_setup
from parsim.errors import PlanError
from parsim.parallel.plan import Plan
from parsim.targets import NotExpressible, Setup, read_job
from parsim.targets.exporting import differences, export_setup, find
from parsim.targets.maxtext.entries import POLICIES
from round_trips import unnoticed

MODELS = ("llama3-8b", "llama3-70b", "mixtral-8x7b", "qwen3-30b-a3b", "qwen2.5-72b", "nemotron-4-15b")
KEYS = (Path(__file__).parent / "maxtext_base_keys.txt").read_text().split()
TARGET, VERSION = find("maxtext")
USUAL = {
    "recompute": ("selective", "full"),
    "recompute_every": (1,),
    "schedule": ("gpipe", "breadth_first"),
    "zero_stage": (3, 3, 1, 0),
    "reshard_after_forward": (None, True),
    "sequence_parallel": (True,),
    "expert_tensor_parallel": ("tp",),
    "precision": (None, "bf16", "fp32", "fp8_current"),
    "optimizer": ("adamw",),
    "layers_per_stage": (None,),
}
MINIMAL = json.dumps({"base": "jax-xla", "selective_recompute": list(POLICIES["minimal_with_context"])})


def setups(seeds: range, *, all_fields: bool = False) -> Iterator[Setup]:
    stacks, mostly = ("jax-xla", MINIMAL, MINIMAL), {} if all_fields else USUAL
    return (drawn_setup(seed, models=MODELS, stacks=stacks, all_fields=all_fields, mostly=mostly) for seed in seeds)


def round_trip(seeds: range, all_fields: bool, enough: int = 10**9) -> Counter[str]:
    """Draws by what became of them: "same", or the field that was refused."""
    found: Counter[str] = Counter()
    for setup in setups(seeds, all_fields=all_fields):
        try:
            launch = export_setup(TARGET, VERSION, setup)
        except PlanError as error:
            found[error.field if isinstance(error, NotExpressible) else f"would not run: {error}".split("\n")[0][:160]] += 1
            continue
        text = launch.files["maxtext.yml"]
        assert not [*differences(setup, read_job(text, "maxtext.yml", "maxtext"))], setup.plan
        assert not [line for line in text.splitlines()[2:] if line.partition(":")[0] not in KEYS], text
        found["same"] += 1
        if found["same"] == enough:
            break
    return found


def test_a_plan_comes_back_from_its_file() -> None:
    assert round_trip(range(200), False, 15)["same"] == 15


@pytest.mark.slow
def test_five_hundred_plans_come_back_from_their_files() -> None:
    assert round_trip(range(5_000), False, 500)["same"] == 500


@pytest.mark.slow
def test_plans_with_all_fields_come_back_or_are_refused() -> None:
    assert round_trip(range(500), True)["same"] > 0


@pytest.mark.slow
def test_no_entry_could_be_silent_or_deaf_without_notice() -> None:
    same = {"stack", "plan.optimizer"}  # of XLA, and AdamW: it is told no other that parsim has
    assert not {each.split()[1] for each in unnoticed("maxtext", setups(range(200)))} - same


def test_nodes_of_several_kinds_are_refused_by_what_the_plan_says_and_not_by_what_they_are() -> None:
    mixed = parsim.load("scenarios/two-generations.yaml")
    for plan in mixed.plans:
        with pytest.raises(NotExpressible):
            parsim.export_plan(mixed, plan, "maxtext")


def test_adapters_are_refused_by_what_they_are_and_not_by_the_models_name() -> None:
    tuned = parsim.load("scenarios/llama2-70b-lora.yaml", changes={"batch.dtype": "bf16"})
    with pytest.raises(NotExpressible, match="trains all weights"):
        parsim.export_plan(tuned, Plan(data_parallel=8, zero_stage=0), "maxtext")
