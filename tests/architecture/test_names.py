"""One name, one thing; functions are verbs or nouns."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Less the programs that exports are made of: they run without parsim, under names that their readers know.
FILES = sorted(path for part in ("parsim", "kernels") for path in (ROOT / part).rglob("*.py") if "templates" not in path.parts)
IRREGULAR = {"built", "cut", "done", "drawn", "found", "given", "heard", "held", "kept", "known", "left", "lost", "made", "met", "said"}
IRREGULAR |= {"seen", "sent", "shown", "sought", "taken", "told", "understood", "wanted", "written"}
NOUNS = {"crossing", "embedding", "listing", "mapping", "need", "reading", "routing", "sharding", "string", "timing", "training"}


def types_of(tree: ast.Module) -> Iterator[str]:
    """Names of the classes and of the type aliases at the top of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    for node in (each for block in blocks for each in block):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch(r"_*[A-Z][a-z]\w*", name):
                yield name


def test_a_class_or_alias_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for name in types_of(ast.parse(path.read_text())):
            places[name].append(str(path.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(twice.items()))


def is_bare_participle(name: str) -> bool:
    word = name.strip("_")
    return word not in NOUNS and (word in IRREGULAR or re.fullmatch(r"[a-z]+(ed|ing)", word) is not None)


def test_a_function_is_a_verb_or_a_noun_not_a_bare_participle() -> None:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and is_bare_participle(node.name) and not any("property" in ast.unparse(d) for d in node.decorator_list):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not found, "\n".join(found)


def test_the_rule_on_participles_finds_them() -> None:
    assert [name for name in ("told", "_priced", "gathering", "embedding", "sent_bytes", "price") if is_bare_participle(name)] == [
        "told",
        "_priced",
        "gathering",
    ]
