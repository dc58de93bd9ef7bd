"""Which known name an unknown one misspells.  A hint never leads to another size, version or hardware.

Numbers, with the points in them, and short words are never typos: gpt3-1.3b is no gpt3-13b, l40 no l40s, mi300a no mi300x.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

_MOST: Final = 100  # characters of a name that are looked at
_UNITS: Final = ("b", "gb", "m")  # what people leave out at the end: gpt3-175, a100-sxm4-80


def hint_of(name: str, known: Iterable[str]) -> str:
    """The text that follows a message on the unknown `name`: the names that it misspells, or begins, or "".

    >>> hint_of("a100-smx4-80gb", ("a100-sxm4-40gb", "a100-sxm4-80gb")), hint_of("gpt3-1.3b", ("gpt3-13b",))
    (" (did you mean 'a100-sxm4-80gb'?)", '')
    >>> hint_of("gpt2", ("gpt2-medium", "gpt2-xl")), hint_of("l40", ("l40s",))
    (' (names that begin so: gpt2-medium, gpt2-xl)', '')
    """
    runs, listed = runs_of(name), tuple(known)
    meant = [each for each in listed if _misspells(runs, runs_of(each))]
    if meant:
        return f" (did you mean {' or '.join(map(repr, meant))}?)"
    begun = [each for each in listed if each.startswith(f"{name.lower()}-")]
    return f" (names that begin so: {', '.join(begun)})" if begun else ""


@lru_cache(20_000)
def squeeze(name: str) -> str:
    """The name without case, dashes and the like; between two numbers they stay, as a point, since 1.3 is not 13.

    >>> squeeze("RMS-Norm"), squeeze("Llama-3.1-8B")
    ('rmsnorm', 'llama3.1.8b')
    """
    return re.sub(r"(?<=\d) (?=\d)", ".", " ".join(runs_of(name))).replace(" ", "")


@lru_cache(20_000)
def runs_of(name: str) -> tuple[str, ...]:
    """The runs of letters and of digits of a name."""
    return tuple(re.findall(r"[a-z]+|[0-9]+", name.lower()[:_MOST]))


def _misspells(runs: Sequence[str], known: Sequence[str]) -> bool:
    if known[:-1] == runs and known[-1] in _UNITS:
        return True
    return len(runs) == len(known) and all(map(_same, runs, known))


def _same(one: str, other: str) -> bool:
    """Whether two runs are the same word: of 3 letters in another order, of 4 or more with a letter left out or too many.

    The first letter is right: a large is no xlarge.
    """
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if one[0] != other[0] or not short.isalpha() or len(short) < 3:
        return False
    if len(short) == len(long):
        return sorted(short) == sorted(long)
    return len(short) >= 4 and len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
