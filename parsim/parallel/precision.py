"""Precision recipes: what a step's tensors are stored as, and what its matmuls multiply in.  One row each; a batch names one."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from parsim.errors import ParsimError, did_you_mean
from parsim.model.dims import COMPUTE, GRADIENT, MASTER, MATMUL

STORED: Final = (COMPUTE, GRADIENT, MASTER)  # roles of what a recipe stores; those of other tensors have fixed bytes


@dataclass(frozen=True, slots=True)
class Recipe:
    """Number formats, each a row of the catalog's dtypes."""

    stores: Mapping[str, str]  # by role of a tensor; without a master, the weights that are computed with are updated
    multiplies: Mapping[str, str]  # by role of a matmul
    source: str

    def __post_init__(self) -> None:
        """Refuse roles that no tensor and no matmul has, and a row that lacks what all need.

        Raises:
            ParsimError: there is one.
        """
        for own, known, needed in ((self.stores, STORED, COMPUTE), (self.multiplies, (MATMUL,), MATMUL)):
            if unknown := [role for role in own if role not in known]:
                said = f"unknown role '{unknown[0]}' in a precision recipe{did_you_mean(unknown[0], known)}"
                raise ParsimError(said, remedy=f"Known: {', '.join(known)}.")
            if needed not in own:
                raise ParsimError(f"a precision recipe lacks role '{needed}'", remedy=f"State a dtype of '{needed}'.")

    @property
    def has_master(self) -> bool:
        """Whether the optimizer keeps a copy of each weight that it updates."""
        return MASTER in self.stores

    def without_peak(self, peaks: Container[str]) -> str:
        """The first dtype of its matmuls that an accelerator of these peaks does not multiply; "" where it multiplies all."""
        return next((dtype for dtype in self.multiplies.values() if dtype not in peaks), "")


# What the software of all catalog stacks does: 16-bit formats with a copy of the weights in float32.
_MIXED: Final = "Micikevicius et al. 2018 (arXiv:1710.03740), section 3.1"
RECIPES: Final = {
    "fp32": Recipe({COMPUTE: "fp32"}, {MATMUL: "fp32"}, "IEEE 754 binary32 throughout"),
    "tf32": Recipe({COMPUTE: "fp32"}, {MATMUL: "tf32"}, "NVIDIA A100 white paper: fp32 in memory, 19 bits in the multiplier"),
    "bf16": Recipe({COMPUTE: "bf16", MASTER: "fp32"}, {MATMUL: "bf16"}, _MIXED),
    "bf16_pure": Recipe({COMPUTE: "bf16"}, {MATMUL: "bf16"}, "meta-pytorch/torchtune, recipes/full_finetune_single_device.py: dtype bf16"),
    "fp16": Recipe({COMPUTE: "fp16", MASTER: "fp32"}, {MATMUL: "fp16"}, _MIXED),
}

# Not built: matmuls of these keep weights, gradients and activations in a wider dtype, and quantise what they multiply.
# Source: Micikevicius et al. 2022 (arXiv:2209.05433), section 3; NVIDIA Transformer Engine, user guide: FP8 and NVFP4.
MATMULS_ONLY: Final = ("fp8", "nvfp4")
