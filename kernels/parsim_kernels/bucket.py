"""Buffers into the chunks that a collective moves, and back.  A bucket is one or more buffers of a rank, reduced as one flat array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.fabric import Chunks
from parsim_kernels.signature import Array, Out, fresh

IN_PLACE = ("all_reduce", "reduce", "broadcast")
NEW_BUFFER = ("all_gather", "reduce_scatter")


def names_by_rank(sources: Sequence[str] | Sequence[Sequence[str]], num_ranks: int) -> list[tuple[str, ...]]:
    """One tuple of names a rank, from one list for all or a list a rank.

    Raises:
        ValueError: it is neither, or buckets differ in length.

    >>> names_by_rank(["w", "b"], 2)
    [('w', 'b'), ('w', 'b')]
    """
    same = [name for name in sources if isinstance(name, str)]
    if isinstance(sources, str) or not sources or len(same) not in (0, len(sources)):
        raise ValueError(f"sources are a list of names, or one such list a rank, not {sources!r}")
    names = [tuple(same)] * num_ranks if same else [tuple(bucket) for bucket in sources]
    if len(names) != num_ranks or any(len(bucket) != len(names[0]) or not bucket for bucket in names):
        raise ValueError(f"sources {sources!r} do not give {num_ranks} ranks buckets of one length")
    return names


def cut(operation: str, buckets: Sequence[Sequence[Array]], dim: int, group: Sequence[int]) -> Chunks:
    """The chunks at the start, by position and chunk: a chunk a rank, or one in all for reduce and broadcast; None is yet to arrive.

    Raises:
        ValueError: the shapes do not fit one another, or the group does not divide `dim`; the first such rank of `group` is named.

    >>> cut("all_reduce", [[np.arange(3)], [np.arange(3)]], 0, [4, 5])[0]
    [array([0, 1]), array([2])]
    """
    num_ranks = len(buckets)
    for rank, bucket in zip(group, buckets, strict=True):
        if fault := _fault(operation, bucket, buckets[0], num_ranks, dim):
            raise ValueError(f"rank {rank}: {fault}")
    return [cut_own(operation, bucket, dim, position, num_ranks) for position, bucket in enumerate(buckets)]


def cut_own(operation: str, bucket: Sequence[Array], dim: int, position: int, num_ranks: int) -> list[Array | None]:
    """The chunks of one position alone; whether its shapes fit those of the others shows when they meet."""
    if operation == "reduce_scatter":
        return [*np.split(bucket[0], num_ranks, axis=dim)]
    if operation == "all_gather":
        return [bucket[0] if chunk == position else None for chunk in range(num_ranks)]
    num_chunks = num_ranks if operation == "all_reduce" else 1
    return [*np.array_split(np.concatenate([array.reshape(-1) for array in bucket]), num_chunks)]


def cut_shards(operation: str, shards: Sequence[Sequence[Array]], flats: Sequence[Sequence[Array]]) -> Chunks:
    """The chunks of flat buffers whose i-th equal part is the shard of position i: chunk i is that part of every buffer.

    reduce_scatter starts from the whole buffers, all_gather from the shards.

    Raises:
        ValueError: a flat buffer is not as long as the shards of all positions together.

    >>> cut_shards("all_gather", [[np.zeros(1)], [np.ones(1)]], [[np.zeros(2)], [np.zeros(2)]])
    [[array([0.]), None], [None, array([1.])]]
    """
    both = enumerate(zip(shards, flats, strict=True))
    return [cut_own_shards(operation, own, whole, position, len(shards)) for position, (own, whole) in both]


def cut_own_shards(operation: str, shards: Sequence[Array], flats: Sequence[Array], position: int, num_ranks: int) -> list[Array | None]:
    """The chunks of one position alone, as in `cut_shards`."""
    if [num_ranks * shard.size for shard in shards] != [flat.size for flat in flats]:
        raise ValueError(f"flat buffers of {[f.size for f in flats]} do not hold {num_ranks} shards of {[s.size for s in shards]}")
    if operation == "all_gather":
        return [np.concatenate(shards) if chunk == position else None for chunk in range(num_ranks)]
    parts = [flat.reshape(num_ranks, -1) for flat in flats]
    return [np.concatenate([part[chunk] for part in parts]) for chunk in range(num_ranks)]


def write_gathered(flats: Sequence[Array], chunks: Sequence[Array | None]) -> None:
    """Write the chunks of all positions over flat buffers.

    Raises:
        ValueError: the transfers left a chunk behind.
    """
    num_ranks = len(chunks)
    for position in range(num_ranks):
        own = [flat.reshape(num_ranks, -1)[position] for flat in flats]
        write_back(own, join([chunks[position]], 0))


def join(chunks: Sequence[Array | None], dim: int, out: Out = fresh) -> Array:
    """A new array of the chunks along `dim`, in memory from `out`.

    Raises:
        ValueError: the transfers left a chunk behind.
    """
    complete = [chunk for chunk in chunks if chunk is not None]
    if len(complete) != len(chunks):
        raise ValueError(f"the transfers leave {len(chunks) - len(complete)} of {len(chunks)} chunks behind")
    shape = list(complete[0].shape)
    shape[dim] = sum(chunk.shape[dim] for chunk in complete)
    return np.concatenate(complete, axis=dim, out=out(tuple(shape), np.result_type(*(chunk.dtype for chunk in complete))))


def write_back(bucket: Sequence[Array], flat: Array) -> None:
    """Write one flat array over the buffers of a bucket."""
    start = 0
    for array in bucket:
        array[...] = flat[start : start + array.size].reshape(array.shape)
        start += array.size


def _fault(operation: str, bucket: Sequence[Array], first: Sequence[Array], num_ranks: int, dim: int) -> str:
    shapes, wanted = ([array.shape for array in arrays] for arrays in (bucket, first))
    if operation in NEW_BUFFER:
        if not -len(shapes[0]) <= dim < len(shapes[0]):
            return f"shape {shapes[0]} has no dim {dim}"
        if operation == "reduce_scatter" and shapes[0][dim] % num_ranks:
            return f"{num_ranks} ranks do not divide dim {dim} of shape {shapes[0]}"
    if operation == "all_gather":  # shards may differ along dim only
        shapes, wanted = ([_without(shape, dim) for shape in both] for both in (shapes, wanted))
    return f"shapes {shapes} differ from {wanted} of the first rank" if shapes != wanted else ""


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(extent for i, extent in enumerate(shape) if i != dim % len(shape))
