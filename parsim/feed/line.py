"""A line of stages with bounded buffers between them, and a step at its end: when each step begins, by a recurrence.

events.py runs the same line as processes; closed forms of what is known stand in closed_forms.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class LinePassage(Struct, frozen=True):
    """When the batches of a line went into the step [ps], and how long the steps took."""

    begins_ps: tuple[int, ...]
    steps_ps: tuple[int, ...]

    def stall_ps(self, warm_up: int = 0) -> float:
        """What a step waited for its batch, the mean over all but the first, and but those of the warm-up."""
        waits = [after - begin - step for begin, step, after in zip(self.begins_ps, self.steps_ps, self.begins_ps[1:], strict=False)]
        return sum(waits[warm_up:]) / len(waits[warm_up:])


def pass_through(stages_ps: Sequence[Sequence[int]], steps_ps: Sequence[int], prefetch: int) -> LinePassage:
    """The passage of batches through stages that take so long for each, [stage][batch], into steps of their own times.

    A stage works on one batch at a time, and keeps it until one of the `prefetch` places behind it is free; the step takes its
    batch from the last ones.  Without places nothing is made while a step runs.

    Source: the recurrence of a tandem queue with finite buffers and blocking after service: Altiok 1982, EJOR 10(2), by the departures
    of each unit.

    >>> pass_through([[3, 3, 3, 3], [2, 2, 2, 2]], [4, 4, 4, 4], prefetch=1).begins_ps
    (5, 9, 13, 17)
    >>> pass_through([[3, 3, 3], [2, 2, 2]], [4, 4, 4], prefetch=0).begins_ps
    (5, 14, 23)
    """
    if not prefetch:
        return _in_turn(stages_ps, steps_ps)
    every, count = [*stages_ps, steps_ps], len(steps_ps)
    begins = [[0] * count for _ in every]  # when each begins with each batch
    leaves = [[0] * count for _ in every]  # when each lets go of it
    for batch in range(count):
        for place, taken in enumerate(every):
            ready = leaves[place - 1][batch] if place else 0
            begins[place][batch] = max(ready, leaves[place][batch - 1]) if batch else ready
            ends = begins[place][batch] + taken[batch]
            waits = place + 1 < len(every) and batch >= prefetch
            leaves[place][batch] = max(ends, begins[place + 1][batch - prefetch]) if waits else ends
    return LinePassage(tuple(begins[-1]), tuple(steps_ps))


def _in_turn(stages_ps: Sequence[Sequence[int]], steps_ps: Sequence[int]) -> LinePassage:
    now, begins = 0, []
    for *made, step in zip(*stages_ps, steps_ps, strict=True):
        begins.append(now + sum(made))
        now = begins[-1] + step
    return LinePassage(tuple(begins), tuple(steps_ps))
