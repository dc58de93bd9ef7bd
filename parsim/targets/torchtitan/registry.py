"""A registry of torchtitan: functions of Python that make configurations, read as text and never run.

What a function states as a literal, or takes over from another of the same file, becomes keys as a command line has them; the rest is
listed.  Source: pytorch/torchtitan, commit b5bcd76c, torchtitan/models/*/config_registry.py.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from msgspec import Struct, field

from parsim.targets.target import KeyValue
from parsim.targets.torchtitan.entries import POLICY
from parsim.targets.torchtitan.flavours import function_of

_POLICIES: Final = {"FullAC": "full", "SelectiveAC": "selective", "MemoryBudgetAC": "memory-budget"}
_CONVERTERS: Final = {"Float8LinearConverter": "fp8_rowwise", "MXFP8LinearConverter": "mxfp8", "NVFP4LinearConverter": "nvfp4"}
_SUMS: Final = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}
_MOST: Final = 10**15
COMPUTED: Final = "computed"  # what is no literal: shown as it stands


class Found(Struct):
    """What a function says: keys, its flavour, and the recipe of its converters."""

    keys: dict[str, KeyValue] = field(default_factory=dict)
    flavour: str = ""
    precision: str = ""


def jobs_in(text: str, path: str) -> dict[str, dict[str, KeyValue]]:
    """The keys of each function that makes a configuration, by its name.

    >>> jobs_in("def f():\\n    return Trainer.Config(model_spec=model_registry('8B'), training=T(seq_len=2 * 4096))", "llama3/x.py")
    {'f': {'training.seq_len': 8192, 'module': 'llama3', 'config': 'llama3_8b', 'activation_checkpoint': 'selective'}}
    """
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    module, jobs = PurePath(path).parent.name or "llama3", {}
    for name in functions:
        found = _function(name, functions, ())
        if found and found.flavour:
            function = function_of(module, found.flavour, found.precision)
            jobs[name] = {**found.keys, "module": module, "config": function} | {POLICY: found.keys.get(POLICY, "selective")}
    return jobs


def _function(name: str, functions: Mapping[str, ast.FunctionDef], within: tuple[str, ...]) -> Found | None:
    """What a function returns; None: no configuration that can be read."""
    if name not in functions or name in within or len(within) > len(functions):
        return None
    names: dict[str, Any] = {}
    for statement in functions[name].body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            _assign(statement.targets[0], statement.value, names, functions, (*within, name))
        elif isinstance(statement, ast.Return) and statement.value is not None:
            returned = _value(statement.value, names, functions, (*within, name))
            return returned if isinstance(returned, Found) else None
    return None


Functions = Mapping[str, ast.FunctionDef]


def _assign(target: ast.expr, value: ast.expr, names: dict[str, Any], functions: Functions, within: tuple[str, ...]) -> None:
    made = _value(value, names, functions, within)
    if isinstance(target, ast.Name):
        names[target.id] = made
        return
    path = ast.unparse(target).split(".")
    if isinstance(config := names.get(path[0]), Found) and len(path) > 1:
        _set(config, path[1], path[2:], made)


def _value(node: ast.expr, names: Mapping[str, Any], functions: Functions, within: tuple[str, ...]) -> Any:
    """A configuration, a call with its arguments, a literal, or text of what is computed."""
    if isinstance(node, ast.Name):
        return names.get(node.id, (COMPUTED, node.id))
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in functions:
            return _function(called, functions, within) or (COMPUTED, ast.unparse(node))
        stated = {word.arg: _value(word.value, names, functions, within) for word in node.keywords if word.arg}
        if called == "Trainer.Config":
            found = Found()
            for part, made in stated.items():
                _set(found, part, [], made)
            return found
        places = [_value(each, names, functions, within) for each in node.args]
        return {"called": called, "places": places, **stated}
    if isinstance(node, ast.List):
        return [_value(each, names, functions, within) for each in node.elts]
    try:
        return _number(node) if isinstance(node, ast.BinOp) else ast.literal_eval(node)
    except (ValueError, TypeError, ArithmeticError):
        return (COMPUTED, ast.unparse(node))


def _number(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        value = _SUMS[type(node.op)](_number(node.left), _number(node.right))
        if abs(value) < _MOST:
            return value
    value = ast.literal_eval(node)
    if not isinstance(value, int):
        raise ValueError
    return value


def _set(found: Found, part: str, path: list[str], made: Any) -> None:
    """One part of a configuration: a section as a call, or one key of it."""
    if part == "model_spec" and isinstance(made, dict):
        found.flavour = next((each for each in (*made["places"], made.get("flavor")) if isinstance(each, str)), found.flavour)
        found.precision = next(_precisions(made.get("converters")), "")
    elif part == POLICY and not path:
        found.keys[POLICY] = _POLICIES.get(made["called"].split(".")[0], "none") if isinstance(made, dict) else "none"
    elif part in ("training", "parallelism", "compile") and isinstance(made, dict):
        found.keys |= {f"{part}.{key}": value for key, value in made.items() if key not in ("called", "places")}
    elif path:
        found.keys[".".join((part, *path))] = made


def _precisions(converters: Any) -> Iterator[str]:
    for each in converters if isinstance(converters, list) else ():
        if isinstance(each, dict) and (name := _CONVERTERS.get(each["called"].split(".")[0])):
            wide = name == "fp8_rowwise" and each.get("recipe_name") == "rowwise_with_gw_hp"
            yield "fp8_rowwise_gw_hp" if wide else name
