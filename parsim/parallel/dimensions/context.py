"""Context parallelism: every sequence split over `cp`, on the stream and inside blocks; weights are replicated over it.

What attention does about the keys of other ranks is a kind of it, a file each: dims of attention over the same axis, and how chunks of a
sequence lie on the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parsim.parallel.dimensions import DIMENSIONS, Dimension, all_dimensions

AXIS = "cp"
SOURCE, WAIT = "Grattafiori et al. 2024 (arXiv:2407.21783), section 3.3.2", "keys, values or heads from other parts of the sequence"
DIMENSIONS.register(
    "context_parallel", Dimension("context_parallel", AXIS, ("S", "T", "s"), SOURCE, nesting=80, waits_for=WAIT, replicates=True)
)


def register_kind(name: str, shards: tuple[str, ...], source: str, chunks: Callable[[int], Sequence[int]] | None = None) -> None:
    """Make a kind known; `shards`: the dims of attention that it cuts; `chunks`: see Dimension."""
    DIMENSIONS.register(name, Dimension(name, AXIS, shards, source, None, lambda plan: plan.context_kind == name, chunks=chunks))


def kinds() -> tuple[str, ...]:
    """All known kinds."""
    return tuple(each.name for each in all_dimensions() if each.axis == AXIS and each.nesting is None)


def zigzag(num_ranks: int) -> tuple[int, ...]:
    """Two chunks a rank, one from each end, so that all have as many pairs of query and key under a causal mask.

    >>> zigzag(2)
    (0, 3, 1, 2)
    """
    return tuple(chunk for rank in range(num_ranks) for chunk in (rank, 2 * num_ranks - 1 - rank))
