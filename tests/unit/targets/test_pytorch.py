"""The pytorch target: settings that read back as the plan, and what its program does not do is refused by name."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import PlanError
from parsim.model.families.dense import DenseSpec
from parsim.parallel.plan import KEYS, Plan
from parsim.scenario import Scenario
from parsim.targets import Launch, NotExpressible, Setup, export_plan, find, read_job
from parsim.targets.exporting import export_setup
from random_plans import drawn
from round_trips import unnoticed
from support import GPT, scenario

CASES = 500


def tiny(**changes: Any) -> Scenario:
    """The tiny GPT as the program computes it: no dropout, float32."""
    read = parsim.load("scenarios/tiny.yaml")
    return replace(read, model=replace(read.model, dropout=0.0, **changes), batch=replace(read.batch, dtype="fp32"))


def tamed(seed: int) -> Setup:
    """A plan that is drawn, of a dense model, without what no program of dense layers has; most are expressible."""
    case = drawn(seed)
    usual = ("context_parallel", "context_group", "expert_parallel", "expert_tensor_parallel", "recompute_ops", "dimensions")
    plan = replace(case.plan, **{field: KEYS[field].default for field in usual}, precision="fp32")
    if seed % 3:
        plain = ("1f1b", "gpipe", "zero_bubble_h1")[seed % 5 % 3 if plan.pipeline_parallel > 1 else 0]
        schedule = ("interleaved_1f1b", "zero_bubble_v")[seed % 2] if plan.virtual_pipeline > 1 else plain
        optimizer = ("adamw", "sgd_momentum")[seed % 2]
        plan = replace(plan, offload_optimizer=False, optimizer_in_backward=False, optimizer=optimizer, schedule=schedule)
    layers = sum(plan.layers_per_stage or (plan.num_stages,))
    model = replace(GPT, dropout=0.0, num_layers=layers, num_heads=12, num_kv_heads=12, tied_embedding=seed % 2 == 0)
    return Setup("drawn", replace(case.scenario, model=model), plan)


def written(setup: Setup) -> Launch:
    target, version = find("pytorch@2.13")
    return export_setup(target, version, setup)


def plan_of(text: str) -> Plan:
    """What an import says of the plan."""
    job = read_job(text, "train.py")
    assert (job.target, job.version, job.left) == ("pytorch", "2.13", ())
    return Plan(**{key.removeprefix("plan."): value for key, value in job.keys.items() if key.startswith("plan.")})


def round_trip(seeds: range) -> int:
    """How many came back equal; the others are refused by a field's name."""
    equal = 0
    for seed in seeds:
        setup = tamed(seed)
        try:
            text = written(setup).files["train.py"]
        except NotExpressible as said:
            assert said.target == "pytorch" and said.field.split(".")[0] in {*KEYS, "batch", "model"}, said
            continue
        except PlanError as said:
            assert "are not whole nodes" in str(said), seed
            continue
        assert plan_of(text) == setup.plan, seed
        equal += 1
    return equal


def test_drawn_plans_come_back_equal_or_are_refused_by_name() -> None:
    assert round_trip(range(15)) >= 5


@pytest.mark.slow
def test_five_hundred_drawn_plans_come_back_equal_or_are_refused_by_name() -> None:
    assert round_trip(range(CASES)) >= CASES // 4


def test_the_program_is_python_and_its_settings_hold_the_model_and_the_batch() -> None:
    launch = export_plan(tiny(), "tensor", "pytorch")
    assert [ast.parse(text) and name for name, text in launch.files.items()] == ["train.py", "parallel.py", "model.py"]
    job = read_job(launch.files["train.py"], "train.py")
    told = {"model.num_layers": 4, "batch.global_batch": 4, "training.beta2": 0.999, "plan.schedule": "1f1b", "model.tied_embedding": True}
    assert told.items() <= job.keys.items()
    assert launch.command == "torchrun --nnodes=1 --nproc-per-node=4 --standalone train.py"
    assert [*launch.data] == ["weights.npz", "data.npz"]


def chain(*units: int, **others: Any) -> Scenario:
    read = parsim.load("scenarios/digits-regression.yaml")
    return replace(read, model=DenseSpec.of(name="a chain", num_features=64, units=units, num_labels=10, **others))


