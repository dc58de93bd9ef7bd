"""Adding a schedule or a collective takes one file that registers itself: here in a folder of the user's own."""

from __future__ import annotations

from pathlib import Path

import contract
import pytest

from parsim import schedules
from parsim.collectives import COLLECTIVES, choose, names
from parsim.errors import ParsimError
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace
from parsim.schedules import SCHEDULES
from parsim.verify import verify_plan
from support import forget_steps, scenario

PAIRS = '''
"""Two micro_batches forward, two backward; and first as many forwards as fill the pipeline."""
from parsim.schedules import SCHEDULES, Action, Phase, Schedule


class Pairs(Schedule):
    source = "made up"

    def legal(self, num_ranks, chunks, num_micro_batches):
        if num_micro_batches is not None and num_micro_batches % 2:
            return f"needs an even number of micro batches, not {num_micro_batches}"
        return super().legal(num_ranks, chunks, num_micro_batches)

    def order(self, rank, num_ranks, chunks, num_micro_batches):
        ahead = min(2 * (num_ranks - 1 - rank), num_micro_batches)
        yield from (Action(rank, Phase.F, m) for m in range(ahead))
        for m in range(0, num_micro_batches, 2):
            yield from (Action(rank, Phase.F, ahead + k) for k in (m, m + 1) if ahead + k < num_micro_batches)
            yield from (Action(rank, Phase.B, k) for k in (m, m + 1))


SCHEDULES.register("pairs", Pairs())
'''
CHAIN = '''
"""Chain: all chunks down the ranks, added up, and back."""
from parsim.collectives import COLLECTIVES
from parsim_kernels import Transfer


class Chain:
    operations = ("all_reduce",)

    def transfers(self, operation, num_ranks, operator):
        last = num_ranks - 1
        for rank in range(last):
            yield from (Transfer(rank, rank, rank + 1, chunk, operator) for chunk in range(num_ranks))
        for rank in range(last, 0, -1):
            yield from (Transfer(2 * last - rank, rank, rank - 1, chunk, "copy") for chunk in range(num_ranks))

    def sent_elements(self, operation, rank, num_ranks, elements):
        return elements * ((rank < num_ranks - 1) * 1 + (rank > 0) * 1)

    def busiest_elements(self, operation, num_ranks, elements):
        return 2 * elements * (num_ranks > 1)

    def num_steps(self, operation, num_ranks):
        return 2 * (num_ranks - 1)


COLLECTIVES.register("chain", Chain())
'''


@pytest.fixture
def added(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one more schedule and one more collective, forgotten again after the test."""
    package = f"mine_{abs(hash(request.node.name))}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "pairs.py").write_text(PAIRS)
    (folder / "chain.py").write_text(CHAIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    schedules.names(), names()
    for registry in (SCHEDULES, COLLECTIVES):
        monkeypatch.setattr(registry, "_values", dict(registry._values))
    SCHEDULES.discover(package)
    yield
    forget_steps()


@pytest.mark.usefixtures("added")
def test_a_schedule_of_ones_own_passes_the_contract_and_every_reader_knows_it() -> None:
    assert "pairs" in schedules.names()
    contract.actions_follow_what_they_need("pairs")
    contract.a_few_rounds_show_every_memory_state("pairs")
    contract.columns_are_the_order("pairs")
    contract.rounds_are_the_order("pairs")
    plan = Plan(pipeline_parallel=2, schedule="pairs")
    checks = verify_plan(scenario(batch=Batch(4, 8)), plan, "pairs")
    assert checks and all(check.ok for check in checks)


@pytest.mark.usefixtures("added")
def test_the_rule_of_a_schedule_of_ones_own_makes_plans_illegal_with_a_way_out() -> None:
    chosen = scenario(batch=Batch(3, 8))
    (fault,) = faults(Plan(pipeline_parallel=2, schedule="pairs"), chosen.model, chosen.batch, 2)
    assert fault.field == "schedule"
    assert str(fault) == (
        "schedule 'pairs' needs an even number of micro batches, not 3. Make global_batch 4, or choose another micro_batch"
    )
    (fault,) = faults(Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="pairs"), chosen.model, None, 2)
    assert "runs one chunk" in fault.message and "pairs" not in fault.remedy


@pytest.mark.usefixtures("added")
def test_the_planner_tries_a_schedule_of_ones_own() -> None:
    space = PlanSpace("s", {"tensor_parallel": (4,), "pipeline_parallel": (4,), "schedule": ("1f1b", "pairs", "interleaved_1f1b")})
    assert {plan.schedule for plan in candidates(scenario(), space).plans} == {"1f1b", "pairs"}  # of one chunk, interleaved_1f1b is 1f1b


@pytest.mark.usefixtures("added")
def test_a_collective_of_ones_own_passes_the_contract_and_changes_no_choice() -> None:
    assert "chain" in names("all_reduce")
    contract.closed_forms_count_the_messages(COLLECTIVES.get("chain"), "all_reduce")
    contract.numbers_come_out_right(COLLECTIVES.get("chain"), "all_reduce")
    assert choose("all_reduce") is COLLECTIVES.get("ring")
    assert choose("all_reduce", num_ranks=16, payload_bytes=4, in_node=False) is COLLECTIVES.get("tree")
    assert choose("all_reduce", num_ranks=8, payload_bytes=4, switch_adds=True) is COLLECTIVES.get("in_network")
    assert choose("all_reduce", algorithm="chain") is COLLECTIVES.get("chain")


@pytest.mark.usefixtures("added")
def test_the_contract_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = COLLECTIVES.get("chain")
    right = type(chain).transfers
    monkeypatch.setattr(type(chain), "transfers", lambda self, *args: iter(list(right(self, *args))[:-1]))
    with pytest.raises(AssertionError):
        contract.closed_forms_count_the_messages(chain, "all_reduce")
    with pytest.raises(AssertionError):
        contract.numbers_come_out_right(chain, "all_reduce")
    monkeypatch.setattr(type(SCHEDULES.get("pairs")), "steady_rounds", 1)  # a round of one rank is not even legal; of two too short
    with pytest.raises((AssertionError, ParsimError)):
        contract.a_few_rounds_show_every_memory_state("pairs")
    contract.columns_are_the_order("pairs")
