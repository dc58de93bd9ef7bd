"""Which tokens of a sequence a rank holds, as runs of neighbours, and the pairs of query and key that a causal mask leaves of some runs.

A sequence lies on its ranks in equal chunks, in an order that a dimension states: what is cut is that row of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from parsim.model.documents import spans
from parsim.model.window import ALL, Window

Stretch = tuple[int, int]  # the first position, and the one behind the last


def runs_of(length: int, chunks: Sequence[int], start: int, stop: int) -> tuple[Stretch, ...]:
    """The positions of what lies from place `start` to `stop` of a sequence in such chunks; none: in its own order.

    >>> runs_of(16, (0, 3, 1, 2), 8, 16), runs_of(16, (0, 3, 1, 2), 2, 8)
    (((4, 12),), ((2, 4), (12, 16)))
    """
    if not chunks:
        return ((start, stop),)
    size, found = length // len(chunks), list[Stretch]()
    for place in range(start // size, -(-stop // size)):
        first = (chunks[place] - place) * size
        run = max(start, place * size) + first, min(stop, (place + 1) * size) + first
        if found and found[-1][1] == run[0]:
            run = found.pop()[0], run[1]
        found.append(run)
    return tuple(found)


def causal_pairs(queries: Iterable[Stretch], keys: Iterable[Stretch], window: Window = ALL) -> int:
    """Pairs of which the key is in the window, and is the query itself or comes before it where the window is not two-sided.

    >>> causal_pairs([(0, 4)], [(0, 4)]), causal_pairs([(4, 6)], [(0, 4), (8, 9)])
    (10, 8)
    >>> causal_pairs([(0, 4)], [(0, 4)], Window(2)), causal_pairs([(0, 4)], [(0, 4)], Window(3, chunked=True))
    (7, 7)
    >>> causal_pairs([(0, 4)], [(0, 4)], Window(2, two_sided=True)), causal_pairs([(4, 6)], [(0, 4), (6, 9)], Window(3, two_sided=True))
    (10, 6)
    >>> causal_pairs([(0, 8)], [(0, 8)], Window(documents=(5, 3))), causal_pairs([(4, 6)], [(0, 8)], Window(documents=(5, 3)))
    (21, 6)
    """
    if window.documents:
        alone, queries, keys = window._replace(documents=()), [*queries], [*keys]
        return sum(causal_pairs(_within(queries, span), _within(keys, span), alone) for span in spans(window.documents))
    ahead = window.tokens - 1 if window.two_sided else 0  # as a query of a later place sees them
    size, found, queries = window.tokens + ahead, 0, [(start + ahead, stop + ahead) for start, stop in queries]
    for key in _union(keys):
        for start, stop in queries if not window.chunked else _in_chunks(queries, size):
            first = start - start % size if window.chunked else 0
            found += _pairs((start, stop), (max(key[0], first), max(key[1], first)))
            if size and not window.chunked:
                found -= _pairs((start - size, stop - size), key)
    return found


def _within(runs: Iterable[Stretch], span: Stretch) -> list[Stretch]:
    """What of these positions lies in a span."""
    return [(max(start, span[0]), min(stop, span[1])) for start, stop in runs if start < span[1] and span[0] < stop]


def _in_chunks(runs: Iterable[Stretch], size: int) -> Iterator[Stretch]:
    """The same positions, no run over the end of a chunk."""
    for start, stop in runs:
        yield from pairwise([start, *range(start - start % size + size, stop, size), stop])


def _union(runs: Iterable[Stretch]) -> Iterator[Stretch]:
    """The same positions in as few runs as hold them."""
    start = stop = 0
    for run in sorted(runs):
        if run[0] != stop:
            yield start, stop
            start = run[0]
        stop = run[1]
    yield start, stop


def _pairs(queries: Stretch, keys: Stretch) -> int:
    """Each query sees all keys, of which it then lacks those behind it: two triangles that may be cut off."""
    from_first, behind = (_triangle(queries[1] - key) - _triangle(queries[0] - key) for key in keys)
    return from_first - behind


def _triangle(side: int) -> int:
    return side * (side + 1) // 2 if side > 0 else 0
