"""Which segments a stage holds: the model's layout cut into stages, as runs of equal segments in forward order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

import numpy as np

from parsim.model.spec import ENCODER_END, JOINTS, Layout
from parsim.step.lower import KEPT

Copies = np.ndarray | int  # of one plan, or one value a plan
Parts = tuple[tuple[str, Copies], ...]  # of a stage


def parts_of(layout: Layout, layers: Sequence[int], recompute_every: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """The segments of each virtual stage in forward order, with how often each follows itself.

    Args:
        layout: of the whole model; all but its ends, and the joints of two stacks, which lie with the layers beside them, are layers.
        layers: of each virtual stage.
        recompute_every: of the layers of a stage, each so many-th is recomputed.

    Source of the n-th layers: torchtitan, torchtitan/distributed/activation_checkpoint.py (`_apply_layer_sac`).

    >>> layout = (("embedding", 1), ("layer", 3), ("head", 1))
    >>> [*parts_of(layout, [2, 1], 1)]
    [(('embedding', 1), ('layer', 2)), (('layer', 1), ('head', 1))]
    """
    (first, _), *middle, (last, _) = layout
    begins = [0, *accumulate(count * (name not in JOINTS) for name, count in middle)]
    start = 0
    for stage, count in enumerate(layers):
        cuts = (
            (
                name,
                int(start <= begin - (name == ENCODER_END) < start + count)
                if name in JOINTS
                else min(start + count, end) - max(start, begin),
            )
            for (name, _), begin, end in zip(middle, begins, begins[1:], strict=False)
        )
        runs = [(name, own) for name, own in cuts if own > 0]
        start += count
        if recompute_every > 1:
            runs = _every_nth(runs, recompute_every)
        yield (*[(first, 1)] * (stage == 0), *runs, *[(last, 1)] * (stage == len(layers) - 1))


def _every_nth(runs: Sequence[tuple[str, int]], n: int) -> list[tuple[str, int]]:
    """Each n-th layer of a stage as it is, the others as those that keep what they need."""
    names = [name for name, copies in runs for _ in range(copies)]
    places = accumulate(name not in JOINTS for name in names)
    chosen = [name if place % n == 0 or name in JOINTS else KEPT + name for place, name in zip(places, names, strict=True)]
    return [(name, len(list(same))) for name, same in groupby(chosen)]


def held_copies(stages: Sequence[Parts]) -> dict[str, Copies]:
    """How often a rank that holds these stages holds each segment."""
    found: dict[str, Copies] = {}
    for name, copies in (part for parts in stages for part in parts):
        found[name] = found.get(name, 0) + copies
    return found
