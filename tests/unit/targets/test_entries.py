"""The tables of launchers, by one that is made up: what has no key is refused, what is written is read, what remains is listed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

import parsim
from parsim.targets import Launch, NotExpressible, Setup, Target
from parsim.targets.entries import Entry, by_name, constant, same
from parsim.targets.exporting import export_setup, keys_of
from parsim.targets.importing import job_of
from parsim.targets.target import MICRO_BATCHES

ENTRIES = (
    same("plan.tensor_parallel", "tp"),
    same("plan.micro_batch", "mbs", default=1, always=False),
    by_name("plan.recompute", "remat", {"none": None, "full": "all"}, default="all"),  # a wrong default: what is left out reads as full
    same("plan.data_parallel", "dp"),
    constant(launcher="made up"),
)


def write(keys: Mapping[str, object], setup: Setup, version: str) -> Launch:
    return Launch("toy", version, {"toy.txt": repr(dict(keys))}, "toy toy.txt")


TOY = Target("toy", ("2", "1"), "a toy", lambda version: ENTRIES, write, lambda text, name: None)


def setup(**changes: object) -> Setup:
    scenario = parsim.load("scenarios/tiny.yaml")
    return Setup("made up", scenario, parsim.Plan(**{"recompute": "full", **changes}))


def test_a_field_without_a_key_is_not_expressible() -> None:
    with pytest.raises(NotExpressible, match=r"plans\.zero_stage: toy 2 cannot express it") as caught:
        export_setup(TOY, "2", setup(zero_stage=1, data_parallel=2))
    assert (caught.value.field, caught.value.target, caught.value.version) == ("zero_stage", "toy", "2")


def test_a_value_that_does_not_come_back_is_not_expressible() -> None:
    with pytest.raises(NotExpressible, match=r"plans\.recompute"):
        keys_of(TOY, "2", setup(recompute="none"))


def test_what_is_written_is_read_and_the_rest_is_listed() -> None:
    keys = keys_of(TOY, "2", setup(tensor_parallel=4, micro_batch=2))
    assert keys == {"tp": 4, "mbs": 2, "remat": "all", "dp": 1, "launcher": "made up"}
    job = job_of(TOY, "2", {**keys, "seed": 7})
    assert job.keys["plan.tensor_parallel"] == 4 and [(left.key, left.value) for left in job.left] == [("seed", 7)]
    assert "mbs" not in keys_of(TOY, "2", replace(setup(), plan=parsim.Plan(recompute="full")))


def test_what_is_the_same_work_is_expressible_and_what_is_not_is_refused() -> None:
    assert keys_of(TOY, "2", setup(schedule="gpipe", data_parallel=4))["dp"] == 4  # a micro_batch
    with pytest.raises(NotExpressible, match="schedule"):
        keys_of(TOY, "2", setup(schedule="gpipe", data_parallel=2))


def test_a_target_that_states_the_model_states_all_of_it() -> None:
    knows = replace(TOY, entries=lambda version: (*ENTRIES, same("model.num_layers", "layers")))
    with pytest.raises(NotExpressible, match=r"^model\.\w+: toy 2 cannot express it: it has no key for") as caught:
        keys_of(knows, "2", setup())
    assert caught.value.field.startswith("model.")


def test_a_count_of_micro_batches_that_does_not_come_back_is_refused() -> None:
    counted = Entry((), lambda setup: {"steps": 3}, lambda keys: {MICRO_BATCHES: keys.like("steps", 1)})
    wrong = replace(TOY, entries=lambda version: (*ENTRIES, counted))
    with pytest.raises(NotExpressible, match=MICRO_BATCHES):
        keys_of(wrong, "2", setup(data_parallel=2))
