"""What holds for layers of experts can fail, and `verify` notices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import sizes
from parsim.executor.job import Job
from parsim.model.gates import GATES, gate
from parsim.parallel.group import Group
from parsim.parallel.plan import Batch, Plan
from parsim.step import finish
from parsim.verify import verify_plan
from parsim_kernels import experts
from parsim_kernels.kernels import KERNELS
from support import MOE, forget_steps, scenario

Patch = Callable[[pytest.MonkeyPatch], None]
UNEVEN = replace(MOE, num_experts=3, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=4)
PLAN = Plan(data_parallel=3, expert_parallel=3)


def _kernel(patch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, name: wrong})


def _loads_swapped(patch: pytest.MonkeyPatch) -> None:
    """The executor lets the first expert have the tokens of the last."""
    right = Job._attribute

    def attribute(self: Job, task: object, value: object, sizes: object) -> object:
        found = right(self, task, value, sizes)  # type: ignore[arg-type]
        return found[::-1] if isinstance(found, tuple) and str(value).startswith("loads") else found

    patch.setattr(Job, "_attribute", attribute)


def _no_gate(patch: pytest.MonkeyPatch) -> None:
    def weigh(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        return experts.weigh((inputs[0], np.ones_like(inputs[1])), attributes, out)

    _kernel(patch, "weigh", weigh)


def _no_gradient_of_gates(patch: pytest.MonkeyPatch) -> None:
    def weigh_grad(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        (gates,), flops = experts.weigh_grad(inputs, attributes, out)
        gates.fill(0)
        return (gates,), flops

    _kernel(patch, "weigh_grad", weigh_grad)


def _gate(patch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    patch.setitem(GATES._values, name, replace(gate(name), **changes))  # type: ignore[arg-type]


def _router_is_not_trained(patch: pytest.MonkeyPatch) -> None:
    _gate(patch, "softmax", slope=lambda logits, gates, d_gates: np.zeros_like(gates))


def _table_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """The slots of a rank are those of the next one."""
    right = sizes._slots

    def slots(loads: tuple[int, ...]):  # type: ignore[no-untyped-def]
        return ((dim, axis, lambda n, ranks, share=share: np.roll(share(n, ranks), 1).tolist()) for dim, axis, share in right(loads))

    patch.setattr(sizes, "_slots", slots)


def _slots_hold_other_tokens(patch: pytest.MonkeyPatch) -> None:
    def permute(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        return experts.permute((np.roll(inputs[0], 1, axis=1),), attributes, out)

    _kernel(patch, "permute", permute)


def _one_weight_in_the_group_of_others(patch: pytest.MonkeyPatch) -> None:
    right = finish.by_group

    def by_group(weights, *sums):  # type: ignore[no-untyped-def]
        moved = [(s, replace(w, group=Group(("dp",))) if w.name == "experts_up.weight" else w) for s, w in weights]
        return right(moved, *sums)

    patch.setattr(finish, "by_group", by_group)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_loads_swapped, "weight gradients, by hand"),
        (_no_gate, "loss, by hand"),
        (_no_gradient_of_gates, "weight gradients, by hand"),
        (_router_is_not_trained, "weight gradients, by hand"),
        (_slots_hold_other_tokens, "loss, by hand"),
        (_one_weight_in_the_group_of_others, "weight gradients"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = scenario(model=UNEVEN, batch=Batch(6, 8))
    mutate(monkeypatch)
    forget_steps()
    try:
        assert quantity in {check.quantity for check in verify_plan(toy, PLAN, "toy") if not check.ok}
    finally:
        forget_steps()


def test_kernels_refuse_what_a_wrong_table_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _table_off_by_one(monkeypatch)
    with pytest.raises(ValueError, match=r"6 rows are not those of experts that have \(5,\)"):
        verify_plan(scenario(model=UNEVEN, batch=Batch(6, 8)), PLAN, "toy")


def _sigmoids_differentiated_as_exponentials(patch: pytest.MonkeyPatch) -> None:
    _gate(patch, "sigmoid", slope=gate("softmax").slope)


def test_verify_notices_a_wrong_gradient_of_sigmoids(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = scenario(model=replace(UNEVEN, gates="sigmoid"), batch=Batch(6, 8))
    assert not [check for check in verify_plan(toy, PLAN, "toy") if not check.ok]
    _sigmoids_differentiated_as_exponentials(monkeypatch)
    assert "weight gradients, by hand" in {check.quantity for check in verify_plan(toy, PLAN, "toy") if not check.ok}
