"""Under which names a rank's memory holds buffers.

An activation's name carries the copy of its segment and the micro_batch: `layer3/0/norm1`; a weight's the copy only.  `w.flat` is a weight
flattened and padded, of which `w` is a view, and `w.shard` the rank's own part: a view too, or a buffer of its own where the whole does
not last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from parsim.executor.job import Copy, Job
from parsim.model.op import COUNT
from parsim.parallel.optimizer import OUTER_OPTIMIZERS
from parsim.step.gradient import part_of
from parsim.step.step import Segment
from parsim.step.structure import Structure
from parsim.step.task import Bucket, Part, Weight

SUFFIX: dict[Part, str] = {"whole": "", "padded": ".flat", "shard": ".shard", "scale": ""}
PREFIX = {"parameters": "", "gradients": "d_", "states": "", "temporaries": "t_", "quantised": "", "steers": "", "choices": COUNT}
BEHIND = {"masters": ".master", **{state: f".{state}" for outer in OUTER_OPTIMIZERS.values() for state in outer.states}}
PREFIX |= dict.fromkeys(BEHIND, "")
NORM = "gradient_norm"
SCALES = ("@scales", "@scales_of_scales")  # of a matrix in 4 bits, behind its name; the latter with double quantisation


class Scope(Struct, frozen=True):
    """The copies that a task speaks of: the present one with its micro_batch, and the one that runs next."""

    copy: Copy
    stage: int
    micro_batch: int
    lasting: Mapping[str, str]  # of the present copy: see lasting_names
    ahead: Copy | None = None

    def full(self, name: str) -> str:
        """The name of a buffer of the present copy; what passes by is its stage's, and what a bucket is waited for by nobody's."""
        if name in PREFIX:
            return name
        if found := self.lasting.get(name):
            return found
        instance, segment = self.copy
        where = f"stage{self.stage}" if segment.beside and any(name == each.name for each in segment.passing) else instance
        return f"{where}/{self.micro_batch}/{name}"

    def owners(self, bucket: Bucket) -> list[tuple[str, Weight]]:
        """Each weight of a bucket with the copy whose buffer it is."""
        instance, segment = self.ahead if bucket.ahead and self.ahead else self.copy
        return [(owner(instance, segment, weight), weight) for weight in bucket.of(segment.name)]


class RankScope(Struct, frozen=True):
    """All copies that a rank holds: what the end of a step speaks of."""

    copies: Sequence[Copy]

    def full(self, name: str) -> str:
        """A buffer of the step's end bears its own name."""
        return name

    def owners(self, bucket: Bucket) -> list[tuple[str, Weight]]:
        """Each weight of a bucket with the copy whose buffer it is."""
        return [(instance, weight) for instance, segment in self.copies for weight in bucket.of(segment.name)]


def owner(instance: str, segment: Segment, weight: Weight) -> str:
    """The copy whose buffer a weight is; a segment that owns another's stands once, under its own name."""
    return instance if weight.owner == segment.name else weight.owner


def lasting_names(instance: str, segment: Segment, structure: Structure) -> dict[str, str]:
    """The full names of a copy's weights, their gradients and totals, by the names that tasks use."""
    found = {total.name: f"{instance}/{total.name}" for total in segment.totals}
    for weight in segment.weights:
        lasting = [*weight.lasting, *([part_of(weight.name)] if structure.narrow_gradients else [])]
        found.update((name, f"{owner(instance, segment, weight)}/{name}") for name in lasting)
    return found


def scales_of(name: str, job: Job) -> tuple[str, ...]:
    """The buffers of the scales of a matrix in 4 bits."""
    return tuple(name + each for each in SCALES[: 1 + job.spec.tuning.double_quantization])


def suffix(weight: Weight, part: Part) -> str:
    """What ends the name of a part of a weight; one that nobody else holds is its own only part."""
    return SUFFIX[part] if weight.group.axes else ""


def buffers(owners: Iterable[tuple[str, Weight]], bucket: Bucket, part: Part) -> tuple[str, ...]:
    """The buffers of a bucket's weights, in one part of each."""
    behind = BEHIND.get(bucket.role)  # of which a rank has its own part alone
    return tuple(
        f"{instance}/{PREFIX[bucket.role]}{weight.name}{bucket.layout}{suffix(weight, part) if behind is None else behind}"
        for instance, weight in owners
    )


def own_weights_of(copies: Sequence[Copy]) -> Iterator[tuple[str, Weight]]:
    """The weights that have a buffer of their own among these copies, in order, each with its copy."""
    yield from ((instance, weight) for instance, segment in copies for weight in segment.own_weights)


def is_told(job: Job, weight: Weight) -> bool:
    """Whether a rank can say what a weight is: not of one that is not trained, and lasts in a narrow format alone."""
    return weight.trained or not (weight.narrow_rows and job.step.structure.narrow_alone)


def trained_weights_of(copies: Sequence[Copy]) -> Iterator[tuple[str, Weight]]:
    """Those of them that are trained."""
    return (each for each in own_weights_of(copies) if each[1].trained)
