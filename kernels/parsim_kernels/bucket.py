"""Buffers into the chunks that a collective moves, and back.  A bucket is one or more buffers of a rank, reduced as one flat array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.fabric import Chunks
from parsim_kernels.memory import root_of
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
    """The chunks of one position alone."""
    if operation == "reduce_scatter":
        return [*cut_along(bucket[0], dim, num_ranks)]
    if operation == "all_gather":
        return [bucket[0] if chunk == position else None for chunk in range(num_ranks)]
    num_chunks = num_ranks if operation == "all_reduce" else 1
    return [*pieces(flat(bucket), num_chunks)]


def cut_shards(operation: str, shards: Sequence[Sequence[Array]], flats: Sequence[Sequence[Array]]) -> Chunks:
    """The chunks of flat buffers whose i-th equal part is the shard of position i: chunk i is that part of every buffer.

    reduce_scatter starts from the whole buffers, all_gather from the shards.

    Raises:
        ValueError: a flat buffer is not as long as the shards of all positions together.

    >>> cut_shards("all_gather", [[np.zeros(1)], [np.ones(1)]], [[np.zeros(2)], [np.zeros(2)]])
    [[array([0.]), None], [None, array([1.])]]
    """
    num_ranks, chunks = len(shards), Chunks()
    for position, (own, whole) in enumerate(zip(shards, flats, strict=True)):
        check_shards(own, whole, num_ranks)
        gathered = [flat(own) if chunk == position else None for chunk in range(num_ranks)]
        chunks.append(gathered if operation == "all_gather" else [*cut_flats(whole, num_ranks)])
    return chunks


def cut_flats(flats: Sequence[Array], num_ranks: int, out: Out = fresh) -> list[Array]:
    """Copies of the chunks of flat buffers, in memory from `out`."""
    parts = [array.reshape(num_ranks, -1) for array in flats]
    return [flat([part[chunk] for part in parts], out) for chunk in range(num_ranks)]


def check_shards(shards: Sequence[Array], flats: Sequence[Array], num_ranks: int) -> None:
    """Raise unless each flat buffer is as long as the shards of all positions together.

    Raises:
        ValueError: one is not.
    """
    if [num_ranks * shard.size for shard in shards] != [whole.size for whole in flats]:
        raise ValueError(f"flat buffers of {[f.size for f in flats]} do not hold {num_ranks} shards of {[s.size for s in shards]}")


def write_gathered(flats: Sequence[Array], chunks: Sequence[Array | None]) -> None:
    """Write the chunks of all positions over flat buffers.

    Raises:
        ValueError: the transfers left a chunk behind.
    """
    num_ranks = len(chunks)
    for position, chunk in enumerate(complete(chunks)):
        write_back([flat.reshape(num_ranks, -1)[position] for flat in flats], chunk)


def complete(chunks: Sequence[Array | None]) -> list[Array]:
    """The chunks, all of which are there.

    Raises:
        ValueError: the transfers left a chunk behind.
    """
    found = [chunk for chunk in chunks if chunk is not None]
    if len(found) != len(chunks):
        raise ValueError(f"the transfers leave {len(chunks) - len(found)} of {len(chunks)} chunks behind")
    return found


def join(chunks: Sequence[Array | None], dim: int, out: Out = fresh) -> Array:
    """A new array of the chunks along `dim`, in memory from `out`.

    Raises:
        ValueError: the transfers left a chunk behind.
    """
    found = complete(chunks)
    shape = list(found[0].shape)
    shape[dim] = sum(chunk.shape[dim] for chunk in found)
    return np.concatenate(found, axis=dim, out=out(tuple(shape), np.result_type(*(chunk.dtype for chunk in found))))


def settle(chunks: Sequence[Array | None], places: Sequence[Array]) -> None:
    """Write each chunk that does not lie there to its place.

    Raises:
        ValueError: the transfers left a chunk behind, or one has another shape.
    """
    for chunk, place in zip(complete(chunks), places, strict=True):
        if chunk is place:
            continue
        if chunk.shape != place.shape:
            raise ValueError(f"a chunk of shape {chunk.shape} arrived for one of shape {place.shape}")
        place[...] = chunk


def write_back(bucket: Sequence[Array], flat: Array, *, add: bool = False) -> None:
    """Write one flat array over the buffers of a bucket, or add it to them."""
    start = 0
    for array in bucket:
        part = flat[start : start + array.size].reshape(array.shape)
        if add:
            np.add(part, array, out=array)
        else:
            array[...] = part
        start += array.size


def only(bucket: Sequence[Array]) -> Array | None:
    """The bucket as a flat view, where its buffers lie one behind the other in one array; else None.

    >>> whole = np.ones(6)
    >>> only([whole[:4].reshape(2, 2), whole[4:]]).shape, only([whole[4:], whole[:4]]), only([whole[::2]])
    ((6,), None, None)
    """
    first, root = bucket[0], root_of(bucket[0])
    if len(bucket) == 1:
        return first.reshape(-1) if first.flags.c_contiguous else None
    start = end = _address(first)
    for array in bucket:
        if _address(array) != end or root_of(array) is not root or array.dtype != root.dtype or not array.flags.c_contiguous:
            return None
        end += array.nbytes
    skipped = (start - _address(root)) // root.itemsize
    return root.reshape(-1)[skipped : skipped + (end - start) // root.itemsize] if root.flags.c_contiguous else None


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def flat(bucket: Sequence[Array], out: Out = fresh) -> Array:
    """A copy of the buffers as one flat array, in memory from `out`."""
    arrays = [array.reshape(-1) for array in bucket]
    dtype = arrays[0].dtype if len({array.dtype for array in arrays}) == 1 else np.result_type(*(array.dtype for array in arrays))
    return np.concatenate(arrays, out=out((sum(array.size for array in arrays),), dtype))


def pieces(array: Array, num_pieces: int) -> list[Array]:
    """Views of a flat array, as numpy.array_split cuts it: the first hold one element more.

    >>> pieces(np.arange(5), 3)
    [array([0, 1]), array([2, 3]), array([4])]
    """
    size, longer = divmod(array.size, num_pieces)
    return [array[i * size + min(i, longer) : (i + 1) * size + min(i + 1, longer)] for i in range(num_pieces)]


def cut_along(array: Array, dim: int, num_parts: int) -> list[Array]:
    """Equal views along a dim.

    Raises:
        ValueError: the number of parts does not divide the dim.

    >>> cut_along(np.arange(4).reshape(2, 2), -1, 2)[1].tolist()
    [[1], [3]]
    """
    dim %= array.ndim
    size, rest = divmod(array.shape[dim], num_parts)
    if rest:
        raise ValueError(f"{num_parts} ranks do not divide dim {dim} of shape {array.shape}")
    before = (slice(None),) * dim
    return [array[(*before, slice(i * size, (i + 1) * size))] for i in range(num_parts)]


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
