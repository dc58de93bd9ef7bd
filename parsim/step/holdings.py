"""What a pipeline rank holds: which weights of a segment are its own, and how many elements a bucket of them has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsim.step.sizes import Ints, Sizes
from parsim.step.structure import Structure
from parsim.step.task import Segment, Step, Weight


def own_weights(segment: Segment, structure: Structure) -> tuple[Weight, ...]:
    """Weights with a buffer of their own: a tied embedding is the first stage's, unless the last stage is elsewhere."""
    return tuple(w for w in segment.weights if w.owner == segment.name or "pp" in structure.axes)


def in_bucket(weight: Weight, segment: Segment, bucket: str) -> bool:
    """Whether a bucket of a step's end takes this weight."""
    if bucket == "partial_tp":
        return "tp" in weight.gradient.partial
    if bucket == "tied":
        return weight.name == "word.weight" and segment.name in ("embedding", "head")
    return bucket in ("all", "parameters")


@dataclass(frozen=True, slots=True)
class Holding:
    """How often a pipeline rank holds each segment; one value per plan."""

    embedding: Ints
    layer: Ints
    head: Ints

    def of(self, segment: Segment) -> Ints:
        """Copies of a segment."""
        return {"embedding": self.embedding, "layer": self.layer, "head": self.head}[segment.name]


def bucket_elements(step: Step, sizes: Sizes, bucket: str, holding: Holding) -> Ints:
    """Elements of a bucket on one rank of this holding."""
    total = np.zeros(sizes.num_plans, dtype=np.int64)
    for segment in step.segments:
        total = total + holding.of(segment) * segment_elements(step, segment, sizes, bucket)
    return total


def segment_elements(step: Step, segment: Segment, sizes: Sizes, bucket: str) -> Ints:
    """Elements of a bucket in one copy of a segment."""
    total = np.zeros(sizes.num_plans, dtype=np.int64)
    for weight in own_weights(segment, step.structure):
        if in_bucket(weight, segment, bucket):
            total = total + sizes.elements(weight.sharding)
    return total
