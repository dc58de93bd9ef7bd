"""What holds for weights that lie over the expert view can fail, and `verify` notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from made_up import mixture, registered
from parsim.executor import calls
from parsim.parallel.dimensions import EXPERT, axes_of
from parsim.parallel.group import Group
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.sharding import _Resharding
from parsim.step import finish
from parsim.verify import verify_plan
from support import STACKS, forget_steps, scenario

PLAN = Plan(data_parallel=4, tensor_parallel=2, expert_parallel=2, expert_tensor_parallel=2)
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with registered(tmp_path, monkeypatch) as name:
        yield name


def _experts_summed_over_dense_replicas(patch: pytest.MonkeyPatch) -> None:
    right = finish.by_group
    dense = Group(("dp",))
    patch.setattr(finish, "by_group", lambda weights, *sums: tuple((dense, own) for _, own in right(weights, *sums)))


def _experts_not_summed(patch: pytest.MonkeyPatch) -> None:
    right = finish.by_group
    patch.setattr(finish, "by_group", lambda weights, *sums: right(weights, *sums)[:1])


def _norm_counts_experts_as_dense_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls, "view_of", lambda axes: "dense")


def _gathered_before_exchanged(patch: pytest.MonkeyPatch) -> None:
    """Tokens come back in another order than they left."""
    right = _Resharding.gather

    def gather(self: _Resharding, dim: int) -> None:
        etp = axes_of(EXPERT)[-1]
        if etp in self.axes[dim] and etp not in self.wanted[dim] and self.dims[dim] == "G":
            self.axes[dim].remove(etp)
            self.move("all_gather", etp, dim)
        right(self, dim)

    patch.setattr(_Resharding, "gather", gather)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_experts_summed_over_dense_replicas, "weight gradients"),
        (_experts_not_summed, "weight gradients"),
        (_norm_counts_experts_as_dense_weights, "updated weights"),
        (_gathered_before_exchanged, "weight gradients"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = scenario(model=mixture(package), batch=Batch(16, 4), stack=STACKS[0])
    assert not [check for check in verify_plan(toy, PLAN, "toy") if not check.ok]
    forget_steps()
    mutate(monkeypatch)
    assert quantity in {check.quantity for check in verify_plan(toy, PLAN, "toy") if not check.ok}
