"""A plain MLP that labels rows of features: dense layers with a nonlinearity between them, the labels' softmax cross-entropy behind.

A layer is two dense layers, so that tensor parallelism splits the first by columns and the second by rows: Shoeybi et al. 2019
(arXiv:1909.08053), section 3.  The nonlinearity of what a block takes is its first op, so all that its gradient reads lies in the block.
The features' own gradient is not computed.  A row is a token: sequence_length 1 makes each sample a sequence.
Source: Rumelhart et al. 1986, Nature 323, for the network; Srivastava et al. 2014, JMLR 15, section 4, for dropout of hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar

from parsim.model.blocks import DROP, MLP, in_region
from parsim.model.dims import MASK
from parsim.model.ends import dense_weights, labelled_rows
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.op import Block, Op
from parsim.model.spec import Architecture, ModelSpec, figure


class MlpArchitecture(Architecture, frozen=True, kw_only=True):
    """Which ops the blocks of an MLP have."""

    family: ClassVar[str] = "mlp"


class MlpSpec(ModelSpec, frozen=True, kw_only=True):
    """A plain MLP that labels rows: features -> hidden_size, num_layers x (-> ffn_hidden_size -> hidden_size), -> labels.

    >>> MlpSpec(name="one hidden layer", num_layers=0, hidden_size=800, ffn_hidden_size=800, num_features=784, num_labels=10).extents
    {'D': 800, 'F': 800, 'Y': 10, 'I': 784}
    """

    num_layers: int = figure(
        "the number of layers, each to ffn_hidden_size and back; 0 leaves the features' dense layer and the labels'", zero=True
    )
    hidden_size: int = figure("the units behind the features' dense layer, and behind each layer")
    ffn_hidden_size: int = figure("the units inside a layer; hidden_size where left out", rule=lambda row: row["hidden_size"])
    num_features: int = figure("the number of features of a row", aliases=("in_features",))
    num_labels: int = figure("the number of labels that a row may have", aliases=("num_classes",))
    activation: str = figure("the nonlinearity behind each hidden dense layer", "relu", legal=("relu", "gelu", "squared_relu", "tanh"))
    bias: bool = figure("whether the dense layers have biases", True)
    dropout: float = figure("the share of hidden units dropped; 0 leaves dropout out", 0.0)

    @property
    def architecture(self) -> MlpArchitecture:
        """What decides which ops there are."""
        return MlpArchitecture(activation=self.activation, bias=self.bias, dropout=self.dropout > 0, tuned=self.tuning.form(self.layout))

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides."""
        return {"D": self.hidden_size, "F": self.ffn_hidden_size, "Y": self.num_labels, "I": self.num_features}

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """None: rows do not meet."""
        return 0, 0

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Few features."""
        return {"num_features": min(self.num_features, 10)}


def blocks(kind: MlpArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """Embedding, layer and head; there is no attention."""
    return by_name(_embedding(kind, fusions), _layer(kind, fusions), _head(kind, fusions))


def _embedding(kind: MlpArchitecture, fusions: tuple[str, ...]) -> Block:
    inputs, out = ("features", "input.weight"), _before_bias("input", "y", kind)
    ops = (
        Op("features", "-> B T I", (), ("features",), "draw"),
        Op("input_gemm", "B T I, I D -> B T D", inputs, (out,)),
        *_bias("input", "T D", "y", kind, fusions),
    )
    return Block("embedding", ops, dense_weights("input", bias=kind.bias), input="")


def _layer(kind: MlpArchitecture, fusions: tuple[str, ...]) -> Block:
    fused = "gelu" in fusions and kind.bias
    inside = (
        Op("enter_mlp", "B T D -> B S D", ("active",), ("mlp_in",), "relabel"),
        Op("up_gemm", "B S D, D F -> B S F", ("mlp_in", "up.weight"), (_before_bias("up", "hidden", kind),)),
        *_bias("up", "S F", "hidden", kind, fusions),
        *_activation("inner", "S F", "hidden", "inner", kind, fused=fused),
        Op("down_gemm", "B S F, F D -> B S D", ("inner", "down.weight"), ("down_partial",)),
        Op("leave_mlp", "B S D -> B T D", ("down_partial",), (_before_bias("down", "y", kind),), "relabel"),
    )
    # Not fused: a collective may stand between the GEMM and its bias.
    ops = (*_activation("enter", "T D", "x", "active", kind), *in_region(MLP, inside), *_bias("down", "T D", "y", kind, ()))
    return Block("layer", ops, {**dense_weights("up", bias=kind.bias), **dense_weights("down", bias=kind.bias)})


def _head(kind: MlpArchitecture, fusions: tuple[str, ...]) -> Block:
    ops = chain(_activation("enter", "T D", "x", "active", kind), labelled_rows("active", "row_labels", fusions, bias=kind.bias))
    return Block("head", tuple(ops), dense_weights("label", bias=kind.bias), output="", totals=("loss",))


def _before_bias(name: str, out: str, kind: MlpArchitecture) -> str:
    return f"{name}_gemm" if kind.bias else out


def _bias(name: str, dims: str, out: str, kind: MlpArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    if kind.bias:
        expr, inputs = f"B {dims}, {dims[-1]} -> B {dims}", (f"{name}_gemm", f"{name}.bias")
        yield Op(f"{name}_bias", expr, inputs, (out,), "bias", in_place=True, fused="bias" in fusions)


def _activation(name: str, dims: str, x: str, out: str, kind: MlpArchitecture, *, fused: bool = False) -> Iterator[Op]:
    """The nonlinearity, and dropout of its units; not in place, since some gradients read what the nonlinearity gave."""
    whole, active = f"B {dims}", f"{name}_active" if kind.dropout else out
    yield Op(f"{name}_activation", f"{whole} -> {whole}", (x,), (active,), kind.activation, fused=fused)
    if kind.dropout:
        mask = f"{name}_mask"
        yield Op(mask, f"-> {whole}", (), (mask,), "draw", (MASK,))
        yield Op(f"{name}_dropout", f"{whole}, {whole} -> {whole}", (active, mask), (out,), "dropout", attributes=DROP)


FAMILIES.register("mlp", Family(MlpSpec, blocks))
