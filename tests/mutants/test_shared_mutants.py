"""What prediction and execution share: a fault in it is believed by both, so each needs a witness of its own, and each mutant here meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from parsim.cost import count
from parsim.step import lower, program
from parsim.step.optimizer import Optimizer
from parsim.step.task import Task
from parsim.verify import verify_plan
from support import STACKS, with_features

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    """What is lowered is cached; a mutant must neither find an old Step nor leave one behind."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    for cached in (lower.lower, program.receive_tasks, program.send_tasks, program.section):
        cached.cache_clear()


def red(features: tuple[str, ...], stack: int) -> set[str]:
    with np.errstate(all="ignore"):
        return {each.quantity for each in verify_plan(*with_features(features, STACKS[stack]), "toy") if not each.ok}


def _twice_the_hbm_bytes(patch: pytest.MonkeyPatch) -> None:
    right = count.hbm_bytes
    patch.setattr(count, "hbm_bytes", lambda *args: 2 * right(*args))


def _a_megabyte_an_element(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Optimizer, "moved_bytes", lambda self, gradient_bytes: 10**6)


def _frees_at_the_end_of_a_pass(patch: pytest.MonkeyPatch) -> None:
    right = lower.with_frees

    def with_frees(tasks, keep, entering):  # type: ignore[no-untyped-def]
        return _at_the_end(right(tasks, keep, entering))

    patch.setattr(lower, "with_frees", with_frees)


def _at_the_end(tasks: Sequence[Task]) -> tuple[Task, ...]:
    every = tuple(name for task in tasks for name in task.frees)
    bare = [replace(task, frees=()) for task in tasks]
    return (*bare[:-1], *(replace(task, frees=every) for task in bare[-1:]))


VERIFIED: dict[str, tuple[Patch, tuple[str, ...], int, str]] = {
    "HBM bytes twice": (_twice_the_hbm_bytes, ("dp",), 0, "HBM bytes"),
    "an update moves a megabyte an element": (_a_megabyte_an_element, ("dp",), 0, "HBM bytes"),
    "frees at the end of a pass": (_frees_at_the_end_of_a_pass, ("pp",), 0, "frees"),
}


@pytest.mark.parametrize(("mutate", "features", "stack", "quantity"), VERIFIED.values(), ids=VERIFIED)
def test_verify_notices(mutate: Patch, features: tuple[str, ...], stack: int, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not red(features, stack)
    _forget()
    mutate(monkeypatch)
    assert quantity in red(features, stack)
