"""What a user did wrong, where, and the way out.  Every error that user input can cause is a ParsimError."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from msgspec import Struct

_MOST_FAULTS = 100  # that an error says: a file of another kind is wrong in every line


class ParsimError(Exception):
    """A mistake in what the user asked for: `what` is wrong, `where` it stands, and the `remedy`; empty parts are left out.

    >>> print(ParsimError("tensor_parallel = 12 does not divide num_heads = 64", "plans.tp12", "Legal: 1, 2, 4."))
    plans.tp12: tensor_parallel = 12 does not divide num_heads = 64
      Legal: 1, 2, 4.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)  # the three arguments: so it survives pickling to and from worker processes
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.remedy}" if self.remedy else head

    @property
    def in_a_line(self) -> str:
        """What is wrong and the remedy as two sentences, for who says elsewhere where it stands.

        >>> ParsimError("2 sites without a link", "cluster", "Say what joins them.").in_a_line
        '2 sites without a link. Say what joins them.'
        """
        return f"{self.what}. {self.remedy}" if self.remedy else self.what


class UnitError(ParsimError):
    """A dimensioned value without its unit, or with a unit of something else."""


class PlanError(ParsimError):
    """A plan that does not fit its model, batch or number of devices."""


class CapacityError(ParsimError):
    """A plan that needs more memory than the device has."""


class NoFeasiblePlan(CapacityError):
    """No plan of a space fits; `ranking` says how many there were, and which comes nearest."""

    def __init__(self, what: str, where: str = "", remedy: str = "", ranking: object = None) -> None:
        super().__init__(what, where, remedy)
        self.args = (what, where, remedy, ranking)
        self.ranking = ranking


class CheckpointError(ParsimError):
    """A checkpoint that cannot be written, is damaged, or is of another run."""


class EndedRun(ParsimError):
    """A run of worker processes that ended before its last step: one died, the deadline passed, or the disk is full."""


class ScheduleError(ParsimError):
    """A pipeline schedule that deadlocks or runs an action before what it needs."""


class Fault(Struct, frozen=True):
    """One mistake of a scenario: `where` is its dotted path, `line` and `column` count from 1 (0: not from a file).

    >>> print(Fault("a.yaml", 14, 5, "plans.tp12.tensor_paralel", "unknown key (did you mean 'tensor_parallel'?)"))
    a.yaml:14:5: plans.tp12.tensor_paralel: unknown key (did you mean 'tensor_parallel'?)
    """

    path: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return ": ".join(part for part in (place, self.where, self.message) if part)


class ScenarioError(ParsimError):
    """A scenario that cannot be read: all of its faults at once, in the order of the file."""

    def __init__(self, what: str, where: str = "", remedy: str = "", faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(what, where, remedy)
        self.args = (what, where, remedy, faults)
        self.faults = faults

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> ScenarioError:
        """The error that says `faults`, one a line, and of very many how many more; it holds all."""
        found = tuple(faults)
        more = [f"and {len(found) - _MOST_FAULTS:,} more"] * (len(found) > _MOST_FAULTS)
        return cls("\n".join([*map(str, found[:_MOST_FAULTS]), *more]), faults=found)


def nearest(name: str, known: Iterable[str]) -> str:
    """The name of `known` that `name` was probably meant to be, or "".

    Each of its numbers and words stands in the other, perhaps cut short or with a typing error, and the other begins with these, since
    another number or a word more or before means another thing.

    >>> nearest("tensor_paralel", ["tensor_parallel", "pipeline_parallel"]), nearest("zebra", ["apple"])
    ('tensor_parallel', '')
    >>> nearest("qwen3-8b", ["qwen2.5-7b"]), nearest("qk_norm", ["norm"]), nearest("pipeline", ["virtual_pipeline"])
    ('', '', '')
    """
    by_lower = {each.lower(): each for each in known if _may_mean(name.lower()[:100], each.lower())}
    matches = difflib.get_close_matches(name.lower()[:100], by_lower, n=1)
    return by_lower[matches[0]] if matches else ""


def _may_mean(name: str, known: str) -> bool:
    words = _WORDS.findall(name)
    left = _WORDS.findall(known)[: len(words)]
    for word in words:
        match = next((each for each in left if _is_word(word, each)), None)
        if match is None:
            return _joined_alike(name, known)
        left.remove(match)
    return True


def _is_word(word: str, known: str) -> bool:
    if word == known or word[0].isdigit() or len(word) < 3:
        return word == known
    # One wrong letter in four, or letters in another order.
    return known.startswith(word) or word.startswith(known) or sorted(word) == sorted(known) or _alike(word, known, 0.8)


def _joined_alike(name: str, known: str) -> bool:
    """Whether they differ in little but how words are set apart."""
    return _NUMBERS.findall(name) == _NUMBERS.findall(known) and _alike(_APART.sub("", name), _APART.sub("", known), 0.9)


def _alike(name: str, known: str, least: float) -> bool:
    if 2 * min(len(name), len(known)) < least * (len(name) + len(known)):
        return False  # whatever the letters are
    matcher = difflib.SequenceMatcher(None, name, known)
    return matcher.quick_ratio() >= least and matcher.ratio() >= least


_NUMBERS, _APART = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"[\W_]")
_WORDS = re.compile(rf"[^\W\d_]+|{_NUMBERS.pattern}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text " (did you mean 'x'?)" that follows a message on the unknown `name`, or "" where nothing is near.

    >>> did_you_mean("1f1", ["1f1b", "gpipe"])
    " (did you mean '1f1b'?)"
    """
    match = nearest(name, known)
    return f" (did you mean '{match}'?)" if match else ""
