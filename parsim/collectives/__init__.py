"""Collective algorithms, one small file each, and the one choice among them that all readers share.

`num_chunks` is the number of chunks into which an operation cuts its tensor.  A switch that adds is one more position, past the last rank.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast, overload

import numpy as np
from msgspec import Struct

from parsim.cluster.network import SWITCH_ADDS_ABOVE
from parsim.errors import ParsimError, did_you_mean
from parsim.registry import Registry
from parsim_kernels import Operator, Transfer

if TYPE_CHECKING:
    from parsim_kernels.fabric import TransferPlan

Count: TypeAlias = "np.ndarray | int"
Flag: TypeAlias = "np.ndarray | bool"
Name = str | None  # of an algorithm; None leaves the choice to the rule
# Elements of each chunk along the last dim, one table or one a plan; None: cut as numpy.array_split cuts.
ChunkTable: TypeAlias = "np.ndarray | None"


class ClosedForms(Protocol):
    """Counts of an algorithm, one value or one a plan.

    Where the chunks of a tensor are not alike, `chunks` states them and `elements` is their sum; for all_to_all `chunks[..., s, d]` go from
    rank s to rank d, and `elements` is the sum of the rank's own row.
    """

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """Elements that `rank` of the group sends for a tensor of `elements` (all_gather: of the gathered one)."""

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """Elements through the busiest rank's port, in one direction: what bounds the time."""

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """Steps, each of which waits for the one before."""


class Messages(Hashable, Protocol):
    """What a collective sends."""

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """The messages, step by step; ranks and chunks are numbered within the group, a switch that adds is position `num_ranks`."""


class CollectiveAlgorithm(ClosedForms, Messages, Protocol):
    """An algorithm: its transfers, and the closed forms that must agree with them."""

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that the algorithm knows."""


COLLECTIVES: Registry[CollectiveAlgorithm] = Registry("collective algorithm")


# The algorithms in whose bytes and steps the laws of `cluster` are fitted (bus bandwidth as nccl-tests defines it), and the defaults but
# for all_reduce; a master is a star.
DEFAULTS: Final[Mapping[str, str]] = {
    "all_reduce": "ring",
    "all_gather": "ring",
    "reduce_scatter": "ring",
    "all_to_all": "pairwise",
    "reduce": "star",
    "broadcast": "star",
    "shift": "rotation",
}
# NCCL's model of its own algorithms: 4.0 us a network hop of a ring (LL128), here as what a NIC of 25 GB/s sends meanwhile, and 0.9 of a
# ring's bandwidth for a tree.  Source: NVIDIA/nccl@01afd20a src/graph/tuning.cc, hwLat and busBw; 25 GB/s is InfiniBand HDR.
HOP_BYTES: Final = 100_000
TREE_BANDWIDTH: Final = 0.9


def names(operation: str | None = None) -> tuple[str, ...]:
    """The names of all algorithms, or of those that know an operation."""
    COLLECTIVES.discover(__name__)
    return tuple(name for name in COLLECTIVES.names() if operation is None or operation in COLLECTIVES.get(name).operations)


def reference(operation: str) -> CollectiveAlgorithm:
    """The algorithm in whose bytes and steps `cluster.collective_s` is asked, whichever runs: NCCL's own choice is in the measured laws.

    Raises:
        ParsimError: an unknown operation.
    """
    COLLECTIVES.discover(__name__)
    if operation not in DEFAULTS:
        remedy = f"Known: {', '.join(DEFAULTS)}."
        raise ParsimError(f"unknown operation '{operation}'{did_you_mean(operation, DEFAULTS)}", remedy=remedy)
    return COLLECTIVES.get(DEFAULTS[operation])


def find(operation: str, algorithm: str) -> CollectiveAlgorithm:
    """The algorithm of that name.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not know the operation.
    """
    reference(operation)
    found = COLLECTIVES.get(algorithm)
    if operation not in found.operations:
        raise ParsimError(f"{algorithm} has no {operation}", remedy=f"Algorithms of {operation}: {', '.join(names(operation))}.")
    return found


@overload
def choose(
    operation: str, *, num_ranks: int = ..., payload_bytes: int = ..., in_node: bool = ..., switch_adds: bool = ..., algorithm: Name = ...
) -> CollectiveAlgorithm: ...


@overload
def choose(
    operation: str, *, num_ranks: Count, payload_bytes: Count, in_node: Flag, switch_adds: bool = ..., algorithm: Name = ...
) -> ClosedForms: ...


def choose(
    operation: str,
    *,
    num_ranks: Count = 1,
    payload_bytes: Count = 0,
    in_node: Flag = True,
    switch_adds: bool = False,
    algorithm: Name = None,
) -> ClosedForms:
    """The algorithm that runs: the one that is asked for, else one by size and span; another file in this package changes no default.

    all_reduce: in_network among more than 4 ranks of a node whose switch adds, as NCCL has it; across nodes, a tree where its few steps
    outweigh its bytes: 0.1 MB x (n - 1 - log2 n) / (1 / 9 + 1 / n) for n a power of two; else a ring.  Other operations have one default.

    The payload is the tensor as it lies on each rank, for all_gather the gathered one; `in_node`: whether the group stays in one node.

    Returns:
        An algorithm; for arrays, with one value per plan, closed forms that select for each plan.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not know the operation.

    Source: the alpha-beta prices of ring and tree with the figures of NCCL's tuning.cc (HOP_BYTES, TREE_BANDWIDTH).

    >>> [type(choose("all_reduce", num_ranks=16, payload_bytes=size, in_node=False)).__name__ for size in (4, 10**8)]
    ['DoubleTree', 'Ring']
    """
    if algorithm is not None:
        return find(operation, algorithm)
    default = reference(operation)
    if operation != "all_reduce":
        return default
    tree = COLLECTIVES.get("tree")
    is_added = np.logical_and(in_node, np.greater(num_ranks, SWITCH_ADDS_ABOVE)) & switch_adds
    hops = _hops(tree, num_ranks, payload_bytes, TREE_BANDWIDTH), _hops(default, num_ranks, payload_bytes)
    index = np.asarray(np.where(is_added, 2, np.where(np.logical_not(in_node) & np.less(*hops), 1, 0)))
    candidates = (default, tree, COLLECTIVES.get("in_network"))
    if np.all(index == index.flat[0]):
        return candidates[index.flat[0]]
    return _PerPlan(candidates, index)


def _hops(algorithm: ClosedForms, num_ranks: Count, payload_bytes: Count, bandwidth: float = 1.0) -> Count:
    """Time of an all_reduce by latency and bandwidth alone, in latencies of a network hop."""
    sent = algorithm.busiest_elements("all_reduce", num_ranks, payload_bytes) / (bandwidth * HOP_BYTES)
    return np.asarray(algorithm.num_steps("all_reduce", num_ranks) + sent)


class _PerPlan(Struct, frozen=True):
    """Closed forms of plans that do not all run one algorithm: plan i runs the `index[i]`-th of `algorithms`."""

    algorithms: tuple[ClosedForms, ...]
    index: np.ndarray

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        return self._select([each.sent_elements(operation, rank, num_ranks, elements, chunks) for each in self.algorithms])

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        return self._select([each.busiest_elements(operation, num_ranks, elements, chunks) for each in self.algorithms])

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        return self._select([each.num_steps(operation, num_ranks) for each in self.algorithms])

    def _select(self, counts: list[Count]) -> Count:
        return np.select([self.index == i for i in range(len(counts))], counts)


@lru_cache(maxsize=256)
def transfer_plan(algorithm: Messages, operation: str, num_ranks: int, operator: str) -> TransferPlan:
    """The transfers of a collective, sorted once for all that execute it repeatedly."""
    from parsim_kernels.fabric import TransferPlan  # it brings the transport, which counts do not need

    return TransferPlan(algorithm.transfers(operation, num_ranks, cast(Operator, operator)))


def num_chunks(operation: str, num_ranks: int) -> int:
    """The number of chunks into which an operation cuts its tensor: one a rank; one in all where a whole tensor goes to or from one rank.

    all_to_all numbers the chunks of all ranks through: chunk s n + d goes from rank s to rank d, and is the d-th of n equal parts.
    """
    return 1 if operation in ("reduce", "broadcast", "shift") else num_ranks


def num_phases(operation: str) -> int:
    """Two for all_reduce, which reduces and then gathers; one for anything else."""
    return 2 if operation == "all_reduce" else 1


def by_phase(operation: str, reducing: Count, gathering: Count) -> Count:
    """Of an operation's phases together: all_reduce has both, reduce_scatter and all_gather one each."""
    return {"reduce_scatter": reducing, "all_gather": gathering}.get(operation, reducing + gathering)


