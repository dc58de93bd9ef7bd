"""Optimizers: which kernel updates a weight, what states it keeps beside it, and what that moves.  One row each."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from parsim.errors import ParsimError
from parsim.model.op_kinds import COSTS


class Optimizer(Struct, frozen=True):
    """An update rule, and the bytes an element of the states that it keeps beside the weight."""

    kernel: str  # of the numerical core, whose FLOPs op_kinds.COSTS states
    states: tuple[tuple[str, int | None], ...]  # name and bytes an element; None: as many as the weight that is updated has
    source: str
    rate_power: float = 0.5  # of the batch, with which the learning rate of a good run grows
    temporaries: bool = False  # whether it makes a tensor of each weight at once where it updates them op by op
    paged: bool = False  # the states lie in pages that the host holds, and come to the device for their update

    def __post_init__(self) -> None:
        """Refuse a kernel that is none.

        Raises:
            ParsimError: it is none.
        """
        if self.kernel not in COSTS:
            raise ParsimError(f"unknown kernel '{self.kernel}' of an optimizer", remedy="It is one of the numerical core, as 'adam' is.")

    def state_sizes(self, weight_bytes: int) -> tuple[tuple[str, int], ...]:
        """Its states, each with the bytes of an element, beside weights of so many.

        >>> OPTIMIZERS["adamw"].state_sizes(2)
        (('m', 2), ('v', 2))
        """
        return tuple((name, weight_bytes if itemsize is None else itemsize) for name, itemsize in self.states)

    def state_bytes(self, weight_bytes: int) -> int:
        """Bytes of all states of one element."""
        return sum(itemsize for _, itemsize in self.state_sizes(weight_bytes))

    def moved_bytes(self, weight_bytes: int, gradient_bytes: int) -> int:
        """Bytes an element that an update reads and writes: weight and states, unless paged, both ways, and the gradient once."""
        return 2 * (weight_bytes + (0 if self.paged else self.state_bytes(weight_bytes))) + gradient_bytes


class OuterOptimizer(Struct, frozen=True):
    """What a rank makes of the sum of all replicas' weights, and what it keeps for that beside each weight, as wide as what is updated."""

    kernel: str  # of the numerical core; it overwrites the weight, then the states
    states: tuple[str, ...]
    source: str

    @property
    def moved_per_element(self) -> int:
        """How often it reads or writes an element of what is updated: weight and states, both ways."""
        return 2 * (1 + len(self.states))


def states_role(name: str) -> str:
    """The role of all that an optimizer of this name keeps beside a weight."""
    return f"states of {name}"


# bitsandbytes keeps paged states in unified memory (cudaMallocManaged), which the driver takes from the device where torch needs the room.
_PAGED: Final = "Dettmers et al. 2023 (arXiv:2305.14314), section 3; bitsandbytes, functional.py (get_paged)"
_TORCH: Final = "PyTorch, torch/optim/adam.py: states are zeros_like the parameter, so of its dtype"
OPTIMIZERS: Final = {
    # The roots of v, of all weights before the first is updated: PyTorch, torch/optim/adamw.py (_multi_tensor_adamw, exp_avg_sq_sqrt).
    "adamw": Optimizer("adam", (("m", None), ("v", None)), f"Loshchilov and Hutter 2019 (arXiv:1711.05101); {_TORCH}", temporaries=True),
    "precision_aware_adamw": Optimizer(
        "adam",
        (("m", 2), ("v", 2)),
        "NVIDIA/Megatron-LM, megatron/core/optimizer/optimizer_config.py: use_precision_aware_optimizer with exp_avg_dtype and "
        "exp_avg_sq_dtype bf16; NVIDIA/TransformerEngine, transformer_engine/pytorch/optimizers/fused_adam.py",
    ),
    # The block scales, 4 bytes for each 2048 elements, are not counted.
    "adamw_8bit": Optimizer("adam", (("m", 1), ("v", 1)), "Dettmers et al. 2022 (arXiv:2110.02861), section 2"),
    "paged_adamw": Optimizer("adam", (("m", 4), ("v", 4)), _PAGED, paged=True),
    "paged_adamw_8bit": Optimizer("adam", (("m", 1), ("v", 1)), _PAGED, paged=True),
    "sgd_momentum": Optimizer("sgd_momentum", (("velocity", None),), f"Sutskever et al. 2013 (ICML), Eq. 1; {_TORCH}", rate_power=1),
}

ANCHOR: Final = "anchor"  # the weight that all replicas began with
LOCAL_SGD: Final = "local_sgd"  # of gradient_sync: replicas train apart for some steps
OUTER_OPTIMIZERS: Final = {
    "average": OuterOptimizer("average", (), "Stich 2018 (arXiv:1805.09767), algorithm 1"),
    "nesterov": OuterOptimizer("outer_nesterov", (ANCHOR, "outer_velocity"), "Douillard et al. 2023 (arXiv:2311.08105), algorithm 1"),
}
