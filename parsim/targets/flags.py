"""Words of a command line as flags: each with its values, and what a value is; what the flags mean stands with the launchers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

_WHOLE: Final = re.compile(r"[-+]?\d{1,18}")
_NUMBER: Final = re.compile(r"[-+]?(\d{1,20}\.?\d{0,20}|\.\d{1,20})([eE][-+]?\d{1,3})?|inf")


def flags_in(words: Sequence[str], ends: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Each flag without its dashes, and what stands behind it: one value after "=", or all words as far as the next flag.

    Args:
        words: of the command, from any place on; those before the first flag say nothing.
        ends: what words begin with that are no values, either.

    >>> list(flags_in(["run", "--a.b=1", "--c", "x", "y", "--d"]))
    [('a.b', ['1']), ('c', ['x', 'y']), ('d', [])]
    """
    place = 0
    while place < len(words):
        word, place = words[place], place + 1
        if not word.startswith("--"):
            continue
        flag, sign, value = word[2:].partition("=")
        values = [value] if sign else []
        while not sign and place < len(words) and not words[place].startswith(("--", *ends)):
            values.append(words[place])
            place += 1
        yield flag, values


def number_in(word: str) -> int | float | None:
    """The number that a word is; None where it is none.

    >>> number_in("16"), number_in("1e-2"), number_in("inf"), number_in("bf16")
    (16, 0.01, inf, None)
    """
    if _WHOLE.fullmatch(word):
        return int(word)
    return float(word) if _NUMBER.fullmatch(word) else None
