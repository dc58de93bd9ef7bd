"""Which segments a stage holds: the model's layout cut into stages, as runs of equal segments in forward order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from parsim.model.spec import Layout
from parsim.step.lower import KEPT
from parsim.step.step import Step

Copies = np.ndarray | int  # of one plan, or one value a plan
Parts = tuple[tuple[str, Copies], ...]  # of a stage


def parts_of(step: Step, layout: Layout, layers: Sequence[Copies], stage: int) -> Parts:
    """The segments of a virtual stage in forward order, with how often each follows itself.

    Args:
        step: the Step, which says whether each n-th layer of a stage is recomputed.
        layout: of the whole model; all but its ends are layers.
        layers: of each virtual stage.
        stage: which.

    Returns:
        Runs of equal segments; over arrays of plans, of which all or none have a run (or, where only each n-th layer is recomputed, all
        have the same layers).

    Source of the n-th layers: torchtitan, torchtitan/distributed/activation_checkpoint.py (`_apply_layer_sac`).
    """
    (first, _), *middle, (last, _) = layout
    start = sum(layers[:stage], start=layers[0] * 0)
    runs: list[tuple[str, Copies]] = []
    begin = 0
    for name, count in middle:
        own = np.minimum(start + layers[stage], begin + count) - np.maximum(start, begin)
        if np.any(own > 0):
            runs.append((name, np.maximum(own, 0)))
        begin += count
    if step.structure.recompute_every > 1:
        runs = [*_every_nth(runs, step.structure.recompute_every)]
    ends = ([(first, layers[0] * 0 + 1)] if stage == 0 else []), ([(last, layers[0] * 0 + 1)] if stage == len(layers) - 1 else [])
    return (*ends[0], *runs, *ends[1])


def _every_nth(runs: Sequence[tuple[str, Copies]], n: int) -> list[tuple[str, Copies]]:
    """Each n-th layer of a stage as it is, the others as those that keep what they need."""
    names = [name for name, copies in runs for _ in range(int(np.max(copies)))]
    chosen = [name if (place + 1) % n == 0 else KEPT + name for place, name in enumerate(names)]
    unit: Copies = runs[0][1] * 0 if runs else 0
    return [(name, unit + len(list(same))) for name, same in groupby(chosen)]


def held_copies(stages: Sequence[Parts]) -> dict[str, Copies]:
    """How often a rank that holds these stages holds each segment."""
    found: dict[str, Copies] = {}
    for name, copies in (part for parts in stages for part in parts):
        found[name] = found.get(name, 0) + copies
    return found
