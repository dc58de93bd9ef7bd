"""A segment that several Steps share is the one that each would have made of all its switches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest
from msgspec.structs import replace

from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.step import lower
from parsim.step.structure import Structure
from support import MOE, STACK, forget_steps

PLANS = (
    Plan(tensor_parallel=2, data_parallel=2),
    Plan(pipeline_parallel=2, data_parallel=2, schedule="zero_bubble_v", virtual_pipeline=2),
    Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=2, recompute="full", recompute_every=2),
    Plan(expert_parallel=2, data_parallel=4),
    Plan(pipeline_parallel=2, expert_parallel=2, data_parallel=2, zero_stage=1, recompute="selective"),
    Plan(expert_parallel=2, tensor_parallel=2, sequence_parallel=True, data_parallel=2, expert_tensor_parallel=2),
)
STACKS = (STACK, replace(STACK, tensor_overlap=True, gradient_overlap=True, attention="flash", fusions=("swiglu", "norm_gemm")))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget_steps()
    yield
    forget_steps()


def differences(model: TransformerSpec, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, str]]:
    """Segments that are not those of all switches."""
    wrong = []
    for batch in (Batch(8, 8), Batch(8, 8, "fp8_blockwise")):
        for stack in STACKS:
            for plan in PLANS:
                structure = Structure.of(model, batch, plan, stack)
                shared = lower.lower(structure).segments
                with monkeypatch.context() as patch:
                    patch.setattr(lower, "_segment_of", lower._segment)
                    alone = lower.lower.__wrapped__(structure).segments
                wrong += [(plan, name) for name in alone if alone[name] != shared[name]]
    return wrong


@pytest.mark.parametrize("tied", [False, True])
def test_a_shared_segment_is_that_of_all_switches(monkeypatch: pytest.MonkeyPatch, *, tied: bool) -> None:
    assert not differences(replace(MOE, tied_embedding=tied), monkeypatch)


def test_a_switch_that_is_read_and_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lower._calls
    monkeypatch.setattr(lower, "_calls", lru_cache(lambda *of: right(*of)._replace(dims=right(*of).dims - {"F"})))
    assert {name for _, name in differences(MOE, monkeypatch)} >= {"layer"}
