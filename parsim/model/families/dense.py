"""A chain of dense layers of any widths that labels rows of features, the labels' softmax cross-entropy behind; with none between, the
labels' layer alone: a softmax regression.

Tensor parallelism splits the first layer by columns, the second by rows, and so on: the units of each second hidden layer lie cut on the
ranks: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.  The labels' layer is split by rows behind such units, and else whole on every
rank.  A nonlinearity is the first op of the layer that takes it, so all that its gradient reads lies in the block.  The features' own
gradient is not computed.  A row is a token: sequence_length 1 makes each sample a sequence.
Source: Rumelhart et al. 1986, Nature 323, for the network; Srivastava et al. 2014, JMLR 15, section 4, for dropout of hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Final, NamedTuple, Self

from msgspec.structs import replace

from parsim.model.blocks import DROP, MLP, in_region
from parsim.model.dims import CUT_UNITS, MASK, WHOLE_UNITS
from parsim.model.ends import cross_entropy, dense_weights, labelled_rows
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.op import Block, Layout, Op
from parsim.model.spec import MOST_LAYERS, Architecture, ModelSpec, figure

LINEAR: Final = "linear"
ACTIVATIONS: Final = ("relu", "gelu", "squared_relu", "tanh", "sigmoid", "silu", LINEAR)
_FEATURES, _LABELS = "I", "Y"
_SMALL: Final = 32  # elements that share a scale, in precisions that have such


class DenseForm(NamedTuple):
    """What tells the layers between the ends apart: the dims of what they take and make, and the nonlinearity of what they take."""

    takes: str
    makes: str
    activation: str

    @property
    def name(self) -> str:
        """That of its block."""
        return f"{self.takes}_{self.activation}_{self.makes}_layer"


class DenseArchitecture(Architecture, frozen=True, kw_only=True):
    """Which ops the blocks of a chain of dense layers have."""

    family: ClassVar[str] = "dense"
    forms: tuple[DenseForm, ...]  # each once, in the order in which they first come
    first: str  # the dim of the units behind the first hidden layer; "": there is none
    last: str  # and of those before the labels
    last_activation: str


class DenseSpec(ModelSpec, frozen=True, kw_only=True):
    """A chain of dense layers that labels rows: features -> each of units -> labels.

    >>> DenseSpec.of(name="784-128-64-10", num_features=784, units=(128, 64), num_labels=10).layout
    (('embedding', 1), ('F0_relu_D_layer', 1), ('head', 1))
    """

    num_layers: int = figure(
        "the layers between the first and the labels': one less than there are units; follows from these",
        zero=True,
        most=MOST_LAYERS,
        rule=lambda row: max(len(row["units"]) - 1, 0),
    )
    hidden_size: int = figure("the most units of a hidden layer, or the features; follows from these", rule=lambda row: _widest(row))
    ffn_hidden_size: int = figure("the same", rule=lambda row: _widest(row))
    num_features: int = figure("the number of features of a row", aliases=("in_features",))
    units: tuple[int, ...] = figure("the units of each hidden dense layer, of any number of them; [] for a softmax regression")
    num_labels: int = figure("the number of labels that a row may have", aliases=("num_classes",))
    activation: str = figure("the nonlinearity behind each hidden layer", "relu", legal=ACTIVATIONS)
    activations: tuple[str, ...] = figure(
        "one for each hidden layer, where they differ; all have `activation` where left out", (), legal=ACTIVATIONS
    )
    bias: bool = figure("whether the dense layers have biases", True)
    dropout: float = figure("the share of hidden units dropped; 0 leaves dropout out", 0.0)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        follows = {"num_layers": max(len(self.units) - 1, 0), "hidden_size": _widest_of(self), "ffn_hidden_size": _widest_of(self)}
        if wrong := next((name for name, value in follows.items() if getattr(self, name) != value), ""):
            return f"{wrong} = {getattr(self, wrong)}, but it follows from units as {follows[wrong]}; leave it out"
        if self.activations and len(self.activations) != len(self.units):
            return f"activations has {len(self.activations)} names, and units {len(self.units)} layers; give one for each, or leave it out"
        for turn, named in enumerate((CUT_UNITS, WHOLE_UNITS)):
            if (count := len({*self.units[turn::2]})) > len(named):
                which = ("first, third and so on", "second, fourth and so on")[turn]
                return f"units has {count} widths at its {which} place, more than the {len(named)} that are told apart; make some alike"
        return ""

    @property
    def dims(self) -> tuple[str, ...]:
        """What each hidden layer's units are called: those of the first, third and so on are cut by tensor parallelism."""
        names = [{extent: dim for dim, extent in self._widths_at(turn).items()} for turn in (0, 1)]
        return tuple(names[place % 2][extent] for place, extent in enumerate(self.units))

    def _widths_at(self, turn: int) -> dict[str, int]:
        """The widths of each second hidden layer by their dims, the widest first."""
        return dict(zip((CUT_UNITS, WHOLE_UNITS)[turn], sorted({*self.units[turn::2]}, reverse=True), strict=False))

    @property
    def behind(self) -> tuple[str, ...]:
        """The nonlinearity behind each hidden layer."""
        return self.activations or (self.activation,) * len(self.units)

    @property
    def _forms(self) -> list[DenseForm]:
        return [DenseForm(*dims, activation) for dims, activation in zip(pairwise(self.dims), self.behind, strict=False)]

    @property
    def layout(self) -> Layout:
        """Features and the first layer, each of those between, and the labels'."""
        return self.tuning.with_marks((("embedding", 1), *((form.name, 1) for form in self._forms), ("head", 1)))

    @property
    def architecture(self) -> DenseArchitecture:
        """What decides which ops there are."""
        first, last = (self.dims[0], self.dims[-1]) if self.units else ("", "")
        return DenseArchitecture(
            forms=tuple(dict.fromkeys(self._forms)),
            first=first,
            last=last,
            last_activation=self.behind[-1] if self.units else LINEAR,
            activation=self.activation,
            bias=self.bias,
            dropout=self.dropout > 0 and bool(self.units),
            tuned=self.tuning.form(self.layout),
        )

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides."""
        ends = {_LABELS: self.num_labels, _FEATURES: self.num_features}
        return {WHOLE_UNITS[0]: self.num_features, **self._widths_at(0), **self._widths_at(1), **ends}

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """None: rows do not meet."""
        return 0, 0

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Few features."""
        return {"num_features": min(self.num_features, 10)}

    def small(self, num_layers: int, tensor_parallel: int) -> Self:
        """A likeness with so many layers between, if it has any hidden ones, whose widths differ where they did."""
        few, units, own = self.small_figures(tensor_parallel), tuple[int, ...](), dict[str, Any]()
        if self.units:
            places = [*range(len(self.units))][: num_layers + 1]
            while len(places) < num_layers + 1:
                places.append(places[max(len(places) - 2, 0)])
            ranks = [{extent: rank for rank, extent in enumerate(sorted({*self.units[turn::2]}), 1)} for turn in (0, 1)]
            parts = [_SMALL * (1 if number % 2 else tensor_parallel) for number in range(num_layers + 1)]
            units = tuple(part * ranks[place % 2][self.units[place]] for part, place in zip(parts, places, strict=True))
            own = {"activations": tuple(self.behind[place] for place in places) if self.activations else (), "num_layers": num_layers}
            own["tuning"] = self.tuning.small(self.num_layers, num_layers, 2 * tensor_parallel)
        widest = max(units, default=few["num_features"])
        return replace(self, units=units, hidden_size=widest, ffn_hidden_size=widest, **few, **own)

    @property
    def widths(self) -> tuple[str, ...]:
        """None that stands alone: `small` makes all alike."""
        return ()


