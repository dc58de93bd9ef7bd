"""What a stage does with a micro_batch, phase by phase, and the facts about each phase that others read instead of asking which it is."""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.StrEnum):
    """F forward, B backward; or the backward in two: I towards the inputs, which the stage below waits for, and W of the weights.

    Source: the split of B into I and W is that of Qi et al. 2023 (arXiv:2401.10241), section 1, where I is called B.

    >>> Phase.B.step, Phase.B.accumulates
    (-1, True)
    """

    step: int  # where its message goes: 1 to the stage above, -1 to the stage below, 0 nowhere
    accumulates: bool  # whether the stage's weight gradients hold the micro_batch once it has run
    words: str  # what it is called in a sentence

    def __new__(cls, value: str, step: int, accumulates: bool, words: str) -> Phase:
        """A member that is its letter, with its facts."""
        phase = str.__new__(cls, value)
        phase._value_, phase.step, phase.accumulates, phase.words = value, step, accumulates, words
        return phase

    F = "F", 1, False, "forward"
    B = "B", -1, True, "backward"
    I = "I", -1, False, "backward of inputs"  # noqa: E741
    W = "W", 0, True, "backward of weights"


WHOLE: Final = (Phase.F, Phase.B)
SPLIT: Final = (Phase.F, Phase.I, Phase.W)
