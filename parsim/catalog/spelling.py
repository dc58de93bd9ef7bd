"""Which known name an unknown one misspells.  Numbers and short words are never typos: a100-60gb is no a100-40gb, mi300a no mi300x."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

_MOST: Final = 8  # names of a family that a message lists; all names follow it anyway
_UNITS: Final = ("b", "gb", "m")  # what people leave out at the end: gpt3-175, a100-sxm4-80


def hint_of(name: str, known: Iterable[str]) -> str:
    """The text that follows a message on the unknown `name`: the names that it misspells, or those of its family, or "".

    >>> known = ("a100-sxm4-40gb", "a100-sxm4-80gb", "h100-sxm5-80gb")
    >>> hint_of("a100-smx4-80gb", known), hint_of("h100-60gb", known), hint_of("b100", known)
    (" (did you mean 'a100-sxm4-80gb'?)", ' (of h100 there is h100-sxm5-80gb)', '')
    """
    runs, listed = _runs(name[:100]), tuple(known)
    meant = [each for each in listed if _misspells(runs, _runs(each))]
    if meant:
        return f" (did you mean {' or '.join(map(repr, meant[:_MOST]))}?)"
    for word in _family_words(name[:100]):
        family = [each for each in listed if word in _family_words(each) and f"{word}." not in each]
        if family:
            more = ", ..." if len(family) > _MOST else ""
            return f" (of {word} there {'is' if len(family) == 1 else 'are'} {', '.join(family[:_MOST])}{more})"
    return ""


def _runs(name: str) -> list[str]:
    """The runs of letters and of digits of a name."""
    return re.findall(r"[a-z]+|[0-9]+", name.lower())


def _misspells(runs: list[str], known: list[str]) -> bool:
    if known[:-1] == runs and known[-1] in _UNITS:
        return True
    return len(runs) == len(known) and all(map(_same, runs, known))


def _same(one: str, other: str) -> bool:
    """Whether two runs are the same word: of 3 letters in another order, of 4 or more with a letter left out or too many."""
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if one.isdigit() or other.isdigit() or len(short) < 3:
        return False
    if len(short) == len(long):
        return sorted(short) == sorted(long)
    return len(short) >= 4 and len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _family_words(name: str) -> tuple[str, ...]:
    """The words that a name shares with its family, the closest first: the first of letters and a number, and its first letters.

    >>> _family_words("dgx-a100-80gb"), _family_words("llama4-8b"), _family_words("ib-fdr")
    (('a100', 'dgx'), ('llama4', 'llama'), ('ib',))
    """
    runs = _runs(name)
    numbered = next((one + other for one, other in pairwise(runs) if one.isalpha() and other.isdigit()), "")
    first = re.match(r"[a-z]{4,}|[a-z]+(?=[-_. ]|$)", name.lower())
    return tuple(dict.fromkeys(each for each in (numbered, first.group() if first else "") if each))
