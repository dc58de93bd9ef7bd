"""The checks of a chain of dense layers can fail: each wrong rule below turns one red."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from mlp_by_hand import ROWS
from parsim.model import op_kinds
from parsim.model.families import FAMILIES, Blocks
from parsim.model.families.dense import DenseArchitecture, DenseSpec
from parsim.model.op import Block, Gradient
from parsim.parallel.plan import Plan
from parsim.step import place
from parsim.verify import verify_plan
from support import forget_steps, scenario

CHAIN = DenseSpec.of(name="toy chain", num_features=6, units=(8, 6, 16), num_labels=3, activation="sigmoid")


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    forget_steps()
    yield
    forget_steps()


def red(plan: Plan) -> set[str]:
    return {check.quantity for check in verify_plan(scenario(model=CHAIN, batch=ROWS), plan, "toy") if not check.ok}


def test_without_a_mutant_all_is_green() -> None:
    assert not red(Plan(tensor_parallel=2, micro_batch=12))


@pytest.mark.parametrize("op", ["dense_gemm", "logits_gemm"])
def test_partial_sums_of_a_layer_by_rows_that_are_not_reduced_are_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = place.Placer.output

    def output(self, call, inputs, name, dims, dtype):  # type: ignore[no-untyped-def]
        made = right(self, call, inputs, name, dims, dtype)
        if call.name == op:
            made = replace(made, sharding=replace(made.sharding, partial={}))
            self.known[name] = made
        return made

    monkeypatch.setattr(place.Placer, "output", output)
    assert {"weight gradients", "loss"} <= red(Plan(tensor_parallel=2, micro_batch=12))


def test_a_nonlinearity_that_passes_its_gradient_on_differs_from_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank has the same gradients."""
    monkeypatch.setitem(op_kinds.KINDS, "sigmoid", op_kinds.Kind("sigmoid", (Gradient("x0"),)))
    assert red(Plan(data_parallel=2)) == {"weight gradients, by hand", "updated weights, by hand"}


def test_a_layer_that_takes_what_no_nonlinearity_passed_differs_from_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    _changed(monkeypatch, lambda block: replace(block, ops=tuple(replace(op, inputs=_bare(op.inputs)) for op in block.ops)))
    assert {"loss, by hand", "weight gradients, by hand"} <= red(Plan(micro_batch=12))


def _bare(inputs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("x" if each == "active" else each for each in inputs)


def _changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Block], Block]) -> None:
    right = FAMILIES.get("dense")

    def blocks(kind: DenseArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
        return {name: change(block) for name, block in right.blocks(kind, attention, fusions).items()}

    monkeypatch.setitem(FAMILIES._values, "dense", replace(right, blocks=blocks))
