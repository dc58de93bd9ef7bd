"""The checks of an MLP can fail: each wrong rule below turns one red."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from mlp_by_hand import MLP, ROWS, executed_and_by_hand, predicted_flops_and_arithmetic
from parsim.model import op_kinds
from parsim.model.families import FAMILIES, Blocks
from parsim.model.families.mlp import MlpArchitecture
from parsim.model.op import Block, Gradient
from parsim.parallel.plan import Plan
from parsim.step import place
from parsim.verify import verify_plan
from support import forget_steps, scenario


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    forget_steps()
    yield
    forget_steps()


def red(plan: Plan) -> set[str]:
    return {check.quantity for check in verify_plan(scenario(model=MLP, batch=ROWS), plan, "toy") if not check.ok}


def differs_from_numpy() -> set[str]:
    executed, (_, gradients) = executed_and_by_hand(2)
    return {name for name, value in gradients.items() if np.abs(executed.gradients[0][name] - value).max() > 1e-15}


def test_without_a_mutant_all_is_green() -> None:
    assert not red(Plan()) | red(Plan(tensor_parallel=2)) | differs_from_numpy()


@pytest.mark.parametrize("kernel", ["relu", "relu_grad", "bias", "row_max"])
def test_a_kernel_that_costs_one_flop_more_is_noticed(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = op_kinds.COSTS[kernel]
    monkeypatch.setitem(op_kinds.COSTS, kernel, replace(right, per_element=right.per_element + 1))
    assert red(Plan()) >= {"FLOPs", "FLOPs, simulated"}
    predicted, counted = predicted_flops_and_arithmetic()
    assert predicted > counted


def test_a_nonlinearity_that_passes_its_gradient_on_differs_from_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank has the same gradients, but not those of the formulas."""
    monkeypatch.setitem(op_kinds.KINDS, "relu", op_kinds.Kind("relu", (Gradient("x0"),)))
    assert red(Plan(data_parallel=2)) == {"weight gradients, by hand", "updated weights, by hand"}
    assert "embedding/input.weight" in differs_from_numpy()


def test_partial_sums_of_the_second_dense_layer_that_are_not_reduced_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = place.Placer.output

    def output(self, call, inputs, name, dims, dtype):  # type: ignore[no-untyped-def]
        made = right(self, call, inputs, name, dims, dtype)
        if call.name == "down_gemm":
            made = replace(made, sharding=replace(made.sharding, partial={}))
            self.known[name] = made
        return made

    monkeypatch.setattr(place.Placer, "output", output)
    assert {"weight gradients", "loss"} <= red(Plan(tensor_parallel=2))


def _changed(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """The family with the op called `name` changed, in whichever block it is."""
    right = FAMILIES.get("mlp")

    def change(block: Block) -> Block:
        return replace(block, ops=tuple(replace(op, **changes) if op.name == name else op for op in block.ops))  # type: ignore[arg-type]

    def blocks(kind: MlpArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
        return {name: change(block) for name, block in right.blocks(kind, attention, fusions).items()}

    monkeypatch.setitem(FAMILIES._values, "mlp", replace(right, blocks=blocks))


def test_a_gradient_of_the_features_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Block, "asked", property(lambda block: {name for op in block.ops for name in (*op.inputs, *op.outputs)}))
    predicted, counted = predicted_flops_and_arithmetic()
    assert predicted - counted == 2 * 12 * 6 * 12  # rows x features x hidden_size


def test_the_mean_over_another_number_of_rows_differs_from_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    _changed(monkeypatch, "loss", attributes=(("scale", 1.0),))
    executed, (loss, _) = executed_and_by_hand(1)
    assert executed.loss == pytest.approx(12 * loss)
