"""Precision recipes: what a step's tensors are stored as, and what its matmuls multiply in.  One row each; a batch names one."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import accumulate, groupby
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import ParsimError, did_you_mean
from parsim.model.dims import COMPUTE, GRADIENT, LINEAR, MASTER, MATMUL, QUANTISED
from parsim.model.spec import JOINTS, Layout

STORED: Final = (COMPUTE, GRADIENT, MASTER, QUANTISED)  # roles of what a recipe stores; those of other tensors have fixed bytes


ROW, COLUMN = "@row", "@col"  # behind the name of a narrow tensor: scaled along its columns, or along its rows
LAYOUTS: Final = (ROW, COLUMN)


class Narrowing(Struct, frozen=True):
    """How what the linear layers of a model's layers multiply becomes narrow: number formats, and which elements share a scale.

    A block lies along what a GEMM sums, so a tensor that two GEMMs sum over other dims is quantised once for each; 0: all of a tensor.
    """

    forward: str  # format of activations and weights
    gradient: str  # of the gradients of outputs
    scale: str = "fp32"  # of a group: fp32, e8m0 (a power of two) or e4m3 (beside one of float32 a tensor)
    along: int = 0  # elements of a block, along the summed dims
    weight_across: int = 0  # and rows of it, of a weight
    measures: bool = False  # whether a kernel of its own looks for the largest element first
    by_row: bool = (
        False  # whether a row that a GEMM sums has a scale; then a tensor is narrow only where it is multiplied, made anew for each GEMM
    )
    wide_gradients: bool = False  # whether gradients of weights are multiplied wide; by row alone
    one_layout: bool = False  # whether the device multiplies operands however they lie, so that one scale a tensor needs no second copy

    @property
    def square(self) -> int:
        """Elements along either side of a block of a weight, which is the same in both layouts; 0: it is not, or there are none."""
        return self.along if self.along == self.weight_across else 0

    @property
    def layouts(self) -> tuple[str, ...]:
        """In which a tensor is kept that two GEMMs sum over other dims."""
        return (ROW,) if self.one_layout else LAYOUTS

    def attributes(self, *, weight: bool = False, gradient: bool = False) -> dict[str, float | str]:
        """What the kernel is told that quantises activations, weights or gradients."""
        across = 1 if self.by_row else self.weight_across if weight else 1 if self.along else 0
        return {"format": self.gradient if gradient else self.forward, "scale": self.scale, "across": across, "along": self.along}


class Recipe(Struct, frozen=True):
    """Number formats, each a row of the catalog's dtypes."""

    stores: Mapping[str, str]  # by role of a tensor; without a master, the weights that are computed with are updated
    multiplies: Mapping[str, str]  # by role of a matmul; linear layers of a model's layers as all others where left out
    source: str
    narrows: Narrowing | None = None  # what linear layers multiply; None: it is stored as they multiply it

    def __post_init__(self) -> None:
        """Refuse roles that no tensor and no matmul has, and a row that lacks what all need.

        Raises:
            ParsimError: there is one.
        """
        narrow = (QUANTISED,) if self.narrows else ()
        rows = ((self.stores, STORED, (COMPUTE, *narrow)), (self.multiplies, (MATMUL, LINEAR), (MATMUL, *((LINEAR,) if narrow else ()))))
        for own, known, needed in rows:
            if unknown := [role for role in own if role not in known]:
                said = f"unknown role '{unknown[0]}' in a precision recipe{did_you_mean(unknown[0], known)}"
                raise ParsimError(said, remedy=f"Known: {', '.join(known)}.")
            if lacking := [role for role in needed if role not in own]:
                raise ParsimError(f"a precision recipe lacks role '{lacking[0]}'", remedy=f"State a dtype of '{lacking[0]}'.")

    @property
    def has_master(self) -> bool:
        """Whether the optimizer keeps a copy of each weight that it updates."""
        return MASTER in self.stores

    def in_one_layout(self) -> Recipe:
        """The same on a device that multiplies operands however they lie; blocks of two directions stay two layouts."""
        how = self.narrows
        return replace(self, narrows=replace(how, one_layout=True)) if how and not how.along and not how.by_row else self

    def multiplied_in(self, role: str) -> str:
        """The dtype of a role of matmuls."""
        return self.multiplies.get(role, self.multiplies[MATMUL])

    def without_peak(self, peaks: Container[str]) -> str:
        """The first dtype of its matmuls that an accelerator of these peaks does not multiply; "" where it multiplies all."""
        return next((dtype for dtype in self.multiplies.values() if dtype not in peaks), "")


# What the software of all catalog stacks does: 16-bit formats with a copy of the weights in float32.
_MIXED: Final = "Micikevicius et al. 2018 (arXiv:1710.03740), section 3.1"
# Linear layers of Transformer Engine quantise what they multiply, and keep their quantised input for backward; embedding, attention scores,
# head and all else stay in bf16.
_TE: Final = "NVIDIA Transformer Engine, user guide, common API (transformer_engine.common.recipe)"

