"""A precision recipe is one row: what it stores, multiplies in and keeps beside the weights is what all readers charge and execute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from parsim import from_mapping
from parsim.cost.cost_model import CostModel
from parsim.cost.count import element_bytes
from parsim.cost.timing import compute_s
from parsim.errors import ParsimError, ScenarioError
from parsim.estimator.estimate import estimate, stages_of
from parsim.model.dims import COMPUTE, GRADIENT, MASTER, MATMUL
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.precision import RECIPES, Recipe
from parsim.step.task import Compute
from parsim.verify import verify_plan
from support import CLUSTER, GPT, NODE, STACKS, TOY, enough, every_other, scenario

MODEL = replace(GPT, vocab_size=64)  # no padding
WEIGHTS = num_parameters(MODEL)
ADAM = 4 + 4  # bytes of both moments beside a float32 master
MADE_UP = {
    "narrow": Recipe({COMPUTE: "bf16"}, {MATMUL: "fp32"}, "made up"),  # stored in 2 bytes, multiplied in fp32, no master
    "wide": Recipe({COMPUTE: "fp32"}, {MATMUL: "bf16"}, "made up"),  # stored in 4 bytes, multiplied in bf16, no master
    "half": Recipe({COMPUTE: "bf16", GRADIENT: "bf16", MASTER: "bf16"}, {MATMUL: "bf16"}, "made up"),  # a master of 2 bytes
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, recipe in MADE_UP.items():
        monkeypatch.setitem(RECIPES, name, recipe)
    yield


def gemm_s(name: str) -> float:
    """Seconds of the product that widens the stream, on a toy whose memory and launches cost nothing."""
    fast = replace(TOY, hbm_bandwidth_bytes_per_s=1e30, gemm=replace(TOY.gemm, launch_s=0.0))
    workload = stages_of(scenario(cluster=replace(CLUSTER, node=replace(NODE, accelerator=fast)), batch=Batch(8, 8, name)), Plan()).workload
    (task,) = {
        task.name: task
        for tasks in workload.step.segments["layer"].phases.values()
        for task in tasks
        if isinstance(task, Compute) and task.name == "up_gemm"
    }.values()
    return float(compute_s(task, workload.sizes, workload.model)[0])


@pytest.mark.parametrize(
    ("name", "weight", "gradient", "master"),
    [
        ("bf16", 2, 4, 4),
        ("bf16_pure", 2, 4, 0),
        ("fp16", 2, 4, 4),
        ("fp32", 4, 4, 0),
        ("narrow", 2, 4, 0),
        ("wide", 4, 4, 0),
        ("half", 2, 2, 2),
    ],
)
def test_weights_gradients_and_states_take_the_bytes_of_the_row(name: str, weight: int, gradient: int, master: int) -> None:
    memory = estimate(scenario(model=MODEL, batch=Batch(8, 8, name)), Plan()).memory_bytes[0]
    assert memory["parameters"] == weight * WEIGHTS
    assert memory["gradients"] == gradient * WEIGHTS
    assert memory["optimizer"] == (master + 2 * (master or weight)) * WEIGHTS  # two moments of the size of what is updated


def test_what_is_stored_alike_is_held_alike_whatever_it_is_multiplied_in() -> None:
    held = {name: estimate(scenario(batch=Batch(8, 8, name)), Plan()).memory_bytes[0] for name in ("bf16", "narrow", "fp32", "wide")}
    assert held["narrow"]["activations"] == held["bf16"]["activations"] < held["wide"]["activations"]
    assert held["wide"] == held["fp32"]


def test_a_matmul_runs_at_the_peak_of_what_it_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy multiplies twice as fast in bf16 as in fp32."""
    assert gemm_s("narrow") == gemm_s("fp32") == pytest.approx(2 * gemm_s("bf16"), rel=1e-12)
    assert gemm_s("wide") == gemm_s("bf16")
    monkeypatch.setattr(CostModel, "multiplies_in", lambda self, role: self.batch.recipe.stores[COMPUTE])  # the mutant: one dtype for all
    assert gemm_s("narrow") == gemm_s("bf16")


def test_an_update_without_a_master_moves_the_weights_themselves() -> None:
    """Weight and moments both ways and the gradient once; then, with a master, the cast that reads it and writes the weight."""
    moved = {}
    for name in ("bf16", "narrow"):
        workload = stages_of(scenario(batch=Batch(8, 8, name)), Plan()).workload
        ends = (task for task in workload.step.finish if isinstance(task, Compute) and task.name in ("update", "cast_weights"))
        moved[name] = {task.name: element_bytes(task, workload.sizes) for task in ends}
    assert moved == {"bf16": {"update": 2 * (4 + ADAM) + 4, "cast_weights": 4 + 2}, "narrow": {"update": 2 * (2 + 2 + 2) + 4}}


PLANS = {
    "tensor-zero1": (Plan(data_parallel=2, tensor_parallel=2, zero_stage=1), STACKS[0]),
    "pipeline-zero3": (Plan(data_parallel=2, pipeline_parallel=2, zero_stage=3, recompute="full"), STACKS[2]),
    "sequence-offload": (Plan(tensor_parallel=2, sequence_parallel=True, offload_optimizer=True), STACKS[1]),
}


@pytest.mark.parametrize("case", every_other(["fp32", "fp16", *MADE_UP], PLANS, "{}-{}".format))
def test_execution_agrees_with_the_prediction(case: tuple[str, str]) -> None:
    name, (plan, stack) = case[0], PLANS[case[1]]
    checks = verify_plan(scenario(batch=replace(enough(plan), dtype=name), stack=stack), plan, "toy")  # type: ignore[arg-type]
    assert not [check for check in checks if not check.ok]


def test_a_file_names_any_row_whose_matmuls_the_device_has_and_no_other() -> None:
    file = {"model": "tiny-gpt", "cluster": {"node": "dgx-1v-16gb"}, "plans": {"a": {}}}

    def loaded(name: str) -> Batch:
        return from_mapping({**file, "batch": {"global_batch": 8, "sequence_length": 16, "dtype": name}}).batch

    assert loaded("narrow").recipe is MADE_UP["narrow"]
    with pytest.raises(ScenarioError, match="has no peak for 'bf16'; it multiplies: fp16, fp32"):
        loaded("wide")
    with pytest.raises(ParsimError, match=r"batch.dtype: unknown dtype 'narow'; known: .* narrow"):
        estimate(scenario(batch=Batch(8, 8, "narow")), Plan())
