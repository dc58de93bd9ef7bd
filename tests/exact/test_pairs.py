"""A forward and a backward that run together: exchanges of experts behind the other's compute; the same losses, bytes and memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate, estimates, stages_of
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.schedules.phase import Phase
from parsim.simulator.program import Program, fold
from parsim.simulator.run import simulate, workload_in
from parsim.simulator.shared import SharedStep
from parsim.step import pairs
from parsim.step.program import Run
from parsim.step.task import Collective
from parsim.verify import verify_plan
from support import CLUSTER, FREE_NODE, MOE, NODE, STACKS, forget_steps, scenario

FOUR = replace(MOE, num_layers=4)
SPREAD = Plan(data_parallel=2, expert_parallel=2, schedule="combined_1f1b")
CHUNKS = replace(SPREAD, pipeline_parallel=2, virtual_pipeline=2)
SLOW = replace(CLUSTER, node=replace(NODE, law=replace(NODE.law, ring_bytes_per_s=3e5)))  # exchanges take as long as kernels
PLANS = {
    "no pipeline": SPREAD,
    "chunks": replace(CHUNKS, layers_per_stage=(1, 1, 2, 1)),
    "sp": replace(CHUNKS, tensor_parallel=2, sequence_parallel=True, recompute="selective"),
    "zero1": replace(CHUNKS, data_parallel=4, zero_stage=1),
    "dual": replace(SPREAD, schedule="dual_pipe", pipeline_parallel=2, layers_per_stage=(4, 1)),
    "dual full": replace(CHUNKS, schedule="dual_pipe_v", recompute="full"),
    "delayed": replace(CHUNKS, schedule="combined_1f1b_delayed", tensor_parallel=2, sequence_parallel=True, layers_per_stage=(1, 1, 2, 1)),
}


def toy(plan: Plan, number: int = 0, cluster: object = SLOW, sequences: int = 8) -> Scenario:
    model = replace(FOUR, num_layers=sum(plan.layers_per_stage or (4,)))
    return scenario(model=model, batch=Batch(sequences * plan.data_parallel, 8), stack=STACKS[number % len(STACKS)], cluster=cluster)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANS)
def test_pairs_keep_the_contract(name: str) -> None:
    number, plan = list(PLANS).index(name), PLANS[name]
    case = toy(plan, number, sequences=4)
    assert not faults(plan, case.model, case.batch, plan.num_devices, stack=case.stack)
    assert not [check for check in verify_plan(case, plan, name) if not check.ok]


def test_arrays_of_plans_are_priced_as_each_alone() -> None:
    every = [SPREAD, CHUNKS, PLANS["zero1"], replace(CHUNKS, schedule="interleaved_1f1b"), replace(CHUNKS, schedule="dual_pipe_v")]
    every += [replace(CHUNKS, schedule="combined_1f1b_delayed")]  # its pairs alone differ
    case = replace(toy(CHUNKS), batch=Batch(32, 8))
    found, alone = estimates(case, every), [estimate(case, plan) for plan in every]
    assert found.step_s.tolist() == [each.step_s for each in alone]
    assert found.peak_bytes.tolist() == [each.peak_bytes for each in alone]
    assert all(sum(each.breakdown_s.values()) == pytest.approx(each.step_s, rel=1e-12) for each in alone)


@pytest.mark.parametrize("name", ["chunks", "dual"])
def test_short_simulations_of_links_that_pairs_share_are_whole_ones(name: str) -> None:
    found = SharedStep(workload_in(toy(PLANS[name]), PLANS[name]))
    assert found.num_events and found.step_ps() == simulate(toy(PLANS[name]), PLANS[name], contention=True).step_ps


def layers_ps(case: Scenario, plan: Plan) -> tuple[int, int, int]:
    """Of a layer of experts forward beside one backward: picoseconds of both together, of their kernels, and of their exchanges."""
    workload = stages_of(case, plan).workload
    one, other = workload.pair_of(0, 0), workload.step.segments["expert_layer"]
    (both,) = (run for run in one.lists if run.segment.name == "expert_layer and expert_layer")
    tasks = [task for phase in (Phase.F, Phase.B) for task in other.phases[phase]]
    moves = [isinstance(task, Collective) and task.operation == "all_to_all" for task in tasks]
    ps = [int(workload.ps(task)[0]) for task in tasks]
    exchanges = sum(each for each, is_move in zip(ps, moves, strict=True) if is_move)
    return fold(Program(workload).items(both, 0)).ps, sum(ps) - exchanges, exchanges


def check_hidden() -> None:
    fast = replace(CLUSTER, node=FREE_NODE)
    together, kernels, exchanges = layers_ps(toy(SPREAD, 0, fast), SPREAD)
    assert together == kernels and exchanges > 0


def test_exchanges_that_are_shorter_than_kernels_and_cost_them_nothing_are_hidden() -> None:
    check_hidden()


def test_exchanges_that_are_longer_hide_the_kernels_between_them() -> None:
    """The first kernels of the backward go before all exchanges, and the last of either behind them."""
    slowest = replace(CLUSTER, node=replace(FREE_NODE, law=replace(NODE.law, ring_bytes_per_s=1e3)))
    together, kernels, exchanges = layers_ps(toy(SPREAD, 0, slowest), SPREAD)
    assert exchanges < together < exchanges + kernels


def two_layers(plan: Plan) -> Run:
    (both,) = (
        run for run in stages_of(toy(plan), plan).workload.pair_of(0, 0).lists if run.segment.name == "expert_layer and expert_layer"
    )
    return both


def check_order() -> None:
    """That of Megatron-LM@d98e8a64, TransformerLayerSchedulePlan.run: combine back, dispatch forward, dispatch back, combine forward."""
    for plan, back in ((SPREAD, Phase.B), (PLANS["dual"], Phase.I), (replace(SPREAD, schedule="combined_1f1b_delayed"), Phase.I)):
        both = two_layers(plan)
        moves = [(phase, task.name.partition(".")[0]) for phase, task in both.parts if pairs.is_exchange(task)]
        forward, backward = ([name for phase, name in moves if phase is own] for own in (Phase.F, back))
        assert forward == ["dispatch", "dispatch_gates", "collect"] and backward == ["collect", "dispatch_gates", "dispatch"]
        assert [phase for phase, _ in moves] == [back, Phase.F, Phase.F, back, back, Phase.F]
        if back is Phase.I:  # weights of experts behind all that goes back, before the experts forward; of attention behind its own
            names = [(phase, task.name.partition(".")[0]) for phase, task in both.parts]
            own = [place for place, (phase, name) in enumerate(names) if phase is Phase.W and name.startswith("experts_")]
            behind, before = names.index((back, "dispatch")), names.index((Phase.F, "experts_gate_gemm"))
            assert own and all(behind < place < before for place in own)
            assert names.index((Phase.W, "out_gemm")) > names.index((back, "q_gemm"))


def test_exchanges_go_in_the_order_of_megatron() -> None:
    check_order()


Patch = Callable[[pytest.MonkeyPatch], None]


def _waits_for_each(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pairs, "_beside", lambda task: task)


def _forward_leaves_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Program, "sender", lambda self, row, task: row)


def _frees_as_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pairs, "with_frees", lambda tasks, keep, entering: tuple(tasks))


def _same_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pairs, "_as_forward", lambda task: task)


@pytest.mark.parametrize(
    ("mutate", "name"),
    [(_frees_as_before, "dual"), (_frees_as_before, "delayed"), (_forward_leaves_at_once, "chunks"), (_same_names, "no pipeline")],
)
def test_verify_notices(mutate: Patch, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLANS[name]
    forget_steps()
    mutate(monkeypatch)
    try:
        found = [check.quantity for check in verify_plan(toy(plan), plan, name) if not check.ok]
    except Exception as error:
        found = [str(error)]  # a kernel that meets no buffer
    forget_steps()
    assert found, "not noticed"


def _cut_behind_each(patch: pytest.MonkeyPatch) -> None:
    def pieces(tasks: list[pairs.Phased]) -> list[list[pairs.Phased]]:
        found: list[list[pairs.Phased]] = [[]]
        for each in tasks:
            found[-1].append(each)
            found += [[]] if pairs.is_exchange(each[1]) else []
        return found

    patch.setattr(pairs, "_pieces", pieces)


def _weights_wait_for_the_first_exchange(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pairs, "_with_weights", lambda pieces, weights: [[*pieces[0], *weights], *pieces[1:]])


MUTANTS = [(_waits_for_each, check_hidden), (_cut_behind_each, check_order), (_weights_wait_for_the_first_exchange, check_order)]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS)
def test_other_orders_are_noticed(mutate: Patch, check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check()
    forget_steps()


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"expert_parallel": 1}, "schedule", "hides exchanges of experts behind another micro batch, but expert_parallel = 1"),
        ({"virtual_pipeline": 1}, "schedule", "pairs micro batches of a pipeline whose ranks hold several chunks of the model"),
        ({"zero_stage": 2}, "zero_stage", "runs two micro batches at once, which passes with zero_stage = 2 do not"),
        ({"recompute": "full"}, "recompute", "hides exchanges of experts that run once, but what is recomputed exchanges again"),
    ],
)
def test_what_cannot_run_in_pairs_is_a_fault_with_a_way_out(fields: dict[str, object], field: str, said: str) -> None:
    plan = replace(CHUNKS, **fields)  # type: ignore[arg-type]
    (fault,) = faults(plan, FOUR, Batch(16, 8), plan.num_devices, stack=STACKS[0])
    assert fault.field == field and said in str(fault) and fault.remedy
