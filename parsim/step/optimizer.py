"""Optimizers: which kernel updates a weight, what states it keeps beside it, and what that moves.  One row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An update rule, and the bytes an element of all that it keeps, by role."""

    kernel: str  # of the numerical core, whose FLOPs op_kinds.COSTS states
    states: tuple[tuple[str, int], ...]  # name and bytes an element
    source: str
    master_bytes: int = 4  # of the copy of a weight that it updates, where the one that is computed with is narrower (`master_weights`)

    @property
    def state_bytes(self) -> int:
        """Bytes of all states of one element."""
        return sum(itemsize for _, itemsize in self.states)

    def kept_bytes(self, *, master_weights: bool, offload: bool) -> int:
        """Bytes an element that lie on the device."""
        return 0 if offload else self.state_bytes + (self.master_bytes if master_weights else 0)

    def moved_bytes(self, gradient_bytes: int) -> int:
        """Bytes an element that an update reads and writes: weight and states both ways, and the gradient once."""
        return 2 * (self.master_bytes + self.state_bytes) + gradient_bytes


OPTIMIZERS: Final = {
    "adamw": Optimizer("adam", (("m", 4), ("v", 4)), "Loshchilov and Hutter 2019 (arXiv:1711.05101)"),
    # The block scales, 4 bytes for each 2048 elements, are not counted.
    "adamw_8bit": Optimizer("adam", (("m", 1), ("v", 1)), "Dettmers et al. 2022 (arXiv:2110.02861), section 2"),
    "sgd_momentum": Optimizer("sgd_momentum", (("velocity", 4),), "Sutskever et al. 2013 (ICML), Eq. 1"),
}
