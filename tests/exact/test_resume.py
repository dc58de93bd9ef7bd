"""A run that goes on from a checkpoint is the run that never ended: to the last bit, with the same counts and clocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_by_roles import written_bytes_of_ranks, written_elements_of_ranks
from parsim.estimator.estimate import stages_of
from parsim.executor import program
from parsim.executor.run import Execution, execute
from parsim.executor.weights import Store
from parsim.model.spec import ModelSpec
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.plan import Plan, Stack
from parsim.scenario import Scenario
from parsim_kernels.memory import root_of
from parsim_kernels.signature import Array
from random_plans import drawn
from support import GPT, MOE, STACK, STACKS, enough, scenario, tiered

SHARDS = replace(STACK, attention="flash", narrow_parameters=("fp8_current",), master_shards=True, gradient_overlap=True)
ALONE = replace(SHARDS, master_shards=False)
LLAMA = replace(GPT, activation="swiglu", norm="rms_norm", positions="rotary", bias=False, qkv_bias=False, dropout=0.0)
STEERED = replace(MOE, steer_rate=0.001, load_shares=(5.0, 1.0, 1.0, 1.0))
NF4 = Tuning((BASE,), 4, 8.0, 0.1, ("linear_qkv", "linear_proj"), quantization="nf4", double_quantization=True)


def toy(plan: Plan, stack: Stack = STACKS[0], dtype: str = "bf16", model: ModelSpec = GPT) -> tuple[Scenario, Plan]:
    batch = replace(enough(plan, most=8), dtype=dtype)
    return scenario(batch=batch, stack=stack, model=replace(model, num_layers=max(2, plan.num_stages))), plan


def narrow(plan: Plan, stack: Stack) -> tuple[Scenario, Plan]:
    return toy(plan, stack, "fp8_current", LLAMA)


CASES = {
    "one rank": toy(Plan()),
    "replicas and columns": toy(Plan(2, 2, sequence_parallel=True), STACKS[1]),
    "interleaved": toy(Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", optimizer="sgd_momentum")),
    "master": toy(Plan(2, gradient_sync="master")),
    "zero 1": toy(Plan(3, zero_stage=1), STACKS[2]),
    "zero 3, 8 bits": toy(Plan(3, zero_stage=3, optimizer="adamw_8bit"), STACKS[2]),
    "kept parameters": toy(Plan(2, zero_stage=3, reshard_after_forward=False)),
    "on the host, sharded": toy(Plan(4, zero_stage=2, zero_group=2, offload_optimizer=True), STACKS[3]),
    "pages": toy(Plan(optimizer="paged_adamw_8bit")),
    "in the backward": toy(Plan(2, micro_batch=4, zero_stage=1, optimizer_in_backward=True)),
    "narrow alone": narrow(Plan(2, zero_stage=1), ALONE),
    "narrow shards": narrow(Plan(2, zero_stage=3), SHARDS),
    "experts that biases steer": toy(Plan(2, expert_parallel=2), model=STEERED),
    "adapters on 4 bits": toy(Plan(2, zero_stage=1), model=replace(LLAMA, tuning=NF4)),
    "apart, within a period": toy(Plan(2, gradient_sync="local_sgd", local_steps=3, outer_optimizer="nesterov")),
    "frozen": toy(Plan(2), model=replace(GPT, tuning=Tuning(("embedding", "layers 0..0")))),
}
QUICK = ("narrow alone", "experts that biases steer")
EACH = [tiered(name, name, slow=name not in QUICK) for name in CASES]
STEPS, KEPT = 4, 2


@functools.cache
def whole_run(name: str) -> Execution:
    """That never ended."""
    return execute(*CASES[name], num_steps=STEPS)


def resumed(case: tuple[Scenario, Plan], folder: Path) -> Execution:
    """A run that ended after two steps, and went on."""
    execute(*case, num_steps=KEPT, checkpoint=folder)
    return execute(*case, num_steps=STEPS, checkpoint=folder, resume=True)


def written(case: tuple[Scenario, Plan]) -> tuple[dict[int, int], dict[int, int], Execution]:
    """Of each rank, the bytes of the arrays that it writes after a step, and what its memories charge them at; and the run."""
    found, charged, right = dict[int, int](), dict[int, int](), Store.what_lasts

    def look(store: Store) -> dict[str, Array]:
        arrays = right(store)
        memories = [store.machine._memory(number) for number in store.memories]
        itemsizes = {id(root_of(memory.get(name))): memory.itemsize(name) for memory in memories for name in memory.names()}
        found[store.number] = sum(array.nbytes for array in arrays.values())
        charged[store.number] = sum(array.size * itemsizes[id(array)] for array in arrays.values())
        return arrays

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(Store, "what_lasts", look)
        run = execute(*case, num_steps=1, checkpoint=folder)
    return found, charged, run


@pytest.mark.parametrize("name", EACH)
def test_a_run_that_goes_on_equals_one_that_never_ended(name: str, tmp_path: Path) -> None:
    whole = whole_run(name)
    assert resumed(CASES[name], tmp_path) == whole  # losses, weights, gradients, norms, ledgers and clocks
    assert len(whole.losses) == STEPS and len(set(whole.losses)) > 1


@pytest.mark.parametrize("name", EACH)
def test_what_is_not_kept_is_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a rank holds is filled with nonsense, before what lasts comes back from its file."""
    right, poisoned = program._go_on, list[str]()

    def poison(rank: program.Rank, *others: object) -> int:
        for number in rank.store.memories:
            for held in rank.machine.names(number):
                array = rank.machine.get(number, held)
                array[...] = np.nan if array.dtype.kind == "f" else 10**6
                poisoned.append(held)
        return right(rank, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(program, "_go_on", poison)
    assert resumed(CASES[name], tmp_path) == whole_run(name)
    assert poisoned


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("narrow alone", ".v"),
        ("experts that biases steer", "router.steer"),
        pytest.param("one rank", ".m", marks=pytest.mark.slow),
        pytest.param("zero 3, 8 bits", ".v", marks=pytest.mark.slow),
        pytest.param("one rank", "head/norm.gamma", marks=pytest.mark.slow),
        pytest.param("interleaved", ".velocity", marks=pytest.mark.slow),
        pytest.param("narrow alone", ".master", marks=pytest.mark.slow),
        pytest.param("narrow alone", "@row", marks=pytest.mark.slow),
        pytest.param("on the host, sharded", ".master", marks=pytest.mark.slow),
    ],
)
def test_what_is_left_out_is_noticed(name: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants: each forgets one thing that lasts."""
    right, forgotten = Store.what_lasts, set[str]()

    def forgetful(store: Store) -> dict[str, Array]:
        found = right(store)
        forgotten.update(each for each in found if each.endswith(lost))
        return {each: array for each, array in found.items() if not each.endswith(lost)}

    whole = whole_run(name)
    monkeypatch.setattr(Store, "what_lasts", forgetful)
    assert resumed(CASES[name], tmp_path) != whole
    assert forgotten


def sizes_hold(case: tuple[Scenario, Plan]) -> Iterator[tuple[int, int]]:
    """Predicted and written, of each place along the pipeline; where its ranks hold different amounts, of the one that holds most."""
    found, charged, run = written(case)
    stages, mesh = stages_of(*case), run.job.mesh
    packs = stages.workload.step.structure.packs  # whose scales are arrays of their own, and no elements
    for home in range(stages.workload.num_ranks):
        own = [rank for rank in found if mesh.coordinates(rank)["pp"] == home]
        yield int(written_bytes_of_ranks(stages)[home, 0]), max(charged[rank] for rank in own)
        if not stages.workload.sizes.torn and not packs:
            assert len({charged[rank] for rank in own}) == 1
            yield 8 * int(written_elements_of_ranks(stages)[home, 0]), found[own[0]]


@pytest.mark.parametrize("name", EACH)
def test_the_bytes_of_a_checkpoint_are_predicted(name: str) -> None:
    pairs = [*sizes_hold(CASES[name])]
    assert pairs and all(predicted == written > 0 for predicted, written in pairs), pairs


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_random_plans_go_on(seed: int, tmp_path: Path) -> None:
    case = (found := drawn(seed)).scenario, found.plan
    assert resumed(case, tmp_path) == execute(*case, num_steps=STEPS)
    assert all(predicted == written for predicted, written in sizes_hold(case))
