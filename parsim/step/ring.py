"""Ring attention: blocks of keys and values go round the ranks of a sequence while each attends to the block at hand.

A kernel of attention whose keys lie over an axis becomes a turn for each rank.  Backward, what a rank adds to the gradients of a block goes
round with the block, and home at last.
Source: Liu et al. 2023 (arXiv:2310.01889), section 3; NVIDIA/TransformerEngine, context_parallel.py (AttnFuncWithCPAndKVP2P).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import KEYS
from parsim.parallel.group import Group
from parsim.step.task import COMPUTE_STREAM, RING, Collective, Compute, Operand, Task

TURNS: Final = "turns"  # the attribute that says how far the keys at hand have come


def with_turns(tasks: Iterable[Task], num_ranks: int) -> list[Task]:
    """The tasks, with attention in so many turns where its keys lie over an axis; all of them for 1 rank."""
    found: list[Task] = []
    for task in tasks:
        if num_ranks == 1 or not isinstance(task, Compute) or not task.kernel.startswith("flash_attention"):
            found.append(task)
        else:
            found += _Ring.of(task, num_ranks).backward() if task.kernel.endswith("_grad") else _Ring.of(task, num_ranks).forward()
    return found


class _Ring(Struct, frozen=True):
    """One kernel of attention and its ring."""

    task: Compute
    operands: tuple[Operand, ...]
    group: Group
    num_ranks: int

    @classmethod
    def of(cls, task: Compute, num_ranks: int) -> _Ring:
        operands = tuple(each for each in task.inputs if isinstance(each, Operand))
        keys = operands[1].sharding
        return cls(task, operands, Group(next(axes for dim, axes in zip(keys.dims, keys.axes, strict=True) if dim in KEYS)), num_ranks)

    def forward(self) -> Iterator[Task]:
        """The kernel, and one for each further block that merges its result with those before."""
        (queries, *block), results = self.operands[:3], self.results  # sinks, if there are any, take part in the first turn only
        for turns in range(self.num_ranks):
            yield from self.pass_on(block, turns)
            if turns:
                yield self.kernel(turns, "flash_attention_more", (*results, queries, *self.after(block, turns)), results, in_place=True)
            else:
                yield self.task

    def backward(self) -> Iterator[Task]:
        """The gradients of queries add up here, those of a block on its way."""
        (queries, *block), others = self.operands[:3], self.operands[3:]
        d_queries, *own = self.results
        for turns in range(self.num_ranks):
            yield from self.pass_on(block, turns)
            totals = made = [d_queries, *self.after(own, turns)]
            if turns:
                yield from self.moves(self.after(own, turns - 1), totals[1:], RING)
                made = [replace(each, name=f"{each.name}@part~{turns}") for each in self.results]
            yield self.kernel(turns, self.task.kernel, (queries, *self.after(block, turns), *others), made)
            for total, part in zip(totals, made, strict=True) if turns else ():
                yield Compute(f"{self.task.name}.add~{turns}", "add", (total, part), (total,), {}, in_place=True, tag=self.task.tag)
        yield from self.moves(self.after(own, self.num_ranks - 1), own, COMPUTE_STREAM)

    @property
    def results(self) -> list[Operand]:
        return [each for each in self.task.outputs if isinstance(each, Operand)]

    def pass_on(self, block: Sequence[Operand], turns: int) -> Iterator[Task]:
        """The next block comes while this turn's is at hand."""
        if turns + 1 < self.num_ranks:
            yield from self.moves(self.after(block, turns), self.after(block, turns + 1), RING)

    def after(self, block: Iterable[Operand], turns: int) -> list[Operand]:
        """The buffers of what was another rank's so many turns ago."""
        mark = "~d" if self.task.kernel.endswith("_grad") else "~"  # a segment may run forward once more before
        return [replace(each, name=f"{each.name}{mark}{turns}") if turns or each.name.startswith("d_") else each for each in block]

    def moves(self, sources: Iterable[Operand], targets: Iterable[Operand], stream: str) -> Iterator[Task]:
        """One rank on."""
        for source, target in zip(sources, targets, strict=True):
            yield Collective(f"{self.task.name}.shift", "shift", self.group, source, target, tag=self.task.tag, stream=stream)

    def kernel(self, turns: int, kernel: str, inputs: Sequence[Operand], outputs: Sequence[Operand], *, in_place: bool = False) -> Compute:
        attributes: Mapping[str, float | str] = {**self.task.attributes, TURNS: turns} if turns else self.task.attributes
        name = f"{self.task.name}~{turns}" if turns else self.task.name
        return replace(
            self.task, name=name, kernel=kernel, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes, in_place=in_place
        )
