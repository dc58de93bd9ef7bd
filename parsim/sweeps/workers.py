"""Who answers: this process, processes of its own, or any executor; in chunks of about half a second, so that little is ever lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from math import ceil
from typing import Any, Final

from parsim.errors import ParsimError
from parsim.sweeps.chunk import SweepQuestion, answer
from parsim.sweeps.key import MODEL_VERSION

CHUNK_S: Final = 0.5  # of work, which each worker loses at most where a sweep is killed
_FIRST: Final = 8  # questions of a chunk while nobody knows how long they take, and by how much a chunk grows at most


@contextmanager
def open_executor(executor: Executor | None, workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor, and how many chunks it is given at a time: as asked, or this process where nothing is.

    Raises:
        ParsimError: fewer than no workers are asked for.
    """
    if workers < 0:
        raise ParsimError(f"workers = {workers} is below 0", remedy="Ask for 0, which is this process alone, or more.")
    if executor:
        yield executor, workers or os.cpu_count() or 1
    elif workers:
        context = multiprocessing.get_context("spawn")  # no copy of threads and locks
        pool = ProcessPoolExecutor(workers, context, initializer=_serve)
        try:
            yield pool, workers
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        yield _Here(), 1


def chunks(executor: Executor, questions: Sequence[tuple[str, SweepQuestion]], width: int) -> Iterator[list[tuple[str, str]]]:
    """The (key, result) pairs of each chunk that is finished; `width` of them are under way at a time.

    Raises:
        ParsimError: a worker ended before its chunk.
    """
    queue, each_s = deque(questions), CHUNK_S / _FIRST
    pending: dict[Future[tuple[list[str], float]], list[tuple[str, SweepQuestion]]] = {}
    try:
        while queue or pending:
            while queue and len(pending) < width:
                size = min(max(1, round(CHUNK_S / each_s)), ceil(len(queue) / width))
                chunk = [queue.popleft() for _ in range(size)]
                pending[executor.submit(answer, [question for _, question in chunk], CHUNK_S, MODEL_VERSION)] = chunk
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                chunk = pending.pop(future)
                results, seconds = future.result()
                queue.extendleft(reversed(chunk[len(results) :]))  # what its time was not enough for
                each_s = max(seconds / len(results), each_s / _FIRST)
                yield [(key, result) for (key, _), result in zip(chunk, results, strict=False)]
    except BrokenExecutor:
        what = "a worker ended before its work, perhaps for want of memory"
        raise ParsimError(what, remedy="Run it again: what was finished is kept where there is a cache.") from None
    finally:
        for future in pending:
            future.cancel()


class _Here(Executor):
    """This process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """What the function returned."""
        future = Future[Any]()
        future.set_result(fn(*args, **kwargs))
        return future


def _serve() -> None:
    """A worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
