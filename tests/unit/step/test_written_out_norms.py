"""An RMSNorm that no kernel fuses is priced as the kernels that it is written out in, and one that a kernel fuses as that."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from narrow_toys import LLAMA
from parsim.cluster.efficiency import elementwise_s
from parsim.cost import timing
from parsim.cost.timing import compute_s
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import STACK, TOY, scenario

ELEMENTS = 2 * 8 * LLAMA.hidden_size  # of a micro_batch of two sequences of 8 tokens
# In float32: a square, its mean, a product; back two products, one of which is summed, a mean spread out, a copy, a double and a product
# for the square, and the sum of both ways.
FORWARD_BYTES = (4 + 4) + 4 + (4 + 4)
BACKWARD_BYTES = (4 + 4) + (4 + 4 + 4) + 4 + 4 + (4 + 4) + (4 + 4) + (4 + 4 + 4) + (4 + 4 + 4)


def seconds(kernel: str, phase: Phase) -> float:
    """Of the first kernel of that name in a layer."""
    workload = stages_of(scenario(model=LLAMA, batch=Batch(2, 8), stack=replace(STACK, fusions=())), Plan(micro_batch=2)).workload
    task = next(t for t in workload.step.segments["layer"].phases[phase] if isinstance(t, Compute) and t.kernel == kernel)
    return float(compute_s(task, workload.sizes, workload.model)[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("kernel", "phase", "num_bytes"),
    [("rms_normalize", Phase.F, FORWARD_BYTES), ("rms_normalize_grad", Phase.B, BACKWARD_BYTES)],
)
def test_what_normalises_moves_what_its_kernels_do(kernel: str, phase: Phase, num_bytes: int) -> None:
    assert seconds(kernel, phase) == pytest.approx(float(elementwise_s(TOY, ELEMENTS * num_bytes)), rel=1e-12)


def test_one_kernel_for_all_of_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_WRITTEN_OUT", {})
    assert seconds("rms_normalize", Phase.F) < float(elementwise_s(TOY, ELEMENTS * FORWARD_BYTES))
