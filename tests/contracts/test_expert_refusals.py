"""What the expert view cannot hold is refused by one rule each: without the rule, a named mutant, the plan would pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from made_up import mixture, registered
from parsim.cost import sizes, tables
from parsim.errors import PlanError
from parsim.parallel import dimensions, legality, sharding, sharding_faults
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.parallel.sharding import Sharding
from support import DTYPES, GPT, STACK

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with registered(tmp_path, monkeypatch) as name:
        yield name


def _without(rule: str) -> Patch:
    """Legality does not ask a rule."""

    def patched(patch: pytest.MonkeyPatch) -> None:
        for rules in ("VALUES", "RULES"):
            patch.setattr(legality, rules, tuple(each for each in getattr(legality, rules) if each.name != rule))

    return patched


def _filled_twice(patch: pytest.MonkeyPatch) -> None:
    again = replace(dimensions.DIMENSIONS.get("expert_replicas"), name="expert_more", axis="emp")
    patch.setitem(dimensions.DIMENSIONS._values, "expert_more", again)


def _of_any_model(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sharding_faults, "TOKEN_DIMS", frozenset("E"))


TWICE = "expert_more and expert_replicas each take all the ranks of a stage that other dimensions of experts leave. Register one of them"
LACKS = 'which model "toy gpt" does not have. Leave'
FAULTS: dict[str, tuple[Plan, Batch, str, Patch]] = {
    "tokens that the ranks of a stage do not divide": (  # 2 sequences of 3 tokens over 2 x 2 ranks
        Plan(data_parallel=2, tensor_parallel=2, expert_parallel=2),
        Batch(8, 3),
        "the 4 ranks of a stage do not share out 6 tokens, which they have of a micro_batch, evenly to experts. "
        "Make micro_batch a multiple of 2",
        _without("tokens"),
    ),
    "a degree that is not positive": (
        Plan(dimensions=(("exchange_parallel", -1),)),
        Batch(8, 4),
        "exchange_parallel = -1 is not a positive whole number. Legal: 1, 2, 3, ...",
        _without("dimensions"),
    ),
    "a dimension twice": (
        Plan(dimensions=(("exchange_parallel", 2),) * 2),
        Batch(8, 4),
        "dimensions = (('exchange_parallel', 2), ('exchange_parallel', 2)) names one twice. Give each one degree",
        _without("dimensions"),
    ),
    "a rank_order that names an axis of experts": (
        Plan(data_parallel=2, rank_order="ep-tp-dp-pp", expert_parallel=2),
        Batch(8, 4),
        "rank_order = 'ep-tp-dp-pp' does not name each axis once, from the fastest. Legal: dp-pp-tp, ",
        _without("rank order"),
    ),
}


@pytest.mark.parametrize(("plan", "batch", "said", "mutate"), FAULTS.values(), ids=FAULTS)
def test_a_fault_says_so_and_only_its_rule_does(
    plan: Plan, batch: Batch, said: str, mutate: Patch, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = faults(plan, mixture(package), batch, 2 * plan.tensor_parallel * (plan.data_parallel // 2))
    assert str(fault).startswith(said)
    mutate(monkeypatch)
    assert not faults(plan, mixture(package), batch, plan.num_devices)


def test_twice_as_many_sequences_are_tokens_enough(package: str) -> None:
    plan = Plan(data_parallel=2, tensor_parallel=2, micro_batch=2, expert_parallel=2)
    assert not faults(plan, mixture(package), Batch(8, 3), 4)


@pytest.mark.parametrize(
    ("plan", "said", "mutate"),
    [
        (Plan(data_parallel=2, expert_parallel=2), "expert_parallel = 2 splits experts", _without("expert parallelism")),
        (Plan(dimensions=(("dealt_experts", 2),)), "dealt_experts = 2 splits experts where they live", _of_any_model),
    ],
)
def test_experts_are_not_split_where_a_model_has_none(plan: Plan, said: str, mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = faults(plan, GPT, Batch(8, 8), plan.num_devices)
    assert str(fault).startswith(f"{said}, {LACKS}")
    mutate(monkeypatch)
    assert not faults(plan, GPT, Batch(8, 8), plan.num_devices)


def test_one_dimension_alone_takes_the_ranks_that_others_leave(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(data_parallel=4, expert_parallel=2)
    assert not faults(plan, mixture(package), Batch(8, 4), 4)
    _filled_twice(monkeypatch)
    assert [str(each) for each in faults(plan, mixture(package), Batch(8, 4), 4)] == [TWICE]


def test_no_tensor_lies_over_axes_of_two_views(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match=r"E T is sharded over \('ep', 'tp'\), which are of two views of the mesh"):
        Sharding(("E", "T"), (("ep",), ("tp",)))
    monkeypatch.setattr(sharding, "axes_of", lambda view: ())
    Sharding(("E", "T"), (("ep",), ("tp",)))


def test_an_axis_cuts_one_dim_of_a_tensor() -> None:
    with pytest.raises(PlanError, match=r"E D is sharded over \('ep', 'ep'\), an axis of which cuts two of its dims"):
        Sharding(("E", "D"), (("ep",), ("ep",)))


def test_tokens_that_all_ranks_share_have_no_table(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = replace(dimensions.DIMENSIONS.get("expert_replicas"), share=lambda extent, ranks: (extent, *(0,) * (ranks - 1)))
    monkeypatch.setitem(dimensions.DIMENSIONS._values, "expert_replicas", table)
    asked = mixture(package), Batch(8, 4), Plans.of([Plan(data_parallel=4, expert_parallel=2)]), STACK, DTYPES
    with pytest.raises(PlanError, match="the table of edp deals out tokens, which all ranks of a stage share evenly on their way to exp"):
        sizes.sizes_of(*asked)
    monkeypatch.setattr(tables, "FREE", ())
    sizes.sizes_of(*asked)
