"""Handwritten digits of 8 x 8 pixels, for an MLP that labels rows of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin, too_few
from parsim.errors import ParsimError
from parsim.model.families.dense import DenseSpec
from parsim.model.families.mlp import MlpSpec

NUM_FEATURES: Final = 64  # pixels
NUM_LABELS: Final = 10
_WHITEST: Final = 16.0  # a pixel counts the dots of a 4 x 4 cell


def misfit(model: MlpSpec | DenseSpec, sequence_length: int) -> str:
    """Why the model's shape does not fit, or ""."""
    if model.num_features != NUM_FEATURES:
        return f'num_features = {model.num_features} of model "{model.name}" must be {NUM_FEATURES}'
    return too_few(model, {"num_labels": NUM_LABELS})


def rows(model: MlpSpec | DenseSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """Pixels from 0 to 1 and the digits that they show; a sequence is so many images, and those that fill none are left out.

    Raises:
        ParsimError: scikit-learn is not installed.
    """
    return digit_rows(sequence_length)


def digit_rows(sequence_length: int = 1) -> Mapping[str, DataArray]:
    """The same of any model.

    Raises:
        ParsimError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ParsimError('data set "digits" needs scikit-learn', "data.name", 'Install it: pip install "parsim-llm[data]".') from None
    pixels, digits = load_digits(return_X_y=True)
    count = len(digits) // sequence_length
    features = np.asarray(pixels, np.float64)[: count * sequence_length] / _WHITEST
    labels = np.asarray(digits, np.int64)[: count * sequence_length]
    return {"features": features.reshape(count, sequence_length, NUM_FEATURES), "row_labels": labels.reshape(count, sequence_length)}


SOURCE: Final = (
    "E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository; "
    "scikit-learn, sklearn.datasets.load_digits: its 1,797 test images"
)
_TRAINS: Final = f"an MLP (family: mlp, or dense) with num_features = {NUM_FEATURES} and num_labels = {NUM_LABELS}"
DATASETS.register("digits", Origin(SOURCE, _TRAINS, ("features", "row_labels"), misfit, rows))
