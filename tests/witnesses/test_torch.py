"""Gradients of executed plans against torch's autograd of the same model written in torch, both in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from mlp_by_hand import MLP, ROWS
from parsim.executor.evaluate import whole_weights
from parsim.executor.names import own_weights_of
from parsim.executor.run import Execution, execute
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim_kernels.signature import Array
from support import GPT, STACKS, scenario
from torch_by_hand import gradients, mlp, torch, transformer

TOLERANCE = 1e-12  # of the largest gradient: the same sums in another order; 1.5e-15 is usual
BATCH = Batch(4, 8)
TOY_GPT = replace(GPT, num_layers=2)
LLAMA = replace(
    TOY_GPT, name="llama", num_kv_heads=2, activation="swiglu", tied_embedding=False, dropout=0.0, norm="rms_norm", positions="rotary",
    bias=False, qkv_bias=False,
)  # fmt: skip


def drawn_weights(executed: Execution) -> dict[str, Array]:
    """All weights before the first step."""
    job, found = executed.job, {}
    for instance, weight in own_weights_of([copy for stage in range(job.workload.num_stages) for copy in job.copies(stage)]):
        shape = [job.extent(dim) for dim in weight.sharding.dims]
        found[f"{instance}/{weight.name}"] = job.values.weight(instance, weight.name, weight.initial, shape)
    return found


def gradients_of_torch(executed: Execution, flash: bool) -> tuple[float, dict[str, Array]]:
    """Loss and gradients of the whole batch; masks are those of the first micro_batch, which is all there is where some are drawn."""
    values, model, batch = executed.job.values, executed.job.spec, executed.job.model.batch
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in drawn_weights(executed).items()}

    def drawn(instance: str, name: str, shape: tuple[int, ...]) -> object:
        return torch.tensor(values.draw(instance, name, 0, shape))

    count = executed.job.workload.num_micro_batches
    rows = (batch.global_batch // count, batch.sequence_length)

    def all_drawn(instance: str, name: str, *dims: int) -> object:
        return torch.tensor(np.concatenate([values.draw(instance, name, m, (*rows, *dims)) for m in range(count)]))

    if model.family == "mlp":
        features, labels = all_drawn("embedding", "features", model.num_features), all_drawn("head", "row_labels")
        loss = mlp(model, weights, features[:, 0], labels[:, 0])  # type: ignore[index]
    else:
        tokens, labels = all_drawn("embedding", "tokens"), all_drawn("head", "labels")
        loss = transformer(model, weights, tokens, labels, drawn, not flash)
    return float(loss.detach()), gradients(loss, weights)


def compared(mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """The largest difference, of the largest gradient."""
    assert set(mine) == set(theirs)
    largest = max(float(np.abs(gradient).max()) for gradient in theirs.values())
    return max(float(np.abs(mine[name] - gradient).max()) for name, gradient in theirs.items()) / largest


def run(model: ModelSpec, stack: Stack) -> Execution:
    batch = ROWS if model.family == "mlp" else BATCH
    return execute(scenario(model=model, stack=stack, batch=batch), Plan(micro_batch=batch.global_batch))


MODELS = {
    "gpt": TOY_GPT,
    "gpt-undropped": replace(TOY_GPT, dropout=0.0),
    "gpt-untied-grouped": replace(TOY_GPT, tied_embedding=False, num_kv_heads=2),
    "llama": LLAMA,
    "qwen": replace(LLAMA, qkv_bias=True, tied_embedding=True),
    "mlp": MLP,
}


@pytest.mark.parametrize("stack", STACKS, ids=["fused", "overlapped", "flash", "unfused"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_gradients_are_those_of_torch(model: ModelSpec, stack: Stack) -> None:
    executed = run(model, stack)
    loss, expected = gradients_of_torch(executed, stack.attention == "flash")
    assert abs(executed.loss - loss) <= TOLERANCE * loss
    assert compared(executed.gradients[0], expected) <= TOLERANCE


SPLIT = {
    "dp-sp": Plan(2, 2, sequence_parallel=True),
    "pp-interleaved": Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", recompute="full"),
    "pp-zero-bubble": Plan(pipeline_parallel=2, schedule="zero_bubble_h1", recompute="selective"),
    "zero2": Plan(3, zero_stage=2),
    "zero3-tp": Plan(2, 2, zero_stage=3),
}


@pytest.mark.parametrize("stack", [STACKS[1], STACKS[2]], ids=["overlapped", "flash"])
@pytest.mark.parametrize("plan", SPLIT.values(), ids=SPLIT)
def test_gradients_of_a_split_model_put_together_are_those_of_torch(plan: Plan, stack: Stack) -> None:
    model, batch = replace(LLAMA, num_layers=4), Batch(4 * plan.data_parallel, 8)
    split = execute(scenario(model=model, stack=stack, batch=batch), plan)
    assert compared(whole_weights(split.job, split.gradients), gradients_of_torch(split, stack.attention == "flash")[1]) <= TOLERANCE


def test_an_epsilon_of_another_size_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim_kernels.reduction._EPSILON", 1e-6)
    executed = run(LLAMA, STACKS[0])
    assert compared(executed.gradients[0], gradients_of_torch(executed, False)[1]) > 1e-9
