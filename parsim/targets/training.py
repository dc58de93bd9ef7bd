"""How a job goes beside its plan, as launchers' keys say it: the optimizer's figures, what clips gradients, and how far it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final

from parsim.scenario.types import Training
from parsim.targets.entries import TOKENS, Entry, Keys, counted_figures, value_of
from parsim.targets.target import KeyValue, Setup

NORM: Final = "max_norm"
_NONE: Final[Mapping[str, float]] = {}
_NO_NORM: Final = "it clips nothing; parsim clips at training.max_norm, unless a plan says optimizer_in_backward"


def figures(names: Mapping[str, str], *, off: float = 0.0, always: bool = True, usual: Mapping[str, float] = _NONE) -> tuple[Entry, ...]:
    """An entry for each figure of `training` that a key states; `off`: what of a norm says that nothing is clipped.

    `usual`: what the launcher takes where the key is absent, of the figures for which that is not parsim's default.

    One that the plan's optimizer does not know is not written, nor without `always`, of a launcher with parsim's defaults, one of those.
    """
    return tuple(
        Entry((f"training.{name}",), partial(_write, name, key, off, always), partial(_read, name, key, usual.get(name)))
        for name, key in names.items()
    )


def _write(name: str, key: str, off: float, always: bool, setup: Setup) -> dict[str, KeyValue]:
    value = value_of(setup, f"training.{name}")
    is_meant = f"training.{name}" in counted_figures(setup) and (always or value != getattr(Training(), name))
    return {key: off if value == inf else value} if is_meant else {}


def _read(name: str, key: str, usual: float | None, keys: Keys) -> dict[str, Any]:
    value = keys.of_type(float, key, usual)
    return {} if value is None or keys.is_unresolved(key) else legal_figure(name, value, key, keys)


def legal_figure(name: str, value: float, key: str, keys: Keys) -> dict[str, Any]:
    """The figure under its name in a scenario; nothing where no scenario has such a value, which is told."""
    if name == NORM and value in (0, inf):
        keys.leave(key, _NO_NORM)
        return {}
    if not _is_within(name, value):
        keys.leave(key, f"training.{name} has no such value")
        return {}
    return {f"training.{name}": value}


def _is_within(name: str, value: float) -> bool:
    limits = Training.told[name].about
    tests = {"gt": value.__gt__, "ge": value.__ge__, "lt": value.__lt__, "le": value.__le__}
    return all(test(float(limits[each])) is True for each, test in tests.items() if each in limits)


def left_to(*names: str) -> tuple[Entry, ...]:
    """An entry for each figure that is a matter of the user's own program or data, which `notes` tells."""
    return tuple(Entry((f"training.{name}",), lambda setup: {}, assumed=True) for name in names)


def notes(setup: Setup, names: Sequence[str], where: str) -> Iterator[str]:
    """What must be said elsewhere: figures of these names that count for the plan and are not parsim's defaults."""
    usual = Training()
    for name in names:
        field = f"training.{name}"
        if field in counted_figures(setup) and (value := value_of(setup, field)) != getattr(usual, name, None):
            steps = f" ({num_steps(setup):,} steps)" if field == TOKENS else ""
            yield f"training.{name} = {value}{steps} is told by no key of it: {where}"


def usual_notes(setup: Setup, *, scheduled: bool = False) -> Iterator[str]:
    """Of a launcher with keys for the optimizer: that nobody chose the rate, what else goes on, and that data are others'."""
    if setup.training.learning_rate == Training().learning_rate:
        yield f"the rate is parsim's default, {setup.training.learning_rate:g}: state training.learning_rate, or put yours in its place"
    if scheduled:
        yield "its own schedule lets the rate rise and fall; parsim's is constant"
    yield from notes(setup, ("epochs",), "its own data say how often they are gone through")


def num_steps(setup: Setup) -> int | None:
    """The steps of the whole training; None: nobody says how far it goes."""
    tokens = value_of(setup, TOKENS)
    return None if tokens is None else tokens // setup.batch.num_tokens


def steps(key: str, tokens_of_step: Callable[[Keys], int] | None = None) -> Entry:
    """How far the training goes as steps of a key, where somebody says it; read, they are tokens if those of a step are known (not 0)."""

    def write(setup: Setup) -> dict[str, KeyValue]:
        count = num_steps(setup)
        return {} if count is None else {key: count}

    def read(keys: Keys) -> dict[str, Any]:
        return _tokens(keys, key, tokens_of_step) if tokens_of_step else _leave_steps(keys, key)

    return Entry((TOKENS,), write, read, assumed=tokens_of_step is None)


def _tokens(keys: Keys, key: str, tokens_of_step: Callable[[Keys], int]) -> dict[str, Any]:
    count, of_step = keys.like(key, 0), tokens_of_step(keys)
    if not count:
        return {}
    return {TOKENS: count * of_step} if of_step > 0 else _leave_steps(keys, key)


def _leave_steps(keys: Keys, key: str) -> dict[str, Any]:
    if key in keys:
        keys.leave(key, "training.total_tokens of a scenario are steps x tokens of a step, which nothing here says")
    return {}
