"""A block placed on the mesh (Segment), and the whole step of a structure (Step)."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from parsim.model.dims import FLOAT32
from parsim.model.op import Use
from parsim.schedules.phase import Phase
from parsim.step.structure import Structure
from parsim.step.task import Operand, Task, Weight


class PassingOperands(Struct, frozen=True):
    """A tensor that passes by segments, its gradient, where anybody asks for it, and what a segment does to it."""

    use: Use
    value: Operand
    gradient: Operand | None


class Segment(Struct, frozen=True, kw_only=True):
    """A block placed on the mesh: tasks of each phase in issue order, with the buffers that live between them.

    B is the whole backward; I and W are its parts for inputs and for weights.
    """

    name: str
    phases: Mapping[Phase, tuple[Task, ...]]
    kept: Mapping[Phase, tuple[Operand, ...]]  # alive when a phase of the segment has ended, until the next one: activations in flight
    entering: Mapping[Phase, Operand | None]  # what a phase takes from the neighbouring segment
    leaving: Mapping[Phase, Operand | None]  # what it hands on
    weights: tuple[Weight, ...]
    totals: tuple[Operand, ...]  # summed over the step
    beside: tuple[PassingOperands, ...] = ()  # what passes by
    steers: tuple[Weight, ...] = ()  # what follows such sums, with no gradient: its `gradient` says over which axes these are partial

    @property
    def sums(self) -> tuple[Operand, ...]:
        """The totals, and what follows some of them."""
        return *self.totals, *(Operand(each.name, each.sharding, FLOAT32) for each in self.steers)

    @property
    def known(self) -> tuple[Operand, ...]:
        """Activations that may be alive when one of its lists starts: kept ones, and those of its neighbours, or for them."""
        ends = (operand for side in (self.entering, self.leaving) for operand in side.values() if operand)
        return (*self.passing, *ends, *(operand for kept in self.kept.values() for operand in kept))

    @property
    def gradient_of_output(self) -> Operand | None:
        """Of what it hands on, where anybody asks for it."""
        return self.entering[Phase.B]

    @property
    def passing(self) -> tuple[Operand, ...]:
        """What passes by, and the gradients of that."""
        return tuple(operand for each in self.beside for operand in (each.value, each.gradient) if operand)

    @property
    def own_weights(self) -> tuple[Weight, ...]:
        """Those with a buffer of their own."""
        return tuple(weight for weight in self.weights if weight.owner == self.name)

    @property
    def trained_weights(self) -> tuple[Weight, ...]:
        """Those of them that are trained."""
        return tuple(weight for weight in self.own_weights if weight.trained)


class Step(Struct, frozen=True, eq=False):
    """A training step of one structure: what a rank does to a micro_batch, and once at the end.  Equal to itself only."""

    structure: Structure
    segments: Mapping[str, Segment]  # in forward order
    finish: tuple[Task, ...]  # of replicas that train apart that of the last step of a period, when they come together
    quiet: Step | None = None  # theirs in the others
