"""What of a model can be frozen, and which plans train what is left."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.families import blocks_of
from parsim.model.spec import ModelSpec
from parsim.parallel.fault import PlanFault
from parsim.parallel.plan import Plan, Stack
from parsim.parallel.stages import layers_of


def tuning_faults(model: ModelSpec) -> Iterator[str]:
    """Why a model cannot be tuned as it says."""
    told = [*model.tuning.faults(model.num_layers)]
    yield from told
    if getattr(model, "mtp_layers", 0):
        yield "is not built with mtp_layers; set mtp_layers = 0"
    elif not told and (form := model.architecture.tuned):
        frozen = {weight for block in blocks_of(model.architecture).values() for weight in block.frozen}
        for part in form.idle_parts(frozen):
            yield f"'{part}' names no weights of model \"{model.name}\""


def frozen_stages(plan: Plan, model: ModelSpec, stack: Stack | None) -> Iterator[PlanFault]:
    """A stage without any backward, whose first has nothing that is trained, is not built: Megatron Core sends gradients to all stages."""
    if plan.num_stages == 1:
        return
    lowest, first = (
        model.tuning.lowest_trained(model.num_layers),
        layers_of(plan, model.num_layers, stack.layer_split if stack else "even")[0],
    )
    if lowest >= first:
        what = f"layer {lowest}" if lowest < model.num_layers else "the head"
        message = f"the first stage has no trained weights: of its {first} layers and the embedding all are frozen, up to {what}"
        yield PlanFault("pipeline_parallel", message, "Freeze less, or set pipeline_parallel = 1")
