"""Dense layers one behind another, as files of models list them: their ops, and the MLP of parsim's family that they are.

What reads a file hands its steps to `chain_of` in order; what is no part of such a chain is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.model.families.mlp import MlpSpec
from parsim.targets.target import Left

DENSE, ACTIVATION, DROPOUT, NOTHING = "dense", "activation", "dropout", "nothing"
MOST_STEPS: Final = 10_000
_LAST: Final = ("linear", "softmax", "log_softmax")  # behind the last layer, whose loss is softmax and cross-entropy
_FAMILY: Final = "family mlp: features to hidden_size, num_layers times to ffn_hidden_size and back, to the labels"


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
        raise ParsimError("has no dense layer", path, f"What is read of a model is {_FAMILY}.")
    return tuple(found)


def figures_of(layers: tuple[Dense, ...], path: str) -> tuple[dict[str, Any], list[Left]]:
    """The figures of the model of parsim's family, by key, and what of the layers they do not say.

    Raises:
        ParsimError: they are no such model; the error names the layer.
    """
    *hidden, last = layers
    if not hidden or len(hidden) % 2 == 0:
        raise refuse(last.name, f"is dense layer {len(layers)}, and an even number of them, from 2, makes a model", path)
    if last.activation not in _LAST or last.dropout:
        raise refuse(
            last.name, f"ends in {last.activation}{' with dropout' * bool(last.dropout)}; an MLP ends in its labels' softmax", path
        )
    first, legal = hidden[0], MlpSpec.figures()["activation"].legal
    for number, each in enumerate(hidden):
        if each.activation not in legal:
            raise refuse(each.name, f"has activation {each.activation}; known: {', '.join(legal)}", path)
        if each.activation != first.activation:
            raise refuse(each.name, f"has activation {each.activation}, and {first.name} has {first.activation}", path)
        width = hidden[number % 2]
        if each.num_outputs != width.num_outputs:
            raise refuse(each.name, f"has {each.num_outputs} units, and {width.name} has {width.num_outputs}: they alternate", path)
    for each in layers:
        if each.bias != first.bias:
            raise refuse(each.name, f"has {'a' if each.bias else 'no'} bias, unlike {first.name}", path)
    shares, left = {each.dropout for each in hidden}, []
    if len(shares) > 1:
        left = [Left(each.name, each.dropout, "dropout behind some hidden layers only is not built") for each in hidden if each.dropout]
    inner = hidden[1].num_outputs if len(hidden) > 1 else first.num_outputs
    sizes = {"num_layers": len(hidden) // 2, "hidden_size": first.num_outputs, "ffn_hidden_size": inner, "num_features": first.num_inputs}
    ways = {"activation": first.activation, "bias": first.bias, "dropout": first.dropout if len(shares) == 1 else 0.0}
    return {"family": "mlp", **sizes, "num_labels": last.num_outputs, **ways}, left


def refuse(name: str, what: str, path: str) -> ParsimError:
    """The error that names a layer."""
    return ParsimError(f"layer {str(name)[:80]!r} {what}", path, f"What is read of a model is {_FAMILY}.")
