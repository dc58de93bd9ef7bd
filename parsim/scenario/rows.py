"""The rows of software and number formats; with those of models.py and hardware.py, all that the catalog and scenarios may hold."""

import functools
from fractions import Fraction as Exact
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from parsim.cluster.flash import KERNELS, OWN
from parsim.cluster.nccl import NO_SWITCH, SETTINGS
from parsim.collectives import DEFAULTS, names
from parsim.errors import did_you_mean
from parsim.model.itemsize import itemsize_of
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.plan import ALLOCATORS, DISPATCHES, GRAPHS, PERMUTES, Stack
from parsim.parallel.precision import RECIPES
from parsim.parallel.stack_limits import LIMITS
from parsim.parallel.stages import SPLITS
from parsim.scenario.failing import FailureRow
from parsim.scenario.fields import Fraction, Known, Natural, Quantity, Text, complaint, optional
from parsim.scenario.hardware import ROW_FILE, FabricRef, NodeRef
from parsim.scenario.inline import SCHEMAS, InlineRow, NameOrRow, Seconds, read, resolve
from parsim.scenario.inputs import InputRow
from parsim.scenario.models import ModelRef, ModelRow
from parsim.scenario.storage import StorageRef

__all__ = ["SCHEMAS", "DtypeRow", "FabricRef", "FailureRow", "InputRow", "ModelRef", "ModelRow", "NodeRef", "StackRef", "StackRow"]
__all__ += ["StorageRef", "read", "resolve"]
ATTENTION: Final = ("unfused", "fused_softmax", OWN, *KERNELS)
_MOST_ELEMENTS: Final = 1024  # that share a scale, beside which nothing but whole bits is stored
RecipeName = Annotated[str, Known("precision", lambda: tuple(RECIPES))]
NarrowPrecisions = list[Annotated[str, Known("narrow precisions", lambda: tuple(name for name in RECIPES if RECIPES[name].narrows))]]
# With scales by row each GEMM makes its own narrow weights.
KeptNarrow = list[
    Annotated[
        str, Known("precision of a narrow weight", lambda: tuple(n for n, r in RECIPES.items() if r.narrows and not r.narrows.by_row))
    ]
]
Overhead = Annotated[float, Quantity("bytes", zero=True)]


def _as_in_stack(name: str) -> Any:
    """The field of a row with the default and the description of one of Stack."""
    stated = Stack.told[name]
    if isinstance(stated.default, tuple):
        return optional(functools.partial(list, stated.default), **stated.about)
    if isinstance(stated.default, dict):
        return optional(dict, **stated.about)
    return Field(stated.default, **stated.about)