def chunk_elements(index: Count, num_chunks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
    """Elements of one chunk when a tensor is cut as numpy.array_split cuts: the first chunks hold one more; or those of a table.

    >>> [int(chunk_elements(i, 3, 7)) for i in range(3)], int(chunk_elements(4, 3, 7, np.array([1, 6, 0])))
    ([3, 2, 2], 6)
    """
    if chunks is not None:
        return _entries(chunks, np.mod(index, num_chunks))
    return elements // num_chunks + (index % num_chunks < elements % num_chunks)


def largest_chunk(num_chunks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
    """Elements of the largest chunk."""
    return -(-elements // num_chunks) if chunks is None else np.max(chunks, axis=-1)


def range_elements(start: Count, stop: Count, num_chunks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
    """Elements of the chunks from `start` up to `stop`, not included, of a tensor cut as in `chunk_elements`.

    >>> [int(range_elements(i, 3, 3, 7)) for i in range(4)]
    [7, 4, 2, 0]
    """
    if chunks is not None:
        before = np.insert(np.cumsum(chunks, axis=-1), 0, 0, axis=-1)
        return np.asarray(_entries(before, stop) - _entries(before, start))
    longer = elements % num_chunks
    return (stop - start) * (elements // num_chunks) + np.minimum(stop, longer) - np.minimum(start, longer)


def _entries(table: np.ndarray, index: Count) -> np.ndarray:
    """The entry of each index along the last dim, broadcast over the others."""
    places = np.broadcast_to(index, np.broadcast_shapes(np.shape(index), table.shape[:-1]))[..., None]
    return np.asarray(np.take_along_axis(np.broadcast_to(table, (*places.shape[:-1], table.shape[-1])), places, -1)[..., 0])
