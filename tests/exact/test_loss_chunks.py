"""Output layer and loss in chunks of tokens: the same work and the same numbers, with logits of one chunk at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import ParsimError, estimate, execute, from_mapping
from parsim.cost.count import flops
from parsim.cost.sizes import sizes_of
from parsim.executor import bind, calls
from parsim.model.dims import COMPUTE
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.schedules.phase import SPLIT, WHOLE
from parsim.step.check import faults
from parsim.step.lower import lower
from parsim.step.structure import Structure
from parsim.verify import verify_plan
from parsim_kernels import kernels
from support import DTYPES, GPT, STACK, STACKS, enough, forget_steps, scenario

UNTIED = replace(GPT, tied_embedding=False, vocab_size=64)  # no padding of the vocabulary
ENCODER = replace(GPT, causal=False, norm_last=True, num_token_types=2, head="masked_token")
GATHERS = {"gather_logits": True, "fusions": ("loss_in_place", "gradient_accumulation")}
NARROW = {"narrow_gradients": True}
# LLaMA 3 8B of torchtitan: 8,192 tokens a sequence, and a vocabulary of 128,256.
LLAMA = {
    "model": "llama3-8b",
    "cluster": {"node": "dgx-h100", "num_nodes": 1},
    "batch": {"global_batch": 8, "sequence_length": 8192},
    "plans": {"fsdp": {"zero_stage": 3, "recompute": "selective"}},
}


def failed(num_chunks: int, plan: Plan, model: Any = GPT, **stack: Any) -> list[str]:
    chosen = replace(STACKS[1], loss_chunks=num_chunks, **stack)
    told = scenario(model=model, batch=enough(plan, most=4 * plan.data_parallel), stack=chosen)
    return [check.quantity for check in verify_plan(told, plan, "toy") if not check.ok]


def peak_bytes(num_chunks: int, base: str = "torchtitan") -> int:
    told = from_mapping({**LLAMA, "stack": {"base": base, "loss_chunks": num_chunks}})
    return estimate(told, told.plans["fsdp"]).peak_bytes


@pytest.mark.parametrize(
    ("num_chunks", "plan", "model", "stack"),
    [
        (8, Plan(), GPT, {}),
        (2, Plan(data_parallel=2, zero_stage=2), UNTIED, {}),
        (4, Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=2, zero_stage=3), ENCODER, {}),
        (2, Plan(tensor_parallel=2, pipeline_parallel=2, schedule="gpipe"), UNTIED, GATHERS),
        (4, Plan(pipeline_parallel=2, schedule="zero_bubble_h1"), GPT, NARROW),
        (4, Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", recompute="full"), GPT, {}),
    ],
    ids=str,
)
def test_chunks_are_executed_as_they_are_counted(num_chunks: int, plan: Plan, model: Any, stack: dict[str, Any]) -> None:
    """FLOPs, bytes, sent bytes, peaks, picoseconds; losses and gradients of one rank, and of plain arithmetic."""
    assert not failed(num_chunks, plan, model, **stack)
    told = scenario(model=model, stack=replace(STACKS[1], loss_chunks=num_chunks, **stack))
    step = lower(Structure.of(told.model, told.batch, plan, told.stack))
    assert not faults(step, SPLIT if "zero_bubble" in str(plan.schedule) else WHOLE)


def test_chunks_do_the_work_of_the_whole() -> None:
    """Of 8 tokens, 12 wide, and 64 logits: three matmuls, and as many elements of the loss."""
    assert [_head_flops(count, "einsum") for count in (1, 2, 8)] == [3 * 2 * 8 * 12 * 64] * 3
    assert [_head_flops(count, "shifted_exp") for count in (1, 2, 8)] == [2 * 8 * 64] * 3


def _head_flops(num_chunks: int, kernel: str) -> int:
    stack, batch, plan = replace(STACK, loss_chunks=num_chunks), Batch(1, 8), Plan()
    head = lower(Structure.of(UNTIED, batch, plan, stack)).segments["head"]
    sizes = sizes_of(UNTIED, batch, Plans.of([plan]), stack, DTYPES)
    tasks = (task for tasks in (head.phases[phase] for phase in WHOLE) for task in tasks if getattr(task, "kernel", "") == kernel)
    return sum(int(flops(task, sizes)[0]) for task in tasks)


def test_forward_leaves_two_gradients_in_the_dtype_of_matmuls() -> None:
    """Of what enters the head, and of its matrix; and what the norm before it reads: no logits (Liger's backward)."""
    told = replace(STACK, loss_chunks=4)
    head = lower(Structure.of(UNTIED, Batch(8, 8), Plan(), told)).segments["head"]
    kept = {operand.name: operand for operands in head.kept.values() for operand in operands}
    assert {name: each.dims for name, each in kept.items() if name != "x"} == {
        "d_head_in": ("B", "S", "D"),
        "d_word.weight@chunks": ("V", "D"),
    }
    assert {each.dtype for each in kept.values()} == {COMPUTE}


def test_losses_do_not_depend_on_chunks() -> None:
    def losses(num_chunks: int) -> list[float]:
        model = {"base": "tiny-gpt", "vocab_size": 100, "source": "made up"}
        plans = {"a": {"tensor_parallel": 2, "data_parallel": 2, "zero_stage": 3}}
        told = {"cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}}, "batch": {"global_batch": 4, "sequence_length": 8}}
        stack = {"base": "torchtitan", "loss_chunks": num_chunks}
        return execute(
            from_mapping({**told, "model": model, "plans": plans, "stack": stack}), "a", num_steps=3, transport="lockstep"
        ).losses

    np.testing.assert_allclose(losses(4), losses(1), rtol=1e-12)  # sums in another order


def test_a_token_of_a_chunk_takes_some_thirteen_bytes_a_logit() -> None:
    """pytorch/torchtitan, pull request 4514: its chunks take "~13 bytes x chunk_size x vocab_per_rank".

    Here 12 at the worst: probabilities and both gradients in float32.
    """
    tokens, vocabulary = 8192, 128_256
    logits = (tokens // 2 - tokens // 4) * vocabulary
    assert (peak_bytes(2) - peak_bytes(4)) / logits == pytest.approx(13, rel=0.1)


def test_many_chunks_leave_the_peak_to_the_layers() -> None:
    """A loss of float32 logits in whole: 12 bytes each.  In chunks the peak lies in the layers, whatever their number."""
    assert peak_bytes(1) - peak_bytes(8) > 6 * 8192 * 128_256
    assert peak_bytes(16) == peak_bytes(32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stack": {"base": "torchtitan", "loss_chunks": 3}}, "loss_chunks = 3 does not divide sequence_length = 8192"),
        ({"model": {"base": "bert-large", "head": "text", "tied_embedding": False, "source": "x"}}, "has labels; leave it out"),
    ],
)
def test_what_has_no_chunks_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        from_mapping({**LLAMA, "stack": {"base": "torchtitan", "loss_chunks": 8}, **change})


def _first_chunk(inputs: Any, attributes: Any, out: Any = kernels.lookup.fresh) -> Any:
    return kernels.lookup.take(inputs, {**attributes, "chunk": 0}, out)


def _other_order(inputs: Any, attributes: Any, out: Any = kernels.lookup.fresh) -> Any:
    return kernels.lookup.join(inputs[::-1], attributes, out)


@pytest.mark.parametrize(("kernel", "mutant"), [("take", _first_chunk), ("join", _other_order)])
def test_a_mutant_that_mixes_chunks_up_is_noticed(kernel: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim_kernels.machine.KERNELS", {**kernels.KERNELS, kernel: mutant})
    assert "weight gradients, by hand" in failed(2, Plan())


def test_a_mutant_that_keeps_the_last_gradient_of_the_matrix_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = calls.pass_kernel

    def pass_kernel(*args: Any) -> calls.KernelUse:
        use = right(*args)
        is_sum = use.modes["accumulate"] and use.outputs[0].endswith("@chunks")
        return replace(use, modes={**use.modes, "accumulate": False, "overwrite": True}) if is_sum else use

    monkeypatch.setattr(bind, "pass_kernel", pass_kernel)
    assert "weight gradients, by hand" in failed(2, Plan())


def test_a_mutant_that_takes_a_chunk_for_the_whole_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    monkeypatch.setattr("parsim.step.chunked._chunk_dims", lambda dims: dims)
    assert {"FLOPs", "peak bytes"} <= {quantity.partition(",")[0] for quantity in failed(2, Plan())}
    forget_steps()
