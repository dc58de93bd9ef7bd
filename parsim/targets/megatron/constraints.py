"""What Megatron Core would not run, or run wrongly, although its parser lets some of it through; and what its environment must hold.

Source: NVIDIA/Megatron-LM, tag core_v0.16.1 and d98e8a64: megatron/training/arguments.py (validate_args), megatron/core/optimizer/
optimizer_config.py, megatron/core/transformer/transformer_config.py and moe/moe_layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from parsim.errors import PlanError
from parsim.model.transformer import TransformerSpec
from parsim.targets import training
from parsim.targets.megatron.model import ASSUMED
from parsim.targets.target import NotExpressible, Setup

CONNECTIONS: Final = "CUDA_DEVICE_MAX_CONNECTIONS"
_OF_BLACKWELL: Final = "nvfp4"  # what only such devices multiply


def refusals(target: str, setup: Setup, version: str) -> Iterator[PlanError]:
    """All of it; what no key says at all comes first."""
    model, plan, batch = setup.model, setup.plan, setup.batch
    if type(model) is not TransformerSpec:
        yield NotExpressible("model.family", target, version, f"a decoder of GPT's kind is exported, not a model of family {model.family}")
        return
    if plan.offload_optimizer and plan.optimizer != "adamw":
        yield NotExpressible("offload_optimizer", target, version, "the host updates by AdamW with states in float32 alone")
    where, said = f"plans.{setup.name}", f"{target} {version} would not run it"
    if (plan.offload_optimizer or plan.optimizer == "precision_aware_adamw") and not plan.zero_stage:
        what = "offload_optimizer" if plan.offload_optimizer else f"optimizer = {plan.optimizer}"
        yield PlanError(f"{said}: {what} is of its distributed optimizer", where, "Set zero_stage = 1.")
    if model.num_experts and plan.tensor_parallel > 1 and not plan.sequence_parallel:
        yield PlanError(f"{said}: experts beside tensor parallelism need sequence parallelism", where, "Set sequence_parallel = true.")
    if batch.sequence_length > model.max_positions:
        length = batch.sequence_length
        remedy = f"Set max_positions = {length}, which costs nothing where positions are turned."
        yield PlanError(f"{said}: sequences of {length} tokens are above max_positions = {model.max_positions}", "model", remedy)
    if plan.context_parallel > 1 and batch.sequence_length % (2 * plan.context_parallel):
        yield PlanError(f"{said}: sequence_length is no multiple of 2 x context_parallel", where, "Lower context_parallel.")
    if model.mtp_layers and model.positions == "learned":
        yield PlanError(f"{said}: it predicts later tokens (mtp_layers) where positions are turned", "model", "Set positions = rotary.")
    if model.num_experts and model.gates == "softmax" and model.experts_per_token == 1:
        yield PlanError(f"{said}: the softmax of one expert would be 1", "model", "Set gates = pre_softmax.")
    if model.steer_rate and not model.gates.endswith("sigmoid"):
        yield PlanError(f"{said}: biases that steer choices go with sigmoids", "model", "Set gates = sigmoid, or steer_rate = 0.")
    if str(plan.schedule).startswith("combined") and model.mtp_layers and plan.pipeline_parallel == 1:
        yield PlanError(f"{said}: schedule = {plan.schedule} beside mtp_layers takes a pipeline", where, "Set pipeline_parallel above 1.")
    if str(plan.schedule).startswith("combined") and setup.dtype == "fp32":
        yield PlanError(f"{said}: schedule = {plan.schedule} is built for 16 bits and less", where, "Set dtype = bf16.")
    if setup.dtype == "fp8_delayed" and {"moe_act", "layernorm"} & {*plan.recompute_modules}:
        yield PlanError(
            f"{said}: delayed scaling recomputes no norms and activations of experts", where, "Choose another recipe of 8 bits."
        )
    if setup.dtype == "fp8_delayed" and (batch.num_layers_at_start_in_bf16 or batch.num_layers_at_end_in_bf16):
        yield PlanError(f"{said}: delayed scaling keeps no layers in bf16", where, "Choose another recipe of 8 bits.")
    if plan.zero_stage > 1 and setup.dtype == "fp32":
        yield PlanError(f"{said}: Megatron-FSDP is built for 16 bits and less", where, "Set dtype = bf16, or zero_stage = 1.")


def environment(setup: Setup) -> Mapping[str, str]:
    """What its checks ask of the environment.

    Before Blackwell tensor and context parallelism need one connection, and Megatron-FSDP, and exchanges beside another micro_batch,
    more than one.
    """
    plan = setup.plan
    if plan.zero_stage > 1 or str(plan.schedule).startswith("combined"):
        return {CONNECTIONS: "32"} if not _is_blackwell(setup) else {}
    needs_one = (plan.tensor_parallel > 1 or plan.context_parallel > 1) and not _is_blackwell(setup)
    return {CONNECTIONS: "1"} if needs_one else {}


def _is_blackwell(setup: Setup) -> bool:
    return _OF_BLACKWELL in setup.cluster.peak_flops_per_s


def notes(setup: Setup) -> Iterator[str]:
    """What a user must know of a job that is exported."""
    yield "data and tokenizer are stand-ins: put your own in their place"
    yield from training.usual_notes(setup)
    plan = setup.plan
    if plan.zero_stage > 1 and plan.tensor_parallel * plan.context_parallel > 1 and not _is_blackwell(setup):
        yield f"before Blackwell Megatron-FSDP needs {CONNECTIONS} above 1, where tensor and context parallelism are fastest with 1"
    if any(getattr(setup.model, name, 0) for name in ASSUMED):
        yield "how unevenly tokens choose experts (load_skew, load_shares) is told to nobody: the data decides"
