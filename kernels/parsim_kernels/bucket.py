"""The cut of buffers into the chunks that a collective moves, and back.  A bucket is one or more buffers, seen as one flat array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from parsim_kernels.fabric import Chunks
from parsim_kernels.memory import root_of
from parsim_kernels.signature import Array, Out, fresh

IN_PLACE = ("all_reduce", "reduce", "broadcast")
NEW_BUFFER = ("all_gather", "reduce_scatter", "all_to_all", "shift")
CUTTING = ("reduce_scatter", "all_to_all")  # along a dim, a part a position


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


def extents_by_rank(
    operation: str, extents: Sequence[int] | Sequence[Sequence[int]] | None, num_ranks: int
) -> list[list[int]] | list[None]:
    """The extents of all positions along the dim that each rank cuts, from one list for all or a list a rank; None: equal parts.

    Raises:
        ValueError: the operation cuts no dim, or the extents are not whole numbers, one a position.

    >>> extents_by_rank("reduce_scatter", [1, 2], 2)
    [[1, 2], [1, 2]]
    """
    if extents is None:
        return [None] * num_ranks
    check_cutting(operation, extents)
    table = np.asarray(extents)
    if table.shape not in ((num_ranks,), (num_ranks, num_ranks)) or table.dtype.kind not in "iu":
        raise ValueError(f"extents {extents} are not those of {num_ranks} positions")
    rows: list[list[int]] = np.broadcast_to(table, (num_ranks, num_ranks)).tolist()
    return rows


def check_cutting(operation: str, extents: object) -> None:
    """Raise where extents are given to an operation that cuts no dim.

    Raises:
        ValueError: they are.
    """
    if extents is not None and operation not in CUTTING:
        raise ValueError(f"{operation} takes no extents; {' and '.join(CUTTING)} do")


def cut_chunks(
    operation: str,
    buckets: Sequence[Sequence[Array]],
    dim: int,
    group: Sequence[int],
    *,
    split: int = 0,
    extents: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> Chunks:
    """The chunks at the start, by position and chunk; None is yet to arrive.

    A chunk a rank; one in all for reduce and broadcast; for all_to_all chunk s n + d is what position s has for position d.

    Raises:
        ValueError: the shapes do not fit one another, or the dim that is cut; the first such rank of `group` is named.

    >>> cut_chunks("all_reduce", [[np.arange(3)], [np.arange(3)]], 0, [4, 5])[0]
    [array([0, 1]), array([2])]
    """
    num_ranks = len(buckets)
    rows = extents_by_rank(operation, extents, num_ranks)
    for rank, bucket, row in zip(group, buckets, rows, strict=True):
        if fault := _fault(operation, bucket, buckets[0], num_ranks, dim, split, row):
            raise ValueError(f"rank {rank}: {fault}")
    return [
        cut_own(operation, bucket, dim, position, num_ranks, split=split, extents=row)
        for position, (bucket, row) in enumerate(zip(buckets, rows, strict=True))
    ]


def cut_own(
    operation: str,
    bucket: Sequence[Array],
    dim: int,
    position: int,
    num_ranks: int,
    *,
    split: int = 0,
    extents: Sequence[int] | None = None,
) -> list[Array | None]:
    """The chunks of one position alone."""
    if operation == "reduce_scatter":
        return [*cut_along(bucket[0], dim, num_ranks, extents)]
    if operation == "all_to_all":
        others: list[Array | None] = [None] * num_ranks
        parts = cut_along(bucket[0], split, num_ranks, extents)
        return [*(others * position), *parts, *(others * (num_ranks - 1 - position))]
    if operation in ("all_gather", "shift"):
        return [bucket[0] if chunk == position else None for chunk in range(num_ranks)]
    num_chunks = num_ranks if operation == "all_reduce" else 1
    return [*pieces(flat(bucket), num_chunks)]


def outcome(operation: str, position: int, num_ranks: int) -> slice:
    """Which chunks make up what a position is left with, in the order in which they are joined.

    >>> list(range(9))[outcome("all_to_all", 1, 3)]
    [1, 4, 7]
    """
    if operation == "all_to_all":
        return slice(position, None, num_ranks)
    if operation == "shift":  # what the rank before had
        return slice((before := (position - 1) % num_ranks), before + 1)
    return slice(position, position + 1) if operation == "reduce_scatter" else slice(None)


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
    """The chunks, none of which is missing.

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
    """Copy each chunk to its place, unless it lies there already.

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


def stage(parts: Sequence[Array], out: Out = fresh) -> list[Array]:
    """Copies of the parts, one behind the other in memory from `out`."""
    whole = out((sum(part.size for part in parts),), parts[0].dtype)
    ends = accumulate(part.size for part in parts)
    staged = [whole[end - part.size : end].reshape(part.shape) for part, end in zip(parts, ends, strict=True)]
    for copy, part in zip(staged, parts, strict=True):
        copy[...] = part
    return staged


def pieces(array: Array, num_pieces: int) -> list[Array]:
    """Views of a flat array, as numpy.array_split cuts it: the first hold one element more.

    >>> pieces(np.arange(5), 3)
    [array([0, 1]), array([2, 3]), array([4])]
    """
    size, longer = divmod(array.size, num_pieces)
    return [array[i * size + min(i, longer) : (i + 1) * size + min(i + 1, longer)] for i in range(num_pieces)]


def cut_along(array: Array, dim: int, num_parts: int, extents: Sequence[int] | None = None) -> list[Array]:
    """Views along a dim, of these extents, or equal ones.

    Raises:
        ValueError: the extents are not those of the parts of the dim, or the number of parts does not divide it.

    >>> whole = np.arange(6).reshape(2, 3)
    >>> cut_along(whole, 0, 2)[1].tolist(), cut_along(whole, -1, 2, [1, 2])[1].tolist()
    ([[3, 4, 5]], [[1, 2], [4, 5]])
    """
    dim %= array.ndim
    if fault := _cut_fault(array.shape, dim, num_parts, extents):
        raise ValueError(fault)
    size = array.shape[dim] // num_parts
    bounds = [i * size for i in range(num_parts + 1)] if extents is None else accumulate(extents, initial=0)
    before = (slice(None),) * dim
    return [array[(*before, slice(start, stop))] for start, stop in pairwise(bounds)]


def _cut_fault(shape: tuple[int, ...], dim: int, num_parts: int, extents: Sequence[int] | None) -> str:
    if extents is None:
        return f"{num_parts} ranks do not divide dim {dim} of shape {shape}" if shape[dim] % num_parts else ""
    is_whole = len(extents) == num_parts and sum(extents) == shape[dim] and min(extents) >= 0
    return "" if is_whole else f"extents {[*extents]} of {num_parts} ranks are not those of dim {dim} of shape {shape}"


def _fault(
    operation: str, bucket: Sequence[Array], first: Sequence[Array], num_ranks: int, dim: int, split: int, extents: Sequence[int] | None
) -> str:
    shapes, wanted = ([array.shape for array in arrays] for arrays in (bucket, first))
    if operation in NEW_BUFFER:
        along = split if operation == "all_to_all" else dim
        for each in (dim, along):
            if not -len(shapes[0]) <= each < len(shapes[0]):
                return f"shape {shapes[0]} has no dim {each}"
        if operation in CUTTING and (fault := _cut_fault(shapes[0], along, num_ranks, extents)):
            return fault
    if operation in ("all_gather", "all_to_all"):  # what is joined may differ along dim only
        shapes, wanted = ([_without(shape, dim) for shape in both] for both in (shapes, wanted))
    return f"shapes {shapes} differ from {wanted} of the first rank" if shapes != wanted else ""


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(extent for i, extent in enumerate(shape) if i != dim % len(shape))
