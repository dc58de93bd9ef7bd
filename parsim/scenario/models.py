"""The rows of models: transformers, and MLPs, which have other keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from parsim import catalog
from parsim.model import families
from parsim.model.families.mlp import classifier
from parsim.model.spec import ModelSpec
from parsim.scenario.fields import INLINE, MLP, NAME, Count, Known, Row, complaint, name_or_inline
from parsim.scenario.huggingface import PREFIX
from parsim.scenario.inline import InlineRow
from parsim.scenario.tree import show

_FAMILY: Final = Known("family", families.names)


class ModelRow(InlineRow):
    """A decoder-only language model, or an encoder."""

    kind: ClassVar[str] = "models"
    derived: ClassVar[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
        "ffn_hidden_size": lambda row: 4 * row["hidden_size"],
        "num_kv_heads": lambda row: row["num_heads"],
        "head_dim": lambda row: row["hidden_size"] // row["num_heads"],
        "qkv_bias": lambda row: row.get("bias", True),
    }
    family: Annotated[str, _FAMILY] = Field("transformer", description="transformer or mlp, which has other keys")
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
    head: Literal["next_token", "masked_token", "text", "token"] = Field(
        "next_token", description="logits alone, with a dense layer before and a bias behind, or a label each text or token"
    )
    num_labels: Count = Field(2, description="the number of labels that a text or token may have")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="the share of elements dropped; 0 leaves dropout out")

    @classmethod
    def schema_of(cls, row: Mapping[str, Any]) -> type[InlineRow]:
        """The row class of the family that `row` states."""
        return MlpRow if row.get("family") == "mlp" else cls

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        return _of_another_family(error, "transformer", "mlp", MlpRow) or super()._sentence(error)

    @model_validator(mode="before")
    @classmethod
    def _family_is_known(cls, value: Any) -> Any:
        """Told alone: which other keys are right, only a known family could say."""
        family = value.get("family", "transformer") if isinstance(value, dict) else "transformer"
        try:
            _FAMILY.check(family if isinstance(family, str) else show(family))
        except PydanticCustomError as error:
            details = InitErrorDetails(type=error, loc=("family",), input=family)
            raise ValidationError.from_exception_data(cls.__name__, [details]) from None
        return value

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelRow:
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise complaint(
                f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}; give head_dim, or another num_heads"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise complaint(f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}")
        head_dim = self.whole()["head_dim"]
        if self.positions == "rotary" and head_dim % 2:
            raise complaint(f"positions = rotary turns pairs of elements, but head_dim = {head_dim} is odd")
        if self.head in ("text", "token") and self.tied_embedding:
            raise complaint(f"head = {self.head} has no output embedding to tie: set tied_embedding = false")
        if self.norm_last and self.head == "next_token" and self.tied_embedding:
            raise complaint("norm_last = true, head = next_token and tied_embedding = true leave the head no weight of its own; untie it")
        return self

    def build(self, name: str) -> ModelSpec:
        """The model."""
        return ModelSpec(**{**self.whole(), "name": self.title(name), "source": self.cited()})


class MlpRow(InlineRow):
    """A plain MLP that labels rows of features; num_layers counts pairs of dense layers behind the first."""

    kind: ClassVar[str] = "models"
    variant: ClassVar[bool] = True
    derived: ClassVar[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {"ffn_hidden_size": lambda row: row["hidden_size"]}
    hints: ClassVar[Mapping[str, str]] = {"num_classes": "num_labels", "in_features": "num_features"}
    family: Literal["mlp"] = Field(description="mlp")
    num_layers: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        description="the number of layers, each to ffn_hidden_size and back; 0 leaves the features' dense layer and the labels'"
    )
    num_features: Count = Field(description="the number of features of a row")
    hidden_size: Count = Field(description="the units behind the features' dense layer, and behind each layer")
    ffn_hidden_size: Count | None = Field(None, description="the units inside a layer; hidden_size where left out")
    num_labels: Count = Field(description="the number of labels that a row may have")
    activation: Literal["relu", "gelu", "squared_relu", "tanh"] = Field(
        "relu", description="the nonlinearity behind each hidden dense layer"
    )
    bias: bool = Field(True, description="whether the dense layers have biases")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="the share of hidden units dropped; 0 leaves dropout out")

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        return _of_another_family(error, "mlp", "transformer", ModelRow) or super()._sentence(error)

    def build(self, name: str) -> ModelSpec:
        """The model."""
        figures = {key: value for key, value in self.whole().items() if key != "family"}
        return classifier(self.title(name), source=self.cited(), **figures)


def _of_another_family(error: ErrorDetails, own: str, other: str, row: type[Row]) -> str:
    """The sentence about a key that only the other family has; "" for any other fault."""
    key = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] != "extra_forbidden" or key not in row.model_fields:
        return ""
    return f"a model of family {own} has no {key}, one of family {other} has; leave it out, or set family = {other}"


def _form(value: object) -> str | None:
    """The tag of a name, or of an inline row by its family, which it may have from its base."""
    if isinstance(value, MlpRow):
        return MLP
    if not isinstance(value, dict):
        return name_or_inline(value)
    base = value.get("base")
    inherited = catalog.row("models", base) if isinstance(base, str) and base in catalog.names("models") else {}
    return MLP if {**inherited, **value}.get("family") == "mlp" else INLINE


ModelRef = Annotated[
    Annotated[str, Known("models", prefix=PREFIX), Tag(NAME)] | Annotated[ModelRow, Tag(INLINE)] | Annotated[MlpRow, Tag(MLP)],
    Discriminator(_form),
]
