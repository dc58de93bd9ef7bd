"""What is done to a micro_batch on a stage, phase by phase, with what follows from the phase alone."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Forward; the whole backward, or backward of inputs and backward of weights apart.

    >>> Phase.F.step, Phase.I.step, Phase.W.step
    (1, -1, 0)
    """

    F = "F"
    B = "B"
    I = "I"  # noqa: E741
    W = "W"

    @property
    def step(self) -> int:
        """Towards which stage its result goes: the next (1), the one before (-1), or none (0)."""
        return {"F": 1, "B": -1, "I": -1, "W": 0}[self.value]

    @property
    def accumulates(self) -> bool:
        """Whether a micro_batch's weight gradients of the stage are complete after it."""
        return self.value in "BW"
