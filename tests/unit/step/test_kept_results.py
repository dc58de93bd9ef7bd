"""What a layer keeps of its nonlinearity for backward."""

from __future__ import annotations

from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from support import GPT, scenario


def kept_bytes(activation: str) -> int:
    workload = stages_of(scenario(model=replace(GPT, activation=activation), batch=Batch(1, 8, "bf16")), Plan()).workload
    return sum(int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["layer"].kept[Phase.F])


def test_a_relu_keeps_its_result_which_the_next_gemm_keeps_too_and_a_gelu_its_input_beside_that() -> None:
    """PyTorch, tools/autograd/derivatives.yaml: relu has threshold_backward(grad, result, 0), gelu reads self."""
    tokens, bytes_per_element = 8, 2
    assert kept_bytes("gelu") - kept_bytes("relu") == tokens * GPT.ffn_hidden_size * bytes_per_element
