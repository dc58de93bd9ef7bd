"""What a scenario or a row of measurements leaves open, and the one rule that stands for it: it is said beside the answer.

The one place of these rules.  What a stack or a recipe says of such a key is no such rule, and goes before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

HEAD_DIM: Final = (
    128  # of most published models above 6 B parameters: GPT-3 (arXiv:2005.14165, table 2.1), Llama (arXiv:2302.13971, table 2)
)
FABRIC: Final = "ethernet-100g"  # of nodes that nobody joins by another
MICRO_BATCH: Final = 1  # the least, which fits wherever any does
# The first that fits counts; where none does, the first, since something else than memory must have been told wrong.
RECOMPUTE: Final = ("none", "full")

# By the name of what is open, as `assumed` lists it: the rule.
RULES: Final[Mapping[str, str]] = {
    "micro_batch": "1, the least",
    "num_heads": f"hidden_size / {HEAD_DIM}, or the nearest more that divides hidden_size",
    "recompute": "none, and in a row of measurements full where only that fits",
    "stack": "by the repository that the source names, else the default",
    "release": "the one nearest before, or the oldest",
    "dtype": "as the stack trains",
    "vocab_size": "as the stack's runs have",
    "num_devices": "as the degrees multiply to",
    "sequence_length": "the longest of the model, at most 8192",
    "global_batch": "about 4 M tokens",
    "fabric": f"usual for the node, else {FABRIC}",
}


class Assumed(Struct, frozen=True):
    """One thing that was left open, by a name of RULES, and what stands for it."""

    name: str
    value: str
    plan: str = ""  # that leaves it open; "": the whole scenario or row

    def __str__(self) -> str:
        """In words.

        >>> str(Assumed("micro_batch", "1"))
        'micro_batch = 1'
        """
        return f"{f'plans.{self.plan}.' if self.plan else ''}{self.name} = {self.value}"


def names_of(assumed: Iterable[Assumed]) -> tuple[str, ...]:
    """What was left open, each once, in the order of RULES: what widens an interval.

    >>> names_of([Assumed("recompute", "full"), Assumed("micro_batch", "1"), Assumed("recompute", "none")])
    ('micro_batch', 'recompute')
    """
    found = {each.name for each in assumed}
    return tuple(name for name in RULES if name in found)


def in_words(assumed: Iterable[Assumed], num_plans: int) -> str:
    """What was left open, with the plans that leave it so, unless all of so many do; "": nothing.

    >>> in_words([Assumed("recompute", "none", "a"), Assumed("num_heads", "8"), Assumed("recompute", "none", "b")], 3)
    'recompute = none (a, b), num_heads = 8'
    """
    plans: dict[str, list[str]] = {}
    for each in assumed:
        plans.setdefault(f"{each.name} = {each.value}", []).extend([each.plan] if each.plan else [])
    return ", ".join(f"{said} ({', '.join(names)})" if 0 < len(names) < num_plans else said for said, names in plans.items())


def open_in_plan(name: str, stated: Collection[str]) -> Iterator[Assumed]:
    """What a plan of this name leaves open that states these keys; what runs again is stated by any of three.

    >>> [str(each) for each in open_in_plan("a", {"recompute_modules"})]
    ['plans.a.micro_batch = 1']
    """
    if "micro_batch" not in stated:
        yield Assumed("micro_batch", str(MICRO_BATCH), name)
    if not any(key.startswith("recompute") for key in stated):
        yield Assumed("recompute", RECOMPUTE[0], name)


def add_heads(document: object) -> tuple[Assumed, ...]:
    """Add to the model of a scenario's document the heads that its row, one of its own, lacks; what was added.

    >>> document = {"model": {"num_layers": 2, "hidden_size": 512}}
    >>> [str(each) for each in add_heads(document)], document["model"]["num_heads"]
    (['num_heads = 4'], 4)
    """
    row = document.get("model") if isinstance(document, dict) else None
    if not isinstance(row, dict) or "base" in row or "num_heads" in row or row.get("family", "transformer") != "transformer":
        return ()
    if type(width := row.get("hidden_size")) is not int or width < 1:
        return ()
    row["num_heads"] = heads(width)
    return (Assumed("num_heads", str(row["num_heads"])),)


def heads(hidden_size: int) -> int:
    """Heads of a model that states none: of 128 each, or as near below as divides the width.

    >>> heads(14400), heads(4096), heads(2560), heads(1600), heads(64)
    (120, 32, 20, 16, 1)
    """
    return hidden_size // max(each for each in range(1, min(HEAD_DIM, hidden_size) + 1) if hidden_size % each == 0)
