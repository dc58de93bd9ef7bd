"""Collective algorithms, one small file each, and the one choice among them that all readers share.

Chunks: `num_chunks` says into how many the tensor of an operation is cut.  Reduction inside a switch is not here: its switch adds, and a
Transfer knows only the ranks of the group; the cluster's law prices it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import numpy as np

from parsim.errors import ParsimError, did_you_mean
from parsim.registry import Registry
from parsim_kernels import Transfer

Count = np.ndarray | int


class Collective(Protocol):
    """An algorithm: its transfers, and the closed forms that must agree with them."""

    @property
    def operations(self) -> tuple[str, ...]:
        """Those that it knows."""
        ...

    def transfers(self, operation: str, num_ranks: int, operator: str) -> Iterator[Transfer]:
        """The messages, step by step; ranks and chunks are numbered within the group."""
        ...

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count) -> Count:
        """Elements that `rank` of the group sends for a tensor of `elements` (all_gather: of the gathered one)."""
        ...

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count) -> Count:
        """Elements through the busiest port, in one direction: what bounds the time."""
        ...

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """Messages that follow one another."""
        ...


COLLECTIVES: Registry[Collective] = Registry("collective algorithm")


# What runs where nobody asks for another: rings fill every link and the measured laws of `cluster` were fitted to them; a master is a star.
DEFAULTS: Final[Mapping[str, str]] = {
    "all_reduce": "ring",
    "all_gather": "ring",
    "reduce_scatter": "ring",
    "all_to_all": "pairwise",
    "reduce": "star",
    "broadcast": "star",
}


def names(operation: str | None = None) -> tuple[str, ...]:
    """All algorithms there are, or those that know an operation."""
    COLLECTIVES.discover(__name__)
    return tuple(name for name in COLLECTIVES.names() if operation is None or operation in COLLECTIVES.get(name).operations)


def choose(operation: str, *, algorithm: str | None = None) -> Collective:
    """The algorithm of an operation: the one that is asked for, or the default; another file in this package changes neither.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not know the operation.

    >>> type(choose("all_reduce")).__name__, type(choose("all_reduce", algorithm="tree")).__name__
    ('Ring', 'DoubleTree')
    """
    COLLECTIVES.discover(__name__)
    if operation not in DEFAULTS:
        remedy = f"Known: {', '.join(DEFAULTS)}."
        raise ParsimError(f"unknown operation '{operation}'{did_you_mean(operation, DEFAULTS)}", remedy=remedy)
    chosen = COLLECTIVES.get(algorithm or DEFAULTS[operation])
    if operation not in chosen.operations:
        raise ParsimError(f"{algorithm} has no {operation}", remedy=f"Algorithms of {operation}: {', '.join(names(operation))}.")
    return chosen


def num_chunks(operation: str, num_ranks: int) -> int:
    """Into how many chunks an operation cuts its tensor: one a rank; one in all where a whole tensor goes to or from one rank.

    all_to_all numbers the chunks of all ranks through: chunk s n + d goes from rank s to rank d, and is the d-th of n equal parts.
    """
    return 1 if operation in ("reduce", "broadcast") else num_ranks


def chunk_elements(index: Count, num_chunks: Count, elements: Count) -> Count:
    """Elements of one chunk when a tensor is cut as numpy.array_split cuts: the first chunks hold one more.

    >>> [int(chunk_elements(i, 3, 7)) for i in range(3)]
    [3, 2, 2]
    """
    return elements // num_chunks + (index % num_chunks < elements % num_chunks)


def range_elements(start: Count, stop: Count, num_chunks: Count, elements: Count) -> Count:
    """Elements of the chunks from `start` up to `stop`, not included, of a tensor cut as in `chunk_elements`.

    >>> [int(range_elements(i, 3, 3, 7)) for i in range(4)]
    [7, 4, 2, 0]
    """
    longer = elements % num_chunks
    return (stop - start) * (elements // num_chunks) + np.minimum(stop, longer) - np.minimum(start, longer)
