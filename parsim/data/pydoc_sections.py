"""Text classification: which part of Python's help a few words in a row are from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin
from parsim.data.labelled_text import CLASS, GIVES, SPECIAL, UNKNOWN, misfit
from parsim.data.pydoc_topics import SOURCE, paragraphs
from parsim.model.transformer import TransformerSpec

# Label by label.  Each is long, and none quotes another at length.
SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "compound statements": ("compound",),
    "special methods": ("specialnames",),
    "strings": ("string-methods", "formatstrings", "strings"),
    "collections": ("typesseq", "typesmapping"),
}
LEAST_VOCABULARY: Final = 64  # with the special tokens: enough for some words that tell one section from another
LEAST_LENGTH: Final = 4
_WORD: Final = re.compile(r"[a-z_]+")


def rows(model: TransformerSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """[CLS] and a window of words, as many windows of each section as the one with fewest has, and the number of the section.

    The vocabulary is the special tokens and the commonest words of all sections; any other word is [UNK].
    """
    words = [[word for _, text in paragraphs(topics) for word in _WORD.findall(text.lower())] for topics in SECTIONS.values()]
    counts = Counter(word for section in words for word in section)
    common = [word for word, _ in counts.most_common(model.vocab_size - len(SPECIAL))]
    number = {word: index for index, word in enumerate((*SPECIAL, *common))}
    width = sequence_length - 1
    each = min(len(section) for section in words) // width
    windows = [[number.get(word, number[UNKNOWN]) for word in section[: each * width]] for section in words]
    tokens = np.full((len(SECTIONS) * each, sequence_length), number[CLASS], np.int64)
    tokens[:, 1:] = np.array(windows, np.int64).reshape(-1, width)
    return {"tokens": tokens, "text_labels": np.repeat(np.arange(len(SECTIONS)), each)}


_FIGURES: Final = f"num_labels = {len(SECTIONS)} and vocab_size = {LEAST_VOCABULARY} or more"
_MISFIT: Final = misfit(vocabulary=LEAST_VOCABULARY, labels=len(SECTIONS), length=LEAST_LENGTH)
DATASETS.register("pydoc-sections", Origin(SOURCE, f"an encoder (causal = false, head = text) with {_FIGURES}", GIVES, _MISFIT, rows))
