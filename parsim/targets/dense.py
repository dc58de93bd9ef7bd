"""Dense layers one behind another, as files of models list them: their ops, and the model of parsim's family mlp or dense that they are.

What reads a file hands its steps to `chain_of` in order; what is no part of such a chain is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.model.families.dense import ACTIVATIONS
from parsim.model.families.mlp import MlpSpec
from parsim.targets.target import Left

DENSE, ACTIVATION, DROPOUT, NOTHING = "dense", "activation", "dropout", "nothing"
MOST_STEPS: Final = 10_000
_LAST: Final = ("linear", "softmax", "log_softmax")  # behind the last layer, whose loss is softmax and cross-entropy
_CHAIN: Final = "a chain of dense layers from features to labels, as families mlp and dense are"


class FileLayer(Struct, frozen=True):
    """One layer or node of a file: what it is here, and as the file calls it."""

    name: str
    kind: str  # of the four above
    num_outputs: int = 0  # of a dense one
    bias: bool = True
    activation: str = "linear"
    dropout: float = 0.0


class Dense(Struct, frozen=True):
    """A dense layer with what follows it."""

    name: str
    num_inputs: int
    num_outputs: int
    bias: bool
    activation: str = "linear"
    dropout: float = 0.0

    @property
    def num_parameters(self) -> int:
        """Of matrix and bias."""
        return self.num_outputs * (self.num_inputs + self.bias)

    @property
    def flops(self) -> int:
        """Of the forward GEMM of a row: a multiplication and an addition a weight."""
        return 2 * self.num_inputs * self.num_outputs

    def row(self) -> dict[str, object]:
        """As a row of the list of ops."""
        after = [each for each in (self.activation, f"dropout {self.dropout:g}" if self.dropout else "") if each and each != "linear"]
        shape = {"layer": self.name, "inputs": self.num_inputs, "outputs": self.num_outputs, "bias": self.bias, "then": ", ".join(after)}
        return {**shape, "parameters": self.num_parameters, "flops_per_row": self.flops}


def chain_of(num_features: int, steps: Iterable[FileLayer], path: str) -> tuple[Dense, ...]:
    """The dense layers of a chain of steps.

    Raises:
        ParsimError: a step has no place in one.
    """
    found: list[Dense] = []
    for step in steps:
        before = found[-1] if found else None
        if step.kind == DENSE:
            inputs = before.num_outputs if before else num_features
            found.append(Dense(step.name, inputs, step.num_outputs, step.bias, step.activation, step.dropout))
        elif step.kind == ACTIVATION and before and before.activation == "linear" and not before.dropout:
            found[-1] = replace(before, activation=step.activation)
        elif step.kind == DROPOUT and before and not before.dropout:
            found[-1] = replace(before, dropout=step.dropout)
        elif step.kind == DROPOUT and step.dropout == 0:
            continue
        elif step.kind != NOTHING:
            raise refuse(step.name, f"is {step.kind} that no dense layer stands before, or a second one of it", path)
    if not found:
        raise ParsimError("has no dense layer", path, f"What is read of a model is {_CHAIN}.")
    return tuple(found)


def figures_of(layers: tuple[Dense, ...], path: str) -> tuple[dict[str, Any], list[Left]]:
    """The figures of the model of parsim's family, by key, and what of the layers they do not say.

    It is of family mlp where the layers are what that says, whose exports are more, and else of family dense.

    Raises:
        ParsimError: they are no such model; the error names the layer.
    """
    *hidden, last = layers
    if last.activation not in _LAST or last.dropout:
        raise refuse(
            last.name, f"ends in {last.activation}{' with dropout' * bool(last.dropout)}; an MLP ends in its labels' softmax", path
        )
    for each in hidden:
        if each.activation not in ACTIVATIONS:
            raise refuse(each.name, f"has activation {each.activation}; known: {', '.join(ACTIVATIONS)}", path)
    for each in layers:
        if each.bias != layers[0].bias:
            raise refuse(each.name, f"has {'a' if each.bias else 'no'} bias, unlike {layers[0].name}", path)
    shares, left = {each.dropout for each in hidden}, []
    if len(shares) > 1:
        left = [Left(each.name, each.dropout, "dropout behind some hidden layers only is not built") for each in hidden if each.dropout]
    ends = {"num_features": layers[0].num_inputs, "num_labels": last.num_outputs}
    ways = {"bias": last.bias, "dropout": hidden[0].dropout if len(shares) == 1 else 0.0}
    return {**(_mlp(hidden) or _dense(hidden)), **ends, **ways}, left


def _mlp(hidden: list[Dense]) -> dict[str, Any]:
    """The hidden layers as those of an MLP, an odd number whose widths take turns, with one nonlinearity; {} where they are not."""
    if len(hidden) % 2 == 0 or hidden[0].activation not in MlpSpec.figures()["activation"].legal:
        return {}
    first, inner = hidden[0], hidden[len(hidden) > 1]
    if any(
        (each.num_outputs, each.activation) != ((first, inner)[turn % 2].num_outputs, first.activation) for turn, each in enumerate(hidden)
    ):
        return {}
    sizes = {"num_layers": len(hidden) // 2, "hidden_size": first.num_outputs, "ffn_hidden_size": inner.num_outputs}
    return {"family": "mlp", **sizes, "activation": first.activation}


def _dense(hidden: list[Dense]) -> dict[str, Any]:
    """The hidden layers as those of a chain."""
    names = [each.activation for each in hidden]
    ways = {"activations": names} if len({*names}) > 1 else {"activation": names[0]} if names else {}
    return {"family": "dense", "units": [each.num_outputs for each in hidden], **ways}


def refuse(name: str, what: str, path: str) -> ParsimError:
    """The error that names a layer."""
    return ParsimError(f"layer {str(name)[:80]!r} {what}", path, f"What is read of a model is {_CHAIN}.")
