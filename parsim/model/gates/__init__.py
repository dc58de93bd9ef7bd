"""What weighs the experts that a token chose, one small file each: gates as numbers, their slope, the FLOPs of both, and who is chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from parsim.errors import ParsimError
from parsim.model.loads import slot_tokens
from parsim.registry import Registry

if TYPE_CHECKING:
    import numpy as np

Numbers: TypeAlias = "np.ndarray"
_CALLED, _READ = ("weigh", "slope", "choose"), ("gates", "logits")


class GateRule(Struct, frozen=True, kw_only=True):
    """Arrays are by token and expert in their last dims; `chosen` is true where a token chose an expert.

    `weigh` gives gates from logits and `chosen`, as numpy that takes complex numbers too (`parsim verify` differentiates it so).
    `slope` gives the gradient of logits from the logits, None where `slope_reads` leaves them out, from gates and from their gradient;
    the latter is 0 for experts that a token did not choose, and gates are where they are not made again.
    """

    weigh: Callable[[Numbers, Numbers], Numbers]
    slope: Callable[[Numbers | None, Numbers, Numbers], Numbers]
    flops: int  # of `weigh`, a logit
    slope_flops: int  # of `slope`, a gate; where gates are made again, a logit
    source: str
    slope_reads: tuple[str, ...] = ("gates",)  # what is kept for it: gates, logits, or both; of logits alone gates are made again
    are_shares: bool = True  # of all that a token chose, so that a choice without a slot counts, too
    choose: Callable[[tuple[int, ...], int], tuple[int, ...]] = slot_tokens  # the token of each slot, from loads and run

    def faults(self) -> Iterator[str]:
        """What no gate can have, and what fails when both functions run."""
        yield from (f"has {name} = {value!r}, which is no function" for name in _CALLED if not callable(value := getattr(self, name)))
        for name in ("flops", "slope_flops"):
            if type(value := getattr(self, name)) is not int or value < 0:
                yield f"has {name} = {value!r}, which is no whole number of at least 0"
        if not (isinstance(self.slope_reads, tuple) and self.slope_reads and set(self.slope_reads) <= set(_READ)):
            yield f"has slope_reads = {self.slope_reads!r}, which is no tuple of {' and '.join(_READ)}, or of one of these"
        try:
            self._run()
        except Exception as error:
            yield f"fails: {type(error).__name__}: {error}; its slope gets logits only where slope_reads names them"

    def _run(self) -> None:
        """Both functions once, for 2 tokens and 2 experts."""
        import numpy as np

        logits, chosen = np.array([[0.5, 1.0], [2.0, 0.0]]), np.array([[True, False], [True, True]])
        own = self.weigh(logits, chosen)
        for found in (own, self.slope(logits if "logits" in self.slope_reads else None, own, own * chosen)):
            if np.shape(found) != logits.shape:
                raise ValueError(f"of 2 x 2 logits come numbers of shape {np.shape(found)}")


GATES: Registry[GateRule] = Registry("gate")


def gate(name: str) -> GateRule:
    """The gate of this name.

    Raises:
        ParsimError: there is none, or its fields are none that a gate can have, or its slope fails with what it says that it reads.
    """
    GATES.discover(__name__)
    return _after_a_try(GATES.get(name))


@functools.lru_cache(maxsize=64)
def _after_a_try(rule: GateRule) -> GateRule:
    """The rule itself: asked where it is used, since to run it takes numpy, which a check of a scenario does without."""
    if said := next(rule.faults(), ""):
        raise ParsimError(f"a gate {said}", remedy=f"Mend the file whose gate has source {rule.source!r}.")
    return rule


def names() -> tuple[str, ...]:
    """All known gates, sorted.

    >>> names()
    ('expert_choice', 'own_sigmoid', 'pre_softmax', 'sigmoid', 'softmax')
    """
    GATES.discover(__name__)
    return GATES.names()
