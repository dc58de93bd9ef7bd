"""Every collective of buffers by real ranks leaves the bits, and counts the bytes, that the machine of all ranks does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import part_targets as targets
import pytest
from part_targets import Case
from transport_targets import SLOT

from parsim.collectives import COLLECTIVES, names
from parsim_kernels import Operator, fabric, launch, part

Ranks = Callable[..., list[Any]]


def cases(n: int) -> list[Case]:
    found = []
    for algorithm in names():
        for operation in {"all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter"} & {*COLLECTIVES.get(algorithm).operations}:
            if operation in ("all_gather", "reduce_scatter"):
                shape = (2 * n, 3 * n, 35)
                found += [Case(operation, algorithm, (shape,), dim=dim, apart=dim == 1) for dim in (0, 1)]
                found += [Case(operation, algorithm, ((1, 4 * n),), dim=dim, dtype="f8") for dim in ((1, -1))]
                flats = (((60 * n,), (1400 * n,)), ((1400 * n,),))
                found += [Case(operation, algorithm, shapes, shards=True) for shapes in flats]
                found += [Case(operation, algorithm, shapes, shards=True, apart=True) for shapes in flats]
            else:
                found += [Case(operation, algorithm, ((7, 300),)), Case(operation, algorithm, ((5,), (3, 500), ()), dtype="f8")]
                found += [Case(operation, algorithm, ((),)), Case(operation, algorithm, ((1401,),), operator="max", apart=True)]
    found += [Case("all_gather", "ring", ((2, 3),), uneven=True), Case("all_gather", "direct", ((2000,),), uneven=True)]
    found += [Case("reduce_scatter", name, ((60, 5, 9),), extents="alike") for name in names("reduce_scatter")]
    found += [Case("reduce_scatter", "ring", ((5, 9, 60),), dim=dim, dtype="f8", extents="alike") for dim in (1, 2)]
    found += [Case("all_to_all", "pairwise", ((4 * n, 3 * n, 35),), dim=dim, split=split) for dim in (0, 1) for split in (0, 1)]
    found += [Case("all_to_all", "pairwise", ((9, 9, 35),), dim=0, split=1, extents="alike", uneven=uneven) for uneven in (False, True)]
    found += [Case("all_to_all", "pairwise", ((9, 700),), dtype="f8", extents="own", uneven=uneven) for uneven in (False, True)]
    found += [Case("all_to_all", "pairwise", ((9, 7 * n),), split=-1, apart=True, uneven=True)]
    found += [Case("reduce_scatter", "ring", shapes, shards=True, add=True) for shapes in (((1500 * n,),), ((2 * n,), (1500 * n,)))]
    return found


def same(ranks: Ranks, num_ranks: int) -> bool:
    made, group = cases(num_ranks), list(range(num_ranks))[::-1]
    assert len(made) > 40
    return ranks(targets.parts, num_ranks, group, made, slot_bytes=SLOT) == targets.at_once(group, made)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_every_collective_of_buffers_equals_the_one_of_all_ranks_in_bits_bytes_and_memory(ranks: Ranks, num_ranks: int) -> None:
    assert same(ranks, num_ranks) is True


def in_lockstep(target: Callable[..., Any], num_ranks: int, *args: Any, **options: Any) -> list[Any]:
    return launch(target, num_ranks, "lockstep", args, **options)


@pytest.mark.parametrize("fault", ["sent", "sum"])
def test_a_chunk_that_arrives_where_it_must_not_is_seen(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right = fabric._round

    def mutant(transfers: list[fabric.Transfer], mine: set[int], position: int, operator: Operator) -> fabric.Round:
        made = right(transfers, mine, position, operator)
        if fault == "sum":
            return made._replace(reduced=frozenset())  # two that are added arrive in one place
        return made._replace(settled=frozenset((t.dst, t.chunk) for t in made.receives))  # what is sent is written to

    monkeypatch.setattr(fabric, "_round", mutant)
    assert same(in_lockstep, 4) is False


@pytest.mark.parametrize("operation", ["all_gather", "all_to_all"])
def test_parts_that_are_joined_in_another_order_are_seen(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    made, group = [case for case in cases(4) if case.operation == operation and not case.shards], [3, 2, 1, 0]
    expected = targets.at_once(group, made)
    assert in_lockstep(targets.parts, 4, group, made) == expected
    right = part.cut_along
    monkeypatch.setattr(part, "cut_along", lambda *args: right(*args)[::-1])
    assert in_lockstep(targets.parts, 4, group, made) != expected