@pytest.mark.parametrize("units", [(), (8,), (8, 6, 4)])
def test_a_chain_of_dense_layers_comes_back_equal(units: tuple[int, ...]) -> None:
    activations = ("sigmoid", "silu", "linear")[: len(units)]
    setup = Setup("chain", chain(*units, activations=activations), Plan(data_parallel=2, micro_batch=16))
    text = written(setup).files["train.py"]
    assert plan_of(text) == setup.plan
    figures = {name.removeprefix("model."): value for name, value in read_job(text, "train.py").keys.items() if name.startswith("model.")}
    assert figures.pop("family") == "dense" and DenseSpec.of(name="a chain", **figures) == setup.model


REFUSED: dict[str, tuple[Scenario, Plan]] = {
    "zero_stage": (tiny(), Plan(data_parallel=4, zero_stage=2)),
    "schedule": (tiny(), Plan(data_parallel=2, pipeline_parallel=2, schedule="zero_bubble_h2", micro_batch=1)),
    "optimizer": (tiny(), Plan(data_parallel=4, optimizer="adamw_8bit")),
    "recompute_modules": (tiny(), Plan(data_parallel=4, recompute_modules=("layernorm",))),
    "rank_order": (tiny(), Plan(data_parallel=2, tensor_parallel=2, zero_stage=3, rank_order="dp-tp-pp")),
    "context_parallel": (tiny(), Plan(data_parallel=2, context_parallel=2)),
    "offload_optimizer": (tiny(), Plan(data_parallel=4, offload_optimizer=True)),
    "tensor_parallel": (tiny(num_kv_heads=1), Plan(data_parallel=2, tensor_parallel=2)),
    "precision": (tiny(), Plan(data_parallel=4, precision="fp8_current")),
    "model.dropout": (replace(tiny(), model=replace(GPT, dropout=0.1)), Plan(data_parallel=4)),
    "model.causal": (tiny(causal=False), Plan(data_parallel=4)),
    "model.sliding_window": (tiny(sliding_window=4), Plan(data_parallel=4)),
    "model.positions": (tiny(positions="alibi"), Plan(data_parallel=4)),
    "model.num_experts": (parsim.load("scenarios/tiny-moe.yaml"), Plan(data_parallel=4)),
    "batch.dtype": (scenario(model=replace(GPT, dropout=0.0)), Plan(data_parallel=4)),
    "pipeline_parallel": (chain(), Plan(pipeline_parallel=2, micro_batch=8)),
    "sequence_parallel": (chain(8, 6), Plan(tensor_parallel=2, sequence_parallel=True, micro_batch=8)),
    "reshard_after_forward": (tiny(), Plan(data_parallel=2, pipeline_parallel=2, zero_stage=3, reshard_after_forward=True)),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_the_program_does_not_do_is_refused_by_name(field: str) -> None:
    where, plan = REFUSED[field]
    with pytest.raises(NotExpressible, match=r"pytorch 2\.13 cannot express it") as caught:
        written(Setup("refused", where, plan))
    assert caught.value.field == field


def test_parts_of_an_mlp_are_not_said_to_run_again_by_themselves() -> None:
    for where in (chain(8, 6), parsim.load("scenarios/digits-mlp.yaml")):
        with pytest.raises(NotExpressible, match=r"recompute_modules: .* of a transformer again, not mlp"):
            written(Setup("refused", where, Plan(data_parallel=2, recompute_modules=("mlp",), micro_batch=8)))


def test_a_program_without_room_for_its_numbers_says_so() -> None:
    launch = written(Setup("large", tiny(vocab_size=10**6), Plan(data_parallel=4)))
    assert [*launch.data] == ["data.npz"] and "draws its own" in launch.notes[0]


@pytest.mark.parametrize("damage", ["SETTINGS = ", "__import__('os')", "[" * 20_000, "\x00", "{" + "1: " * 3, "{'plan': 3}"])
def test_settings_that_are_none_are_not_read_and_never_run(damage: str) -> None:
    text = written(Setup("p", tiny(), Plan(data_parallel=4))).files["train.py"]
    begin, end = text.index("SETTINGS: "), text.index("# end of settings")
    assert find("pytorch")[0].read(f"{text[:begin]}SETTINGS = {damage}\n{text[end:]}", "train.py") is None


@pytest.mark.slow
def test_no_entry_could_be_silent_or_deaf_without_notice() -> None:
    uneven = Setup("uneven", tiny(), Plan(data_parallel=2, pipeline_parallel=2, layers_per_stage=(1, 3), precision="fp32"))
    same = {"plan.precision", "plan.context_kind"}  # the batch says a precision, too; there is no context parallelism
    assert not {each.split()[1] for each in unnoticed("pytorch", [uneven, *map(tamed, range(100))])} - same