def _widest(row: Mapping[str, Any]) -> int:
    return int(max(row["units"], default=row["num_features"]))


def _widest_of(model: DenseSpec) -> int:
    return max(model.units, default=model.num_features)


def blocks(kind: DenseArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """The first layer, each form of those between, and the labels'; there is no attention."""
    return by_name(_embedding(kind, fusions), *(_layer(form, kind, fusions) for form in kind.forms), _head(kind, fusions))


def _embedding(kind: DenseArchitecture, fusions: tuple[str, ...]) -> Block:
    """Features, and the first hidden layer, where there is one: by columns."""
    if not kind.first:
        drawn = Op("features", "-> B T I", (), ("features",), "draw")
        return Block("embedding", (drawn, Op("leave", "B T I -> B T I", ("features",), ("y",), "relabel")), {}, input="")
    gemm = Op("input_gemm", f"B S I, I {kind.first} -> B S {kind.first}", ("features", "input.weight"), (_before_bias("input", "y", kind),))
    ops = (Op("features", "-> B S I", (), ("features",), "draw"), gemm, *_bias("input", "S", kind.first, "y", kind, fusions))
    return Block("embedding", ops, dense_weights("input", bias=kind.bias), input="")


def _layer(form: DenseForm, kind: DenseArchitecture, fusions: tuple[str, ...]) -> Block:
    takes, makes, expr = form.takes, form.makes, f"B S {form.takes}, {form.takes} {form.makes} -> B S {form.makes}"
    x = "active" if form.activation != LINEAR or kind.dropout else "x"
    enter = _activation(_stream(takes), form.activation, kind)
    if makes in CUT_UNITS:
        enter_mlp = Op("enter_mlp", f"B T {takes} -> B S {takes}", (x,), ("mlp_in",), "relabel")
        inside = enter_mlp, Op("dense_gemm", expr, ("mlp_in", "dense.weight"), (_before_bias("dense", "y", kind),))
        behind = _bias("dense", "S", makes, "y", kind, fusions)
    else:
        gemm = Op("dense_gemm", expr, (x, "dense.weight"), ("dense_partial",))
        leave = Op("leave_mlp", f"B S {makes} -> B T {makes}", ("dense_partial",), (_before_bias("dense", "y", kind),), "relabel")
        inside = gemm, leave
        behind = _bias("dense", "T", makes, "y", kind, ())  # not fused: a collective may stand between
    ops = (*enter, *in_region(MLP, inside), *behind)
    return Block(form.name, ops, dense_weights("dense", bias=kind.bias), stream=_stream_dims(takes))


def _head(kind: DenseArchitecture, fusions: tuple[str, ...]) -> Block:
    """The labels' layer: of units that are cut by rows, of others, and of features, whole."""
    takes = kind.last or _FEATURES
    x = "active" if kind.last and (kind.last_activation != LINEAR or kind.dropout) else "x"
    enter = tuple(_activation(_stream(takes), kind.last_activation, kind)) if kind.last else ()
    if takes in CUT_UNITS:
        ops = (*enter, *_labelled_by_rows(x, takes, kind, fusions))
    else:
        ops = (*enter, *(_of_units(op, takes) for op in labelled_rows(x, "row_labels", fusions, bias=kind.bias)))
    weights = dense_weights("label", bias=kind.bias)
    return Block("head", ops, weights, output="", totals=("loss",), stream=_stream_dims(takes), asks=bool(kind.last))


def _labelled_by_rows(x: str, takes: str, kind: DenseArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    yield Op("logits_gemm", f"B S {takes}, Y {takes} -> B S Y", (x, "label.weight"), ("logits_partial",))
    yield Op("leave_logits", "B S Y -> B T Y", ("logits_partial",), ("logits_gemm" if kind.bias else "logits",), "relabel")
    if kind.bias:
        yield Op("logits_bias", "B T Y, Y -> B T Y", ("logits_gemm", "label.bias"), ("logits",), "bias", in_place=True)
    yield from cross_entropy("B T", "Y", "row_labels", "per_token", fusions)


def _of_units(op: Op, takes: str) -> Op:
    """The op of rows of the stream as one of rows of these units."""
    return replace(op, expr=" ".join(takes if each == WHOLE_UNITS[0] else each.replace("D,", f"{takes},") for each in op.expr.split()))


def _stream_dims(units: str) -> tuple[str, ...]:
    """Units that are cut are of all rows, as those inside a layer of a transformer are."""
    return "B", "S" if units in CUT_UNITS else "T", units


def _stream(units: str) -> str:
    return " ".join(_stream_dims(units))


def _before_bias(name: str, out: str, kind: DenseArchitecture) -> str:
    return f"{name}_gemm" if kind.bias else out


def _bias(name: str, rows: str, units: str, out: str, kind: DenseArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    if kind.bias:
        expr, inputs = f"B {rows} {units}, {units} -> B {rows} {units}", (f"{name}_gemm", f"{name}.bias")
        yield Op(f"{name}_bias", expr, inputs, (out,), "bias", in_place=True, fused="bias" in fusions)


def _activation(whole: str, activation: str, kind: DenseArchitecture) -> Iterator[Op]:
    """The nonlinearity of x, and dropout of its units; not in place, since some gradients read what the nonlinearity gave."""
    x, active = "x", "enter_active" if kind.dropout else "active"
    if activation != LINEAR:
        yield Op("enter_activation", f"{whole} -> {whole}", (x,), (active,), activation)
        x = active
    if kind.dropout:
        yield Op("enter_mask", f"-> {whole}", (), ("enter_mask",), "draw", (MASK,))
        yield Op("enter_dropout", f"{whole}, {whole} -> {whole}", (x, "enter_mask"), ("active",), "dropout", attributes=DROP)


FAMILIES.register("dense", Family(DenseSpec, blocks))
