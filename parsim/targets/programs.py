"""Programs of users as exports: python with one block of settings that is read back as a literal and never run, and a network's numbers."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from math import inf
from typing import Any, Final

import numpy as np

from parsim.errors import PlanError
from parsim.model.families.dense import DenseSpec
from parsim.model.families.mlp import MlpSpec
from parsim.model.transformer import TransformerSpec
from parsim.model.tuning import Tuning
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.payload import data_fit, npz, payload_of, weights_fit, weights_of
from parsim.targets.target import KeyValue, NotExpressible, Setup

BEGIN: Final = "# settings: written by parsim, and read back by `parsim import`\n"
END: Final = "# end of settings\n"
MOST_SETTINGS: Final = 100_000  # characters
# The figures of a network, by its family.
MODELS: Final[Mapping[str, tuple[str, ...]]] = {
    "mlp": ("num_layers", "hidden_size", "ffn_hidden_size", "num_features", "num_labels", "activation", "bias"),
    "dense": ("num_features", "units", "num_labels", "activation", "activations", "bias"),
}
TRAINING: Final = ("epochs", "learning_rate", "beta1", "beta2", "eps", "weight_decay", "momentum", "max_norm")
OPTIMIZERS: Final = ("adamw", "sgd_momentum")
DTYPES: Final = ("fp32", "tf32")
_WEIGHTS: Final = {"weight": "kernel", "bias": "bias"}


def text_of(template: str, name: str) -> str:
    """A file of a program as it stands in parsim."""
    return files("parsim.targets").joinpath("templates", template, name).read_text(encoding="utf-8")


def with_settings(program: str, keys: Mapping[str, KeyValue]) -> str:
    """The program with these settings, by SECTION.KEY.

    >>> print(with_settings(f"{BEGIN}{END}", {"plan.data_parallel": 2}).splitlines()[1:-1])
    ['SETTINGS: dict[str, dict[str, Any]] = {', '    "plan": {', '        "data_parallel": 2,', '    },', '}']
    """
    sections: dict[str, list[str]] = {}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f'        "{name}": {_literal(value)},\n')
    body = "".join(f'    "{section}": {{\n{"".join(lines)}    }},\n' for section, lines in sections.items())
    before, _, rest = program.partition(BEGIN)
    return f"{before}{BEGIN}SETTINGS: dict[str, dict[str, Any]] = {{\n{body}}}\n{END}{rest.partition(END)[2]}"


def _literal(value: KeyValue) -> str:
    """In python with the quotes of a formatter."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(name)}: {_literal(each)}' for name, each in value.items())}}}"
    return "1e999" if value == inf else repr(value)  # which is infinite, too, and a literal


