"""Collective algorithms, one small file each, and the one choice among them that all readers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from parsim.registry import Registry
from parsim_kernels import Transfer

Count = np.ndarray | int


class Collective(Protocol):
    """An algorithm: its transfers, and the closed forms that must agree with them."""

    operations: tuple[str, ...]

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


def choose(operation: str) -> Collective:
    """The algorithm of an operation.

    >>> type(choose("all_reduce")).__name__
    'Ring'
    """
    COLLECTIVES.discover(__name__)
    for name in COLLECTIVES.names():
        algorithm = COLLECTIVES.get(name)
        if operation in algorithm.operations:
            return algorithm
    raise KeyError(operation)


def chunk_elements(index: Count, num_chunks: Count, elements: Count) -> Count:
    """Elements of one chunk when a tensor is cut as numpy.array_split cuts: the first chunks hold one more.

    >>> [int(chunk_elements(i, 3, 7)) for i in range(3)]
    [3, 2, 2]
    """
    return elements // num_chunks + (index % num_chunks < elements % num_chunks)
