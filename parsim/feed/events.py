"""The same line by events: a process for each stage and one for the steps, with bounded buffers between them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from parsim.feed.line import LinePassage


class _Places:
    """Where batches wait behind a stage."""

    def __init__(self, env: Any, room: int) -> None:
        self.env, self.room, self.held = env, room, 0
        self.taker: Any = None  # events of who waits
        self.giver: Any = None

    def put(self) -> Generator[Any, None, None]:
        """Lay a batch down, once there is a place."""
        if self.held == self.room:
            self.giver = self.env.event()
            yield self.giver
            self.giver = None
        self.held += 1
        if self.taker is not None and not self.taker.triggered:
            self.taker.succeed()

    def take(self) -> Generator[Any, None, None]:
        """Take a batch up, once there is one."""
        if not self.held:
            self.taker = self.env.event()
            yield self.taker
            self.taker = None
        self.held -= 1
        if self.giver is not None and not self.giver.triggered:
            self.giver.succeed()


def play(stages_ps: Sequence[Sequence[int]], steps_ps: Sequence[int], prefetch: int) -> LinePassage:
    """The passage of batches through the stages into the steps; arguments as in `line.pass_through`, which gives the same.

    >>> play([[3, 3, 3, 3], [2, 2, 2, 2]], [4, 4, 4, 4], prefetch=1).begins_ps
    (5, 9, 13, 17)
    """
    import simpy  # imported here: the command line must start without it

    env, begins = simpy.Environment(), list[int]()
    if not prefetch:
        env.process(_alone(env, stages_ps, steps_ps, begins))
    else:
        places = [_Places(env, prefetch) for _ in stages_ps]
        for index, taken in enumerate(stages_ps):
            env.process(_stage(env, taken, places[index - 1] if index else None, places[index]))
        env.process(_steps(env, steps_ps, places[-1], begins))
    env.run()
    return LinePassage(tuple(begins), tuple(steps_ps))


def _stage(env: Any, taken: Sequence[int], before: _Places | None, behind: _Places) -> Generator[Any, None, None]:
    for each in taken:
        if before is not None:
            yield from before.take()
        yield env.timeout(each)
        yield from behind.put()


def _steps(env: Any, steps_ps: Sequence[int], before: _Places, begins: list[int]) -> Generator[Any, None, None]:
    for each in steps_ps:
        yield from before.take()
        begins.append(env.now)
        yield env.timeout(each)


def _alone(env: Any, stages_ps: Sequence[Sequence[int]], steps_ps: Sequence[int], begins: list[int]) -> Generator[Any, None, None]:
    for *made, step in zip(*stages_ps, steps_ps, strict=True):
        for each in made:
            yield env.timeout(each)
        begins.append(env.now)
        yield env.timeout(step)
