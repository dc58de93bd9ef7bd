"""What a pipeline rank holds: which weights of a segment are its own, and how many elements a bucket of them has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from parsim.step.sizes import Ints, Sizes
from parsim.step.structure import Structure
from parsim.step.task import Segment, Step, Weight

PARTIAL: Final = "partial_"  # and an axis: the weights whose gradients are partial sums over it


def own_weights(segment: Segment, structure: Structure) -> tuple[Weight, ...]:
    """Weights with a buffer of their own: a tied embedding is the first stage's, unless the last stage is elsewhere."""
    return tuple(w for w in segment.weights if w.owner == segment.name or "pp" in structure.axes)


def in_bucket(weight: Weight, segment: Segment, bucket: str) -> bool:
    """Whether a bucket of a step's end takes this weight."""
    if bucket.startswith(PARTIAL):
        return bucket.removeprefix(PARTIAL) in weight.gradient.partial
    if bucket == "tied":
        return weight.name == "word.weight" and segment.name in ("embedding", "head")
    return bucket in ("all", "parameters")


@dataclass(frozen=True, slots=True)
class Holding:
    """How often a pipeline rank holds each segment; one value per plan."""

    copies: Mapping[str, Ints]  # by name of the segment

    def of(self, segment: Segment) -> Ints:
        """Copies of a segment."""
        return self.copies[segment.name]


def bucket_elements(step: Step, sizes: Sizes, bucket: str, holding: Holding, part: str = "whole") -> Ints:
    """Elements of a bucket on one rank of this holding."""
    total = np.zeros(sizes.num_plans, dtype=np.int64)
    for segment in step.segments:
        total = total + holding.of(segment) * segment_elements(step, segment, sizes, bucket, part)
    return total


def segment_elements(step: Step, segment: Segment, sizes: Sizes, bucket: str, part: str = "whole") -> Ints:
    """Elements of a bucket in one copy of a segment."""
    return _elements([w for w in own_weights(segment, step.structure) if in_bucket(w, segment, bucket)], sizes, part)


def used_elements(segment: Segment, sizes: Sizes, part: str) -> Ints:
    """Elements of all weights that a segment computes with, also of one that another segment owns."""
    return _elements(segment.weights, sizes, part)


def gathered_weights(segment: Segment, structure: Structure) -> tuple[Weight, ...]:
    """Weights that ZeRO 3 gathers for a pass: all that it uses, but not again a tied embedding that stayed gathered."""
    return segment.weights if structure.reshard else own_weights(segment, structure)


def gathered_elements(segment: Segment, structure: Structure, sizes: Sizes) -> Ints:
    """Elements, padding included, of the weights that ZeRO 3 gathers for a pass."""
    return _elements(gathered_weights(segment, structure), sizes, "padded")


def _elements(weights: Iterable[Weight], sizes: Sizes, part: str) -> Ints:
    parts = (part_elements(sizes.elements(weight.sharding), sizes.degrees["dp"], part) for weight in weights)
    return sum(parts, start=np.zeros(sizes.num_plans, dtype=np.int64))


def part_elements(elements: Ints, data_parallel: Ints, part: str) -> Ints:
    """A weight is flattened and padded to a multiple of dp; each rank owns one of the equal parts (Rajbhandari et al. 2020).

    >>> [int(part_elements(np.array(10), np.array(4), part)) for part in ("whole", "shard", "padded")]
    [10, 3, 12]
    """
    shard = -(-elements // data_parallel)
    return {"whole": elements, "shard": shard, "padded": shard * data_parallel}[part]


def lasting_parts(zero_stage: int) -> dict[str, str]:
    """Which part of each weight lives through the whole step: its parameters, gradients and optimizer state.

    Source: Rajbhandari et al. 2020 (arXiv:1910.02054), section 5.
    """
    flat = "padded" if zero_stage else "whole"
    return {
        "parameters": "shard" if zero_stage >= 3 else flat,
        "gradients": "shard" if zero_stage >= 2 else flat,
        "optimizer": "shard" if zero_stage >= 1 else "whole",
    }
