"""Context parallelism: every sequence split over `cp`, on the stream and inside blocks; weights are replicated over it.

What attention does about the keys of other ranks is a kind of it, a file each: dims of attention over the same axis, and how chunks of a
sequence lie on the ranks.  A kind may have another rule inside groups of neighbours (`context_group`), which are an axis of their own,
`cp_group`, inside what is then the axis between groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parsim.model.dims import SOURCE as SOURCE_DIMS
from parsim.parallel.dimensions import DIMENSIONS, Degrees, Dimension, all_dimensions, names

AXIS, INNER = "cp", "cp_group"
SOURCE, WAIT = "Grattafiori et al. 2024 (arXiv:2407.21783), section 3.3.2", "keys, values or heads from other parts of the sequence"


def with_source(*dims: str) -> tuple[str, ...]:
    """The dims of a sequence, and those of the source that an encoder reads beside it, which lies on its ranks in order."""
    return (*dims, *(SOURCE_DIMS[dim] for dim in dims if dim in SOURCE_DIMS))


def _group(plan: Degrees) -> int:
    return plan.context_group or 1


def _groups(plan: Degrees) -> int:
    return plan.context_parallel // _group(plan)


for _name, _axis, _nesting, _degree in (("context_parallel", AXIS, 80, _groups), ("context_group", INNER, 85, _group)):
    DIMENSIONS.register(_name, Dimension(_name, _axis, with_source("S", "T", "s"), SOURCE, _nesting, _degree, WAIT, replicates=True))


def register_kind(
    name: str,
    shards: tuple[str, ...],
    source: str,
    chunks: Callable[[int], Sequence[int]] | None = None,
    *,
    inside: tuple[str, ...] = (),
) -> None:
    """Make a kind known.

    `shards`: the dims of attention that it cuts; `inside`: those that the ranks of a group cut, if it has groups; `chunks`: see Dimension.
    """

    def is_on(plan: Degrees) -> bool:
        return plan.context_kind == name

    DIMENSIONS.register(name, Dimension(name, AXIS, with_source(*shards), source, None, is_on, chunks=chunks))
    if inside:
        DIMENSIONS.register(_inner(name), Dimension(_inner(name), INNER, with_source(*inside), source, None, is_on))


def kinds() -> tuple[str, ...]:
    """All known kinds."""
    return tuple(each.name for each in all_dimensions() if each.axis == AXIS and each.nesting is None)


def has_groups(kind: str) -> bool:
    """Whether a kind has another rule inside groups.

    >>> has_groups("ring"), has_groups("ulysses_ring")
    (False, True)
    """
    return _inner(kind) in names()


def _inner(kind: str) -> str:
    return f"{kind} inside groups"


def zigzag(num_ranks: int) -> tuple[int, ...]:
    """Two chunks a rank, one from each end, so that all have as many pairs of query and key under a causal mask.

    >>> zigzag(2)
    (0, 3, 1, 2)
    """
    return tuple(chunk for rank in range(num_ranks) for chunk in (rank, 2 * num_ranks - 1 - rank))
