"""What weighs the experts that a token chose, one small file each: gates as numbers, their slope, the FLOPs of both, and who is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from parsim.model.loads import slot_tokens
from parsim.registry import Registry

if TYPE_CHECKING:
    import numpy as np

Numbers: TypeAlias = "np.ndarray"


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


GATES: Registry[GateRule] = Registry("gate")


def gate(name: str) -> GateRule:
    """The gate of this name.

    Raises:
        ParsimError: there is none.
    """
    GATES.discover(__name__)
    return GATES.get(name)


def names() -> tuple[str, ...]:
    """All known gates, sorted.

    >>> names()
    ('expert_choice', 'own_sigmoid', 'pre_softmax', 'sigmoid', 'softmax')
    """
    GATES.discover(__name__)
    return GATES.names()
