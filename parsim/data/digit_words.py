"""The same digits in patches, each before its English word, letter by letter, for a vision tower before a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin, too_few
from parsim.data import digits as plain
from parsim.data.digit_images import patches_fault
from parsim.data.digit_images import rows as of_images
from parsim.model.documents import IGNORED
from parsim.model.families.vision_language import VisionLanguageSpec

BEGIN, END = "[BOS]", "[EOS]"
WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOCABULARY: Final = (BEGIN, END, *sorted({*"".join(WORDS)}))
LENGTH: Final = 1 + max(map(len, WORDS))  # the longest word, behind [BOS] or before [EOS]


def _misfit(model: VisionLanguageSpec, sequence_length: int) -> str:
    """Why the model's shape does not fit, or ""."""
    least = model.num_patches + LENGTH
    short = f"sequence_length = {sequence_length} must be at least {least}" if sequence_length < least else ""
    return patches_fault(model) or too_few(model, {"vocab_size": len(VOCABULARY)}) or short


def rows(model: VisionLanguageSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """Patches, the word behind [BOS] as tokens, and before [EOS] as labels of them; [EOS] fills all up, and no label is of an image.

    Raises:
        ParsimError: scikit-learn is not installed.
    """
    found = of_images(model, sequence_length, seed)
    number = {letter: index for index, letter in enumerate(VOCABULARY)}
    spelled = np.full((len(WORDS), sequence_length - model.num_patches + 1), number[END], np.int64)
    for row, word in zip(spelled, WORDS, strict=True):
        row[: len(word) + 1] = [number[each] for each in (BEGIN, *word)]
    texts = spelled[found["image_labels"].astype(np.int64)]
    images = np.full((len(texts), model.num_patches), IGNORED, np.int64)
    return {"patches": found["patches"], "tokens": texts[:, :-1], "labels": np.concatenate([images, texts[:, 1:]], axis=1)}


_TRAINS: Final = f"a vision-language model (family: vision_language) of such images with vocab_size = {len(VOCABULARY)} or more"
DATASETS.register("digit-words", Origin(plain.SOURCE, _TRAINS, ("patches", "tokens", "labels"), _misfit, rows))
