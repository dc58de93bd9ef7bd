"""Programs of users as exports: python with one block of settings that is read back as a literal and never run, and a network's numbers."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

import numpy as np

from parsim.model.families.mlp import MlpSpec
from parsim.targets.entries import Entry, Keys
from parsim.targets.payload import npz, payload_of, weights_of
from parsim.targets.target import KeyValue, Setup

BEGIN: Final = "# settings: written by parsim, and read back by `parsim import`\n"
END: Final = "# end of settings\n"
MOST_SETTINGS: Final = 100_000  # characters
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
    return repr(value)


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


def stated(part: str, names: Iterable[str]) -> Iterator[Entry]:
    """Figures of model or training under their own names."""

    def entry(key: str) -> Entry:
        def write(setup: Setup) -> dict[str, KeyValue]:
            owner = setup.model if part == "model" else setup.scenario.training
            return {key: getattr(owner, key.partition(".")[2])}

        def read(keys: Keys) -> dict[str, Any]:
            return {key: keys.take(key)} if key in keys else {}

        return Entry((), write, read)

    return (entry(f"{part}.{name}") for name in names)


def mlp_faults(setup: Setup) -> Iterator[tuple[str, str, str]]:
    """Why such a program does not train the model: field, why and how to mend it."""
    model = setup.model
    if not isinstance(model, MlpSpec):
        yield "model.family", f"its program is a plain MLP, and {model.name} is a {model.family}", "PyTorch has more: --to pytorch."
        return
    if model.dropout:
        yield "model.dropout", "its masks would be others than those of parsim execute", "Set model.dropout to 0."
    if model.tuning.form(model.layout):
        yield "model.tuning", "it trains all weights", ""


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
