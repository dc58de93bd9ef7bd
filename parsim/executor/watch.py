"""What whoever started a run hears of it: the loss of each step, and checkpoints, which are complete when all ranks have written theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import replace

from parsim.executor.checkpoints import CheckpointFolder, Curve, Resumption
from parsim.executor.evaluate import Score, evaluate, whole_weights
from parsim.executor.job import RunRequest
from parsim.executor.shards import ShardFile
from parsim.executor.worker import AllSaved
from parsim_kernels import agree
from parsim_kernels.signature import Array

ShowStep = Callable[[int, float, Score | None], None]
StepTold = tuple[int, float, list[Mapping[str, Array]]]


class Start(Struct, frozen=True):
    """Whether a run goes on from a checkpoint, and from which: None: the newest."""

    resume: bool = False
    from_step: int | None = None


class Watch:
    """The ear of one run."""

    def __init__(self, run: RunRequest, folder: CheckpointFolder | None, found: Resumption, progress: ShowStep | None) -> None:
        """`run` goes on from what was `found` in the folder; the steps before are told at once."""
        self.job, self._folder, self._progress = run.job(), folder, progress
        self._curve: Curve = []
        for step, (loss, score) in enumerate(found.curve):
            self._keep(step, loss, score)

    @property
    def way_on(self) -> str:
        """What to do when the run has ended before its time."""
        there = self._folder.whole if self._folder else []
        return f"The checkpoint after step {there[-1]:,} is whole: --resume (resume=True) goes on from there." if there else ""

    def hear(self, told: StepTold | AllSaved) -> None:
        """What rank 0 reports, where ranks are processes."""
        if isinstance(told, AllSaved):
            self.on_saved(told.ended, told.shards)
        else:
            self.on_step(*told)

    def on_step(self, step: int, loss: float, by_rank: list[Mapping[str, Array]]) -> None:
        """A step has ended, with its loss, and where it is measured the weights of all ranks."""
        data = self.job.asked.data
        measured = by_rank and data and (self._progress or self._folder)
        self._keep(step, loss, evaluate(self.job, whole_weights(self.job, by_rank), data.validation) if measured and data else None)

    def on_saved(self, ended: int, shards: list[ShardFile]) -> None:
        """All ranks have written their part of a checkpoint."""
        if self._folder:
            self._folder.commit(ended, shards, self._curve[:ended])

    def _keep(self, step: int, loss: float, score: Score | None) -> None:
        self._curve.append((loss, score))
        if self._progress:
            self._progress(step, loss, score)


@contextmanager
def watch_over(run: RunRequest, transport: str, progress: ShowStep | None, start: Start) -> Iterator[Watch]:
    """The watch over a run, which has its folder of checkpoints for itself; of mpiexec's processes the first alone looks after that.

    Raises:
        CheckpointError: the folder cannot be used, or the run cannot go on from what is there.
    """
    keeping, folder, found = run.keeping, None, Resumption()
    if keeping is not None:
        opened: list[CheckpointFolder] = []

        def begin() -> Resumption:
            opened.append(CheckpointFolder(run, run.plan.num_devices))
            return opened[0].begin(resume=start.resume, from_step=start.from_step, num_steps=run.num_steps)

        try:
            found = agree(transport, begin)
        except BaseException:
            for each in opened:
                each.close()
            raise
        folder = opened[0] if opened else None
        run = replace(run, keeping=replace(keeping, start=found.ended))
    try:
        yield Watch(run, folder, found, progress)
    finally:
        if folder:
            folder.close()
