"""Actions folded to one event: by arithmetic on made-up streams, and a cost that grows with actions, not with what is in them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cost.cost_model import CostModel
from parsim.cost.workload import Workload
from parsim.cost.workloads import workload_of
from parsim.errors import PlanError
from parsim.parallel.plan import Batch, Plan
from parsim.simulator import run as run_module
from parsim.simulator import simulate
from parsim.simulator.memory import Rise, peak_bytes
from parsim.simulator.program import Beside, FoldedAction, Program, StreamItem, fold
from parsim.simulator.run import run
from parsim.step.task import Hold, Launches, Receive, Send, Task, Wait
from support import GPT, STACK, scenario

KERNEL = Hold("kernel")  # what a task is matters only where it waits or sends


def item(ps: int, stream: str = "compute", *, after: tuple[str, ...] = (), makes: str = "", task: Task = KERNEL) -> StreamItem:
    return StreamItem(task, stream, ps, after, (makes,) if makes else ())


def workload(plan: Plan, layers: int = 4, **stack: object) -> Workload:
    chosen = scenario(model=replace(GPT, num_layers=layers), batch=Batch(16, 8), stack=replace(STACK, **stack))  # type: ignore[arg-type]
    return workload_of(chosen.model, CostModel(chosen.cluster, chosen.stack, chosen.batch), plan, chosen.itemsize_bytes)


def test_compute_waits_for_what_it_reads_and_for_nothing_else() -> None:
    gathered = item(50, "tp", makes="x")
    assert fold([item(10), gathered, item(20), item(5)]).ps == 35
    assert fold([item(10), gathered, item(20), item(5, after=("x",))]).ps == 10 + 50 + 5


def test_two_of_one_stream_run_one_after_the_other_and_a_wait_sees_both() -> None:
    both = [item(10, "tp"), item(10), item(30, "tp"), item(1)]
    assert fold([*both, item(0, task=Wait("segment", streams=("tp",)))]) == FoldedAction(40, (), ())


def test_what_nobody_waits_for_goes_on_when_the_action_has_ended() -> None:
    found = fold([item(10), item(70, "dp", makes="d_w"), item(20)])
    assert found == FoldedAction(30, (Beside("dp", 10, 70, KERNEL),), ())


def test_a_message_leaves_when_compute_has_ended() -> None:
    sent: Task = Send("send", None, None, "send_F")  # type: ignore[arg-type]
    assert fold([item(10), item(7, "send_F", task=sent)]) == FoldedAction(10, (), (Beside("send_F", 10, 7, sent),))


def test_launching_is_a_floor_under_the_time_of_kernels() -> None:
    launched = item(100, "launch", task=Launches("launches", 10))
    assert fold([launched, item(30), item(0, task=Wait("segment", streams=("launch",)))]).ps == 100


def test_bytes_of_copies_one_after_another() -> None:
    assert Rise(2, 5).times(3) == Rise(6, 9) == Rise(2, 5).then(Rise(2, 5)).then(Rise(2, 5))
    assert Rise(-2, 5).times(3) == Rise(-6, 5)


@pytest.mark.parametrize("layers", [4, 40])
def test_events_grow_with_actions_and_not_with_layers_or_tensor_parallelism(layers: int) -> None:
    plan = Plan(pipeline_parallel=4, tensor_parallel=2)
    found = run(workload(plan, layers, tensor_overlap=True))
    num_actions, num_messages = 2 * 4 * 16, 2 * 3 * 16
    assert num_actions <= found.num_events <= num_actions + num_messages + 4 * 8  # and at most 8 tasks at the end of each rank's step
    assert Program(workload(plan, layers)).num_events() == num_actions + num_messages


def test_a_step_of_too_many_events_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = scenario(batch=Batch(16, 8))
    monkeypatch.setattr(run_module, "MOST_EVENTS", 2 * 16)
    assert simulate(chosen, Plan()).step_ps > 0
    with pytest.raises(PlanError, match="events, above the 32 that take minutes"):
        simulate(chosen, Plan(), spans=True)


def test_the_peak_of_a_rank_is_that_of_its_actions_one_by_one() -> None:
    program = Program(workload(Plan(pipeline_parallel=2)))
    first, last = peak_bytes(program)
    assert first != last
    again = Program(workload(Plan(pipeline_parallel=2, recompute="full")))
    assert peak_bytes(again)[0] < first


def test_mutant_a_fold_that_forgets_what_runs_beside_ends_the_step_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workload(Plan(data_parallel=2), gradient_overlap=True)
    right = run(made, spans=True).step_ps
    assert run(made).step_ps == right
    monkeypatch.setattr("parsim.simulator.program.fold", lambda items: fold(items)._replace(beside=()))
    assert run(made).step_ps < right


def test_mutant_a_message_without_time_ends_the_step_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workload(Plan(pipeline_parallel=2))
    right = run(made, spans=True).step_ps

    def hasty(items: list[StreamItem]) -> FoldedAction:
        found = fold(items)
        return found._replace(messages=tuple(each._replace(ps=0) for each in found.messages))

    monkeypatch.setattr("parsim.simulator.program.fold", hasty)
    assert run(made).step_ps < right


def test_a_stage_that_gets_its_input_by_a_message_says_so_first() -> None:
    program = Program(workload(Plan(pipeline_parallel=2)))
    first = [next(program.pass_items(index)).task for index in range(len(program.passes))]
    assert sum(isinstance(task, Receive) for task in first) == 3  # F of the last stage; B of the first, and its closing one
