"""The rows of models, software and number formats; with those of hardware.py, all that the catalog and scenarios may hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Stack
from parsim.parallel.stages import SPLITS
from parsim.scenario.fields import INLINE, NAME, Count, Known, Quantity, Share, Text, complaint, name_or_inline
from parsim.scenario.hardware import FabricRef, NodeRef
from parsim.scenario.huggingface import PREFIX
from parsim.scenario.inline import SCHEMAS, InlineRow, Memory, Seconds, read, resolve

__all__ = ["SCHEMAS", "DtypeRow", "FabricRef", "ModelRef", "ModelRow", "NodeRef", "StackRef", "StackRow", "read", "resolve"]


class ModelRow(InlineRow):
    """A decoder-only language model, or an encoder."""

    kind: ClassVar[str] = "models"
    num_layers: Count = Field(description="the number of layers")
    hidden_size: Count = Field(description="the width of the residual stream")
    ffn_hidden_size: Count | None = Field(None, description="the width of the MLP; 4 x hidden_size where left out")
    num_heads: Count = Field(description="the number of query heads")
    num_kv_heads: Count | None = Field(None, description="the number of key and value heads; num_heads where left out")
    head_dim: Count | None = Field(None, description="the width of a head; hidden_size / num_heads where left out")
    vocab_size: Count = Field(description="the number of tokens, before padding")
    max_positions: Count = Field(description="the longest sequence, which is the rows of a learned position table")
    activation: Literal["gelu", "relu", "squared_relu", "swiglu"] = Field("gelu", description="the nonlinearity of the MLP")
    norm: Literal["layer_norm", "rms_norm"] = Field("layer_norm", description="what normalises the input of attention, MLP and head")
    positions: Literal["learned", "rotary"] = Field("learned", description="a position table, or queries and keys turned by position")
    bias: bool = Field(True, description="whether the linear layers of attention output and MLP have biases")
    qkv_bias: bool | None = Field(None, description="whether those of queries, keys and values do; as bias where left out")
    tied_embedding: bool = Field(True, description="whether input and output embedding are one")
    causal: bool = Field(True, description="whether a token sees only those before it; false makes an encoder")
    norm_last: bool = Field(False, description="whether norms stand behind the residual adds and the embedding, with none before the head")
    num_token_types: Annotated[int, Field(ge=0, le=1_000_000)] = Field(0, description="the rows of a token type table; 0 leaves it out")
    head: Literal["next_token", "masked_token", "text"] = Field(
        "next_token", description="logits alone, with a dense layer before and a bias behind, or one label a text"
    )
    num_labels: Count = Field(2, description="the number of labels that a text may have")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="the share of elements dropped; 0 leaves dropout out")

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelRow:
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise complaint(
                f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}; give head_dim, or another num_heads"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise complaint(f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}")
        head_dim = self.head_dim or self.hidden_size // self.num_heads
        if self.positions == "rotary" and head_dim % 2:
            raise complaint(f"positions = rotary turns pairs of elements, but head_dim = {head_dim} is odd")
        if self.head == "text" and self.tied_embedding:
            raise complaint("head = text has no output embedding to tie: set tied_embedding = false")
        if self.norm_last and self.head == "next_token" and self.tied_embedding:
            raise complaint("norm_last = true, head = next_token and tied_embedding = true leave the head no weight of its own; untie it")
        return self

    def build(self, name: str) -> ModelSpec:
        """The model."""
        return ModelSpec(
            name=self.title(name),
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size or 4 * self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_heads,
            vocab_size=self.vocab_size,
            max_positions=self.max_positions,
            activation=self.activation,
            tied_embedding=self.tied_embedding,
            dropout=self.dropout,
            norm=self.norm,
            positions=self.positions,
            bias=self.bias,
            qkv_bias=self.bias if self.qkv_bias is None else self.qkv_bias,
            causal=self.causal,
            norm_last=self.norm_last,
            num_token_types=self.num_token_types,
            head=self.head,
            num_labels=self.num_labels,
            source=self.cited(),
        )


class StackRow(InlineRow):
    """A software stack."""

    kind: ClassVar[str] = "stacks"
    attention: Literal["unfused", "fused_softmax", "flash"] = Field("fused_softmax", description="the kernels of attention")
    fusions: list[Literal["bias", "gelu", "dropout_add", "gradient_accumulation"]] = Field(
        default_factory=list, description="what is fused into a neighbour"
    )
    gradient_dtype: Literal["fp32", "compute"] = Field("fp32", description="what gradients are kept in")
    tensor_overlap: bool = Field(False, description="whether collectives of tensor parallelism run beside weight-gradient GEMMs")
    gradient_overlap: bool = Field(False, description="whether a layer's gradients are reduced while the backward goes on")
    scatter_gather: bool = Field(False, description="whether a stage boundary sends 1/tensor_parallel a rank")
    recompute_early_stop: bool = Field(False, description="whether recomputation ends at the last tensor that backward needs")
    layer_split: Annotated[str, Known("layer_split", lambda: tuple(SPLITS))] = Field("even", description="who holds layers that remain")
    vocab_multiple: Count = Field(128, description="the vocabulary is padded to a multiple of this x tensor_parallel")
    host_launch: Seconds = Field(0.0, description="host seconds a kernel launch")
    sustained_factor: dict[Text, Share] = Field(default_factory=dict, description="accelerator: share of an isolated kernel's rate")
    framework_memory: Memory = Field(0.0, description="memory of the context and libraries")
    communicator_memory: Memory = Field(0.0, description="memory of the buffers of one communicator")

    def build(self, name: str) -> Stack:
        """The stack."""
        return Stack(
            name=self.title(name),
            attention=self.attention,
            fusions=tuple(dict.fromkeys(self.fusions)),
            gradient_dtype=self.gradient_dtype,
            tensor_overlap=self.tensor_overlap,
            gradient_overlap=self.gradient_overlap,
            scatter_gather=self.scatter_gather,
            recompute_early_stop=self.recompute_early_stop,
            layer_split=self.layer_split,
            vocab_multiple=self.vocab_multiple,
            host_launch_s=self.host_launch,
            sustained_factor=dict(self.sustained_factor),
            framework_bytes=self.framework_memory,
            communicator_bytes=self.communicator_memory,
            source=self.cited(),
        )


class DtypeRow(InlineRow):
    """A number format."""

    kind: ClassVar[str] = "dtypes"
    itemsize: Annotated[float, Quantity("bytes")] = Field(description="the bytes of an element")

    def build(self, name: str) -> int:
        """Bytes of an element."""
        return int(self.itemsize)


ModelRef = Annotated[
    Annotated[str, Known("models", prefix=PREFIX), Tag(NAME)] | Annotated[ModelRow, Tag(INLINE)], Discriminator(name_or_inline)
]
StackRef = Annotated[Annotated[str, Known("stacks"), Tag(NAME)] | Annotated[StackRow, Tag(INLINE)], Discriminator(name_or_inline)]
