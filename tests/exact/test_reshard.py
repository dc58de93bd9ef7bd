"""reshard on nested axes: the trap where FLOPs, bytes and peak all agree and every gradient is wrong."""

from __future__ import annotations

import pytest

from parsim.errors import PlanError
from parsim.parallel.sharding import Sharding, reshard


def operations(have: Sharding, want: Sharding) -> list[tuple[str, str, int]]:
    return [(move.operation, move.axis, move.dim) for move in reshard(have, want)]


def test_axes_of_one_dim_nest_in_mesh_order_or_not_at_all() -> None:
    Sharding(("T",), (("dp", "tp"),))
    with pytest.raises(PlanError, match="nest in mesh order"):
        Sharding(("T",), (("tp", "dp"),))


def test_the_innermost_axis_is_gathered_first() -> None:
    assert operations(Sharding(("T",), (("dp", "tp"),)), Sharding(("T",), ((),))) == [("all_gather", "tp", 0), ("all_gather", "dp", 0)]


def test_an_outer_axis_cannot_be_gathered_under_an_inner_one() -> None:
    with pytest.raises(PlanError, match="cannot gather dp of dim T: tp nests inside it"):
        reshard(Sharding(("T",), (("dp", "tp"),)), Sharding(("T",), (("tp",),)))


def test_a_dim_cannot_be_cut_by_an_outer_axis_when_an_inner_one_cuts_it_already() -> None:
    with pytest.raises(PlanError, match="cannot slice dim T over dp"):
        reshard(Sharding(("T",), (("tp",),)), Sharding(("T",), (("dp", "tp"),)))


def test_a_partial_sum_over_an_outer_axis_is_not_scattered_inside_an_inner_one() -> None:
    have = Sharding(("T",), (("tp",),), {"dp": "sum"})
    with pytest.raises(PlanError):
        reshard(have, Sharding(("T",), (("dp", "tp"),)))


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (Sharding(("T",), ((),), {"tp": "sum"}), Sharding(("T",), ((),)), [("all_reduce", "tp", -1)]),
        (Sharding(("T",), ((),), {"tp": "sum"}), Sharding(("T",), (("tp",),)), [("reduce_scatter", "tp", 0)]),
        (Sharding(("T",), (("tp",),)), Sharding(("T",), ((),)), [("all_gather", "tp", 0)]),
        (Sharding(("T",), ((),)), Sharding(("T",), (("tp",),)), [("slice", "tp", 0)]),
        (Sharding(("T",), ((),), {"tp": "max"}), Sharding(("T",), (("tp",),)), [("all_reduce", "tp", -1), ("slice", "tp", 0)]),
    ],
)
def test_the_table_of_resharding(have: Sharding, want: Sharding, expected: list[tuple[str, str, int]]) -> None:
    assert operations(have, want) == expected
