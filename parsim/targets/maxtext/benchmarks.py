"""MaxText's modules of benchmarks: a model's name and the keys beside base.yml, as literals of Python, which is read and never run.

Source: AI-Hypercomputer/maxtext, commit e591f30c, benchmarks/maxtext_*_model_configs.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from parsim.errors import ParsimError, did_you_mean
from parsim.targets.entries import Unresolved
from parsim.targets.maxtext.models import NAME
from parsim.targets.target import KeyValue

CLASS: Final = "MaxTextModel"
_KEYS, _TYPE = "tuning_params", "model_type"


def jobs_in(text: str, path: str) -> dict[str, dict[str, KeyValue]]:
    """The keys of each model of a module, by the name that it is assigned to; of those under one name the last.

    Raises:
        ParsimError: the text is no Python.

    >>> jobs_in("a = add(d, MaxTextModel(model_type='gemma2-9b', tuning_params={'per_device_batch_size': 3, 'x': f()}))", "m.py")
    {'a': {'model_name': 'gemma2-9b', 'per_device_batch_size': 3, 'x': 'f()'}}
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParsimError(f"it is no Python: {error or 'nested too deep'}", path) from None
    return {name: keys for node in tree.body for name, keys in _of(node)}


def keys_of(text: str, name: str) -> dict[str, KeyValue]:
    """The keys of FILE::NAME, or of the only model of FILE.

    Raises:
        ParsimError: there are several, or none of that name.
    """
    path, _, asked = name.partition("::")
    jobs = jobs_in(text, path)
    if asked in jobs:
        return jobs[asked]
    if not asked and len(jobs) == 1:
        return next(iter(jobs.values()))
    shown = f"it has {len(jobs)} models" if not asked else f"no model '{asked}'{did_you_mean(asked, [*jobs])}"
    raise ParsimError(f"{shown}: {', '.join([*jobs][:12])} ...", path, f"Name one: {path}::{next(iter(jobs), 'NAME')}.")


def _of(node: ast.stmt) -> Iterator[tuple[str, dict[str, KeyValue]]]:
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return
    for each in ast.walk(node.value):
        if isinstance(each, ast.Call) and ast.unparse(each.func).rpartition(".")[2] == CLASS:
            stated = {word.arg: word.value for word in each.keywords if word.arg}
            keys, kind = stated.get(_KEYS), _literal(stated[_TYPE]) if _TYPE in stated else "default"
            yield node.targets[0].id, {NAME: kind, **(_mapping(keys) if isinstance(keys, ast.Dict) else {})}


def _mapping(node: ast.Dict) -> dict[str, KeyValue]:
    pairs = ((key, value) for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant))
    return {str(key.value): _literal(each) for key, each in pairs}


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return Unresolved(ast.unparse(node))