def settings_in(text: str, target: str) -> tuple[Mapping[str, KeyValue], str] | None:
    """The settings and the version of a program of a target; None where it is none."""
    _, begin, rest = text.partition(BEGIN)
    block, end, _ = rest.partition(END)
    if not (begin and end) or len(block) > MOST_SETTINGS:
        return None
    try:
        document = ast.literal_eval(block.partition(" = ")[2].strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(document, dict) or not all(isinstance(each, dict) for each in document.values()):
        return None
    keys = {f"{section}.{key}": value for section, own in document.items() for key, value in own.items()}
    if keys.pop("parsim.target", None) != target:
        return None
    return keys, str(keys.pop("parsim.version", ""))


def mlp_entries(plan: Iterable[str], layout: Callable[[Setup], Mapping[str, KeyValue]]) -> tuple[Entry, ...]:
    """Settings under parsim's own names: fields of the plan, all of batch, network and training, and what follows of them (`layout`)."""
    return (
        *(same(f"plan.{name}", f"plan.{name}") for name in plan),
        *(same(f"batch.{name}", f"batch.{name}") for name in ("global_batch", "sequence_length", "dtype")),
        model_entry(MODELS, "mlp"),
        *(_training(f"training.{name}", name) for name in TRAINING),
        _layout(layout),
    )


def model_entry(figures: Mapping[str, Sequence[str]], usual: str) -> Entry:
    """The figures of a model that a program computes with, by family; `usual`: the family of settings that name none."""

    def write(setup: Setup) -> dict[str, KeyValue]:
        model = setup.model
        said = {name: getattr(model, name) for name in ("family", *figures.get(model.family, ()))}
        return {f"model.{name}": list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def read(keys: Keys) -> dict[str, Any]:
        family = keys.take("model.family", usual)
        if family not in figures:
            keys.leave("model.family", "no family of models that the program has")
            return {}
        found = {key: keys.take(key) for key in (f"model.{name}" for name in figures[family]) if key in keys}
        return {"model.family": family} | {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}

    return Entry((), write, read)


def _training(key: str, name: str) -> Entry:
    def read(keys: Keys) -> dict[str, Any]:
        return {key: keys.take(key)} if key in keys else {}

    return Entry((), lambda setup: {key: getattr(setup.scenario.training, name)}, read)


def _layout(layout: Callable[[Setup], Mapping[str, KeyValue]]) -> Entry:
    """What is said for the program's and the reader's sake."""
    names = ("scenario", "plan", "seed")

    def write(setup: Setup) -> dict[str, KeyValue]:
        values = zip(names, (setup.scenario.name, setup.name, setup.scenario.seed), strict=True)
        return {f"parsim.{name}": value for name, value in values} | {f"layout.{name}": value for name, value in layout(setup).items()}

    def read(keys: Keys) -> dict[str, Any]:
        for key in [each for each in keys.rest() if each.startswith("layout.")] + [f"parsim.{name}" for name in names]:
            keys.take(key)
        return {}

    return Entry((), write, read)


def mlp_faults(target: str, setup: Setup, version: str) -> Iterator[PlanError]:
    """What such a program does not compute."""

    def fault(field: str, why: str, remedy: str = "") -> NotExpressible:
        return NotExpressible(field, target, version, why, remedy)

    model, plan = setup.model, setup.plan
    if not isinstance(model, MlpSpec | DenseSpec):
        decoder = type(model) is TransformerSpec and model.causal and not model.num_experts
        more = "PyTorch has decoders, too: --to pytorch." if decoder else ""
        yield fault("model.family", f"its program is a chain of dense layers, and {model.name} is of family {model.family}", more)
    elif model.dropout:
        yield fault("model.dropout", "its masks would be others than those of parsim execute", "Set model.dropout to 0.")
    if model.tuning != Tuning():
        yield fault("model.tuning", "it trains all weights")
    if not weights_fit(setup.scenario) or not data_fit(setup.scenario):
        widths = "model.units" if isinstance(model, DenseSpec) else "model.hidden_size"
        yield fault(widths, "its weights or its data are too many for the files that stand beside the program")
    if setup.batch.packing:
        yield fault("batch.packing", "its rows hold one sequence each")
    if setup.dtype not in DTYPES:
        yield fault("precision" if plan.precision else "batch.dtype", f"it trains in {' and '.join(DTYPES)}, not in {setup.dtype}")
    if plan.optimizer not in OPTIMIZERS:
        yield fault("optimizer", f"it has {' and '.join(OPTIMIZERS)}")


def dense_name(name: str) -> str:
    """The name that Keras has for a weight of an MLP.

    >>> dense_name("layer0/up.weight")
    'layer0_up/kernel'
    """
    block, _, own = name.partition("/")
    module, _, kind = own.partition(".")
    return f"{block}_{module}/{_WEIGHTS[kind]}"


def mlp_weights(setup: Setup) -> bytes:
    """Those before the first step, as Dense has them: what it reads first."""
    found = weights_of(setup.scenario)
    return npz({dense_name(name): each.T if name.endswith("/label.weight") else each for name, each in found.items()})


def mlp_data(setup: Setup) -> bytes:
    """Sequences to train on and sequences held back, and which make the batch of a step."""
    given = payload_of(setup.scenario)
    held = {f"held_{name}": np.asarray(each) for name, each in given.validation.items() if len(each)}
    return npz({**given.train, **held, "rows": given.rows})