# Scales in float32, of which the fractions are 0.  Tensor parallelism gathers wide, and what backward multiplies is made of what is wide.
_ROWWISE: Final = (
    "pytorch/ao, torchao/float8/config.py (ROWWISE, ROWWISE_WITH_GW_HP) and float8_linear.py (save_for_backward of input_hp); "
    "pytorch/torchtitan, torchtitan/models/llama3/infra/parallelize.py: 'float8 all-gather with TP is only supported for tensorwise'"
)


def _linear_layers(dtype: str, source: str, narrows: Narrowing) -> Recipe:
    """A recipe whose linear layers multiply a narrow dtype, beside bf16 and weights in float32."""
    stores, multiplies = {COMPUTE: "bf16", MASTER: "fp32", QUANTISED: dtype}, {MATMUL: "bf16", LINEAR: dtype}
    return Recipe(stores, multiplies, source, narrows)


RECIPES: Final = {
    "fp32": Recipe({COMPUTE: "fp32"}, {MATMUL: "fp32"}, "IEEE 754 binary32 throughout"),
    "tf32": Recipe({COMPUTE: "fp32"}, {MATMUL: "tf32"}, "NVIDIA A100 white paper: fp32 in memory, 19 bits in the multiplier"),
    "bf16": Recipe({COMPUTE: "bf16", MASTER: "fp32"}, {MATMUL: "bf16"}, _MIXED),
    "bf16_pure": Recipe({COMPUTE: "bf16"}, {MATMUL: "bf16"}, "meta-pytorch/torchtune, recipes/full_finetune_single_device.py: dtype bf16"),
    "fp16": Recipe({COMPUTE: "fp16", MASTER: "fp32"}, {MATMUL: "fp16"}, _MIXED),
    "fp8_delayed": _linear_layers("fp8", f"{_TE}: DelayedScaling, HYBRID", Narrowing("e4m3", "e5m2")),
    "fp8_current": _linear_layers("fp8", f"{_TE}: Float8CurrentScaling, HYBRID", Narrowing("e4m3", "e5m2", measures=True)),
    "fp8_rowwise": _linear_layers("fp8", _ROWWISE, Narrowing("e4m3", "e4m3", "e8m0", by_row=True)),
    # Its weights have scales by row for the gradients of inputs, too, where torchao takes one scale a matrix.
    "fp8_rowwise_gw_hp": _linear_layers("fp8", _ROWWISE, Narrowing("e4m3", "e4m3", "e8m0", by_row=True, wide_gradients=True)),
    "fp8_blockwise": _linear_layers(
        "fp8_block", f"{_TE}: Float8BlockScaling; arXiv:2412.19437", Narrowing("e4m3", "e4m3", "fp32", 128, 128)
    ),
    "mxfp8": _linear_layers("mxfp8", f"{_TE}: MXFP8BlockScaling, E4M3", Narrowing("e4m3", "e4m3", "e8m0", 32, 1)),
    "nvfp4": _linear_layers(
        "nvfp4", f"{_TE}: NVFP4BlockScaling; arXiv:2509.25149", Narrowing("e2m1", "e2m1", "e4m3", 16, 16, measures=True)
    ),
    "mxfp4": _linear_layers("mxfp4", f"{_TE}: none; OCP MX specification 1.0", Narrowing("e2m1", "e2m1", "e8m0", 32, 1)),
}

WIDE: Final = "wide_"  # and a layer's name: one whose linear layers multiply what all else does


def with_wide_ends(layout: Layout, start: int, end: int) -> Layout:
    """The layout of a model whose first and last layers stay wide, so many at each end.

    Source: NVIDIA/Megatron-LM@d98e8a64dd, megatron/core/fp8_utils.py (is_first_last_bf16_layer).

    >>> with_wide_ends((("embedding", 1), ("layer", 4), ("head", 1)), 1, 0)
    (('embedding', 1), ('wide_layer', 1), ('layer', 3), ('head', 1))
    """
    first, *middle, last = layout
    names = [name for name, copies in middle for _ in range(copies)]
    places, behind = [*accumulate(name not in JOINTS for name in names)], sum(name not in JOINTS for name in names) - end
    is_wide = [name not in JOINTS and not start < place <= behind for place, name in zip(places, names, strict=True)]
    chosen = (WIDE * wide + name for wide, name in zip(is_wide, names, strict=True))
    return first, *((name, len([*run])) for name, run in groupby(chosen)), last


NARROW_FLASH: Final = ("cudnn_fp8",)  # kernels of flash attention that read 8 bits: see step/attend.py
FP8: Final = "fp8"  # not a recipe but what a stack means by it
