"""The same digits of 8 x 8 pixels in patches, for a vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from parsim.data import DATASETS, DataArray, Origin, too_few
from parsim.data import digits as plain
from parsim.model.families.vision_language import VisionLanguageSpec
from parsim.model.families.vit import VitSpec

_SIDE: Final = 8


def patches_fault(model: VitSpec | VisionLanguageSpec) -> str:
    """Why the model does not read images of so many pixels, or ""."""
    if model.num_channels != 1 or model.num_patches * model.patch_size**2 != _SIDE**2 or _SIDE % model.patch_size:
        return f'patches of model "{model.name}" must be those of images of {_SIDE} x {_SIDE} pixels of one channel'
    return ""


def misfit(model: VitSpec, sequence_length: int) -> str:
    """Why the model's shape does not fit, or ""."""
    return patches_fault(model) or too_few(model, {"num_labels": plain.NUM_LABELS})


def rows(model: VitSpec | VisionLanguageSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """Patches from left to right and down, their pixels likewise, and the digit that each image shows.

    Raises:
        ParsimError: scikit-learn is not installed.
    """
    found, side, size = plain.digit_rows(), _SIDE // model.patch_size, model.patch_size
    pixels = found["features"].reshape(-1, side, size, side, size)
    patches = pixels.swapaxes(2, 3).reshape(len(pixels), side * side, size * size)
    return {"patches": patches, "image_labels": found["row_labels"].reshape(-1)}


_TRAINS: Final = f"a vision transformer (family: vit) of images of {_SIDE} x {_SIDE} pixels with num_labels = {plain.NUM_LABELS}"
DATASETS.register("digit-images", Origin(plain.SOURCE, _TRAINS, ("patches", "image_labels"), misfit, rows))
