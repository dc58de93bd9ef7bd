"""The exported program trains for real, over gloo on this machine's cores, with the losses of `parsim execute`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from compare.run_exports import ALL, CASES, FIRST, Case, Ran, program, run
from parsim.parallel.plan import Plan

pytest.importorskip("torch.distributed.pipelining", reason="torch is not installed: the extra [torch] brings it")

FP32: dict[str, Any] = {"model.dropout": 0, "batch.dtype": "fp32"}
LLAMA = {**FP32, "model.activation": "swiglu", "model.norm": "rms_norm", "model.positions": "rotary", "model.bias": False}
QWEN = {**LLAMA, "model.qk_norm": True, "model.tied_embedding": False}
CHAIN: dict[str, Any] = {"model.units": [48, 32, 20], "model.activation": "tanh"}
MIXED = {**CHAIN, "model.activations": ["sigmoid", "silu", "linear"]}
FEW = 4  # steps
MORE = {
    "nothing is clipped": Case("pytorch", "digits-async", "all_reduce", {}, FEW),  # beside workers that push gradients
    "selective": Case("pytorch", "tiny", Plan(recompute="selective", micro_batch=2), FP32, FEW),
    "modules of every second layer": Case("pytorch", "tiny", Plan(recompute_modules=("mlp",), recompute_every=2), FP32, FEW),
    "sgd": Case("pytorch", "tiny", Plan(data_parallel=2, optimizer="sgd_momentum"), FP32, FEW),
    "zero bubble": Case("pytorch", "tiny", Plan(pipeline_parallel=2, schedule="zero_bubble_h1"), FP32, FEW),
    "gpipe of shards": Case(
        "pytorch",
        "tiny",
        Plan(data_parallel=2, pipeline_parallel=2, schedule="gpipe", zero_stage=3, reshard_after_forward=False),
        FP32,
        FEW,
    ),
    "kept shards": Case("pytorch", "tiny", Plan(data_parallel=2, zero_stage=3, reshard_after_forward=False), FP32, FEW),
    "another order of ranks": Case(
        "pytorch", "tiny", Plan(data_parallel=2, tensor_parallel=2, rank_order="dp-tp-pp", recompute="full"), FP32, FEW
    ),
    "llama": Case("pytorch", "tiny", Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, zero_stage=3), LLAMA, FEW),
    "qwen": Case("pytorch", "tiny", Plan(pipeline_parallel=2, tensor_parallel=2), QWEN, FEW),
    "softmax regression": Case("pytorch", "digits-regression", Plan(data_parallel=2, micro_batch=16, zero_stage=3), {}, FEW),
    "chain": Case("pytorch", "digits-regression", Plan(tensor_parallel=2, micro_batch=16), MIXED, FEW),
    "chain whose labels are whole": Case(
        "pytorch", "digits-regression", Plan(tensor_parallel=2, micro_batch=32), {**CHAIN, "model.units": [48, 32]}, FEW
    ),
    "stages of a chain": Case("pytorch", "digits-regression", Plan(tensor_parallel=2, pipeline_parallel=2, micro_batch=16), CHAIN, FEW),
    "shards of a chain": Case(
        "pytorch",
        "digits-regression",
        Plan(data_parallel=2, tensor_parallel=2, micro_batch=16, zero_stage=3, recompute="full"),
        CHAIN,
        FEW,
    ),
    "relu, whole vocabulary": Case("pytorch", "tiny", Plan(), {**FP32, "model.activation": "squared_relu", "model.vocab_size": 101}, FEW),
}


def agrees(ran: Ran) -> None:
    assert ran.differences[0] <= FIRST and max(ran.differences) <= ALL, ran.differences


def test_one_rank_has_the_losses_of_execute() -> None:
    agrees(run(Case("pytorch", "tiny", Plan(micro_batch=2), FP32, 2), sys.executable))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.target} {case.scenario} {case.label}")
def test_twenty_steps_have_the_losses_of_execute(case: Case) -> None:
    if case.target != "pytorch":
        pytest.skip("another target")
    agrees(run(case, sys.executable))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_part_of_the_program_computes_what_execute_does(name: str) -> None:
    agrees(run(MORE[name], sys.executable))


@pytest.mark.slow
def test_another_rate_is_another_loss(tmp_path: Path) -> None:
    """The comparison sees a wrong program: half the learning rate parts the losses by more than it allows."""
    case = Case("pytorch", "tiny", Plan(), FP32, FEW)
    wrong = Case("pytorch", "tiny", Plan(), {**FP32, "training.learning_rate": 0.0005}, FEW)
    right, other = run(case, sys.executable), program(wrong, wrong.load(), tmp_path, sys.executable)
    assert max(abs(step["loss"] - loss) / loss for step, loss in zip(other, right.executed, strict=True)) > ALL


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["weights.npz", "data.npz"])
def test_a_program_without_its_numbers_draws_its_own(missing: str, tmp_path: Path) -> None:
    case = Case("pytorch", "tiny", Plan(data_parallel=2, tensor_parallel=2, zero_stage=3), FP32, 3)
    steps = program(case, case.load(), tmp_path, sys.executable, without=(missing,))
    assert [each["step"] for each in steps] == [1, 2, 3] and all(3 < each["loss"] < 7 for each in steps)


@pytest.mark.slow
def test_shards_train_in_bf16_beside_float32_weights(tmp_path: Path) -> None:
    case = Case("pytorch", "tiny", Plan(data_parallel=2, zero_stage=3, precision="bf16"), FP32, FEW)
    executed = run(Case("pytorch", "tiny", Plan(data_parallel=2, zero_stage=3), FP32, FEW), sys.executable).executed
    steps = program(case, case.load(), tmp_path, sys.executable)
    assert all(abs(each["loss"] - loss) < 0.02 * loss for each, loss in zip(steps, executed, strict=True))
