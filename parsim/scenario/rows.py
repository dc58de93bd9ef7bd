"""The rows of software and number formats; with those of models.py and hardware.py, all that the catalog and scenarios may hold."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, Tag, model_validator

from parsim import catalog
from parsim.collectives import DEFAULTS, names
from parsim.errors import did_you_mean
from parsim.parallel.plan import Stack
from parsim.parallel.stack_limits import LIMITS
from parsim.parallel.stages import SPLITS
from parsim.scenario.fields import INLINE, NAME, NAME_OR_INLINE, Fraction, Known, Natural, Quantity, Text, complaint, optional
from parsim.scenario.hardware import FabricRef, NodeRef
from parsim.scenario.inline import SCHEMAS, InlineRow, Seconds, read, resolve
from parsim.scenario.models import ModelRef, ModelRow

__all__ = ["SCHEMAS", "DtypeRow", "FabricRef", "ModelRef", "ModelRow", "NodeRef", "StackRef", "StackRow", "dtypes", "read", "resolve"]
# Matmuls of these keep weights, gradients and activations in a wider dtype, and one dtype of a batch stands for all.
# Source: Micikevicius et al. 2022 (arXiv:2209.05433), section 3; NVIDIA Transformer Engine, user guide: FP8 and NVFP4.
MATMULS_ONLY: Final = ("fp8", "nvfp4")
Overhead = Annotated[float, Quantity("bytes", zero=True)]


class StackRow(InlineRow):
    """A software stack."""

    kind: ClassVar[str] = "stacks"
    place: ClassVar[str | None] = "stack"
    form: ClassVar[Any] = Stack
    attention: Literal["unfused", "fused_softmax", "flash"] = Field("fused_softmax", description="the kernels of attention")
    fusions: list[Literal["bias", "gelu", "dropout_add", "gradient_accumulation"]] = optional(list, "what is fused into a neighbour")
    gradient_dtype: Literal["fp32", "compute"] = Field("fp32", description="what gradients are kept in")
    tensor_overlap: bool = Field(False, description="whether collectives of tensor parallelism run beside weight-gradient GEMMs")
    gradient_overlap: bool = Field(False, description="whether a layer's gradients are reduced while the backward goes on")
    scatter_gather: bool = Field(False, description="whether a stage boundary sends 1/tensor_parallel a rank")
    recompute_early_stop: bool = Field(False, description="whether recomputation ends at the last tensor that backward needs")
    layer_split: Annotated[str, Known("layer_split", lambda: tuple(SPLITS))] = Field("even", description="who holds layers that remain")
    vocab_multiple: Natural = Field(128, description="the vocabulary is padded to a multiple of this x tensor_parallel")
    host_launch: Seconds = Field(0.0, description="host seconds a kernel launch")
    sustained_factor: dict[Text, Fraction] = optional(dict, "accelerator: share of an isolated kernel's rate")
    collectives: dict[Annotated[str, Known("operation", lambda: tuple(DEFAULTS))], Text] = optional(
        dict, "operation: its algorithm, priced by latency and bandwidth; by size and span where left out"
    )
    limits: list[Annotated[str, Known("limits", lambda: tuple(LIMITS))]] = optional(list, "what it cannot run, which is marked in reports")
    framework_memory: Overhead = Field(0.0, description="memory of the context and libraries")
    communicator_memory: Overhead = Field(0.0, description="memory of the buffers of one communicator")

    @model_validator(mode="after")
    def _algorithms(self) -> StackRow:
        for operation, algorithm in self.collectives.items():
            if algorithm not in names(operation):
                known, near = ", ".join(names(operation)), did_you_mean(algorithm, names(operation))
                raise complaint(f"{operation} runs by no algorithm '{algorithm}'{near}; known: {known}")
        return self

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its dataclass; a fusion counts once."""
        return {**super().figures(name), "fusions": tuple(dict.fromkeys(self.fusions))}


class DtypeRow(InlineRow):
    """A number format."""

    kind: ClassVar[str] = "dtypes"
    itemsize: Annotated[float, Quantity("bytes")] = Field(description="the bytes of an element")

    def build(self, name: str) -> int:
        """Bytes of an element."""
        return int(self.itemsize)


def dtypes() -> tuple[str, ...]:
    """The dtypes that a step can be predicted in: rows of the catalog in which tensors can be kept, too.

    >>> dtypes()
    ('fp32', 'tf32', 'bf16', 'fp16')
    """
    return tuple(name for name in catalog.names("dtypes") if name not in MATMULS_ONLY)


StackRef = Annotated[Annotated[str, Known("stacks"), Tag(NAME)] | Annotated[StackRow, Tag(INLINE)], NAME_OR_INLINE]