class StackRow(InlineRow):
    """A software stack."""

    kind: ClassVar[str] = "stacks"
    place: ClassVar[str | None] = "stack"
    form: ClassVar[Any] = Stack
    attention: Annotated[str, Known("attention", lambda: ATTENTION)] = _as_in_stack("attention")
    context: Annotated[str, Known("context", kinds)] = _as_in_stack("context")
    dispatch: Annotated[str, Known("dispatch", lambda: DISPATCHES)] = _as_in_stack("dispatch")
    permute: Annotated[str, Known("permute", lambda: PERMUTES)] = _as_in_stack("permute")
    flash: Annotated[str, Known("kernel", lambda: (OWN, *KERNELS))] = _as_in_stack("flash")
    flash_in: dict[RecipeName, Annotated[str, Known("kernel", lambda: KERNELS)]] = _as_in_stack("flash_in")
    fusions: list[
        Literal[
            "bias",
            "gemm_bias",
            "gelu",
            "swiglu",
            "squared_relu",
            "rms_norm",
            "dropout_add",
            "gradient_accumulation",
            "loss_in_place",
            "narrow_loss",
            "norm_gemm",
            "router",
            "latent_rotary",
            "grouped_mlp",
        ]
    ] = _as_in_stack("fusions")
    gradient_dtype: Literal["fp32", "compute"] = _as_in_stack("gradient_dtype")
    narrow_gradients: bool = _as_in_stack("narrow_gradients")
    frees_gradients: bool = _as_in_stack("frees_gradients")
    loss_chunks: Natural = _as_in_stack("loss_chunks")
    gather_logits: bool = _as_in_stack("gather_logits")
    keeps_gathered: bool = _as_in_stack("keeps_gathered")
    wide_norms: bool = _as_in_stack("wide_norms")
    tensor_overlap: bool = _as_in_stack("tensor_overlap")
    gradient_overlap: bool = _as_in_stack("gradient_overlap")
    master_shards: bool = _as_in_stack("master_shards")
    gradient_copies: Literal["none", "update", "sum"] = _as_in_stack("gradient_copies")
    multi_tensor_update: bool = _as_in_stack("multi_tensor_update")
    pipeline_keeps_parameters: bool = _as_in_stack("pipeline_keeps_parameters")
    broadcasts_weights: bool = _as_in_stack("broadcasts_weights")
    scatter_gather: bool = _as_in_stack("scatter_gather")
    selective_recompute: list[Text] = _as_in_stack("selective_recompute")
    recompute_early_stop: bool = _as_in_stack("recompute_early_stop")
    layer_split: Annotated[str, Known("layer_split", lambda: tuple(SPLITS))] = _as_in_stack("layer_split")
    vocab_multiple: Natural = _as_in_stack("vocab_multiple")
    waits_for_loads: bool = _as_in_stack("waits_for_loads")
    blocks_launches: bool = _as_in_stack("blocks_launches")
    host_launch: Seconds = _as_in_stack("host_launch_s")
    own_kernels: bool = _as_in_stack("own_kernels")
    message_launch: Seconds = _as_in_stack("message_launch_s")
    expert_launch: Seconds = _as_in_stack("expert_launch_s")
    graphs: dict[Text, Annotated[str, Known("graphs", lambda: GRAPHS)]] = _as_in_stack("graphs")
    sustained_factor: dict[Text, Fraction] = _as_in_stack("sustained_factor")
    collectives: dict[Annotated[str, Known("operation", lambda: tuple(DEFAULTS))], Text] = _as_in_stack("collectives")
    limits: list[Annotated[str, Known("limits", lambda: tuple(LIMITS))]] = _as_in_stack("limits")
    framework_memory: Overhead = _as_in_stack("framework_bytes")
    allocator: Annotated[str, Known("allocator", lambda: ALLOCATORS)] = _as_in_stack("allocator")
    allocator_slack: Annotated[float, Field(ge=0, le=1)] = _as_in_stack("allocator_slack")
    kept_logits: Annotated[int, Field(ge=0, le=16)] = _as_in_stack("kept_logits")
    logit_holes: Annotated[int, Field(ge=0, le=16)] = _as_in_stack("logit_holes")
    blas_workspaces: Annotated[int, Field(ge=0, le=16)] = _as_in_stack("blas_workspaces")
    engine_workspaces: Annotated[int, Field(ge=0, le=16)] = _as_in_stack("engine_workspaces")
    expert_workspaces: Annotated[int, Field(ge=0, le=16)] = _as_in_stack("expert_workspaces")
    workspace_memory: Overhead = _as_in_stack("workspace_bytes")
    communicator_memory: Overhead | None = _as_in_stack("communicator_bytes")
    nccl: list[Annotated[str, Known("setting of NCCL", lambda: SETTINGS)]] = _as_in_stack("nccl")
    narrow_parameters: KeptNarrow = _as_in_stack("narrow_parameters")
    precisions: NarrowPrecisions = _as_in_stack("precisions")
    fp8: Annotated[str, Known("dtypes", lambda: [name for name in RECIPES if "fp8" in name])] = _as_in_stack("fp8")
    host_float32_gradients: bool = _as_in_stack("host_float32_gradients")
    pinned_elements: Annotated[int, Field(ge=0)] = _as_in_stack("pinned_elements")
    process_memory: Overhead = _as_in_stack("process_bytes")

    @model_validator(mode="after")
    def _algorithms(self) -> Self:
        for operation, algorithm in self.collectives.items():
            if algorithm not in names(operation):
                known, near = ", ".join(names(operation)), did_you_mean(algorithm, names(operation))
                raise complaint(f"{operation} runs by no algorithm '{algorithm}'{near}; known: {known}")
        return self

    @model_validator(mode="after")
    def _when_connected(self) -> Self:
        if self.nccl and len({*self.nccl} - {NO_SWITCH}) != 1:
            raise complaint(f"nccl = {self.nccl} does not say when NCCL connects ranks: give eager or lazy, one of them")
        return self

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct; an entry of a list counts once, and a named kernel is one of flash attention."""
        named = {"attention": OWN, "named_flash": self.attention} if self.attention in KERNELS else {}
        lists: dict[str, list[str]] = {"fusions": [*self.fusions], "selective_recompute": self.selective_recompute}
        lists |= {"narrow_parameters": self.narrow_parameters, "precisions": self.precisions, "nccl": [*self.nccl]}
        return {**super().figures(name), **{key: tuple(dict.fromkeys(values)) for key, values in lists.items()}, **named}


class DtypeRow(InlineRow):
    """A number format."""

    kind: ClassVar[str] = "dtypes"
    itemsize: Annotated[float, Quantity("bytes")] = Field(description="the bytes of an element")

    def build(self, name: str) -> int:
        """Bytes of an element."""
        return itemsize_of(Exact(self.itemsize).limit_denominator(_MOST_ELEMENTS))


StackRef = Annotated[str | StackRow, NameOrRow(StackRow, prefix=ROW_FILE)]
