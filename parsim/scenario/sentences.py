"""Sentences of what people ask for, each beside the words that it is said of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from parsim.catalog.spelling import squeeze


def sentence(table: Mapping[str, str], name: str) -> str:
    """What a table says of a squeezed name, by the longest word that fits; "" where none does.

    Args:
        table: sentence -> the words that it is said of, with a * for any end.

    >>> sentence({"is not built": "fp6* int", "is fp64": "fp6"}, "fp6e3m2"), sentence({"is not built": "fp6*"}, "fp64")
    ('is not built', '')
    """
    if not _any_of(tuple(table.values())).fullmatch(name):  # most names: asked once, not word by word
        return ""
    found = [(len(word.strip("*")), said) for said, words in table.items() for word in words.split() if _pattern(word).fullmatch(name)]
    return max(found, key=lambda each: each[0], default=(0, ""))[1]


@cache
def _any_of(lines: tuple[str, ...]) -> re.Pattern[str]:
    """What any word of these lines stands for."""
    return re.compile("|".join(_pattern(word).pattern for line in lines for word in line.split()) or "(?!)")


@cache
def _pattern(word: str) -> re.Pattern[str]:
    """What a word of a table stands for; a number before a * is whole, so that fp6* is no fp64."""
    parts = [re.escape(squeeze(part)) for part in word.removesuffix("[]").split("*")]
    return re.compile(r"(?:(?<!\d)|(?!\d)).*".join(parts) + re.escape("[]") * word.endswith("[]"))
