"""Next-token prediction on the text of Python's help topics; a token is a character."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin, too_few
from parsim.data.pydoc_text import SOURCE, paragraphs
from parsim.model.transformer import TransformerSpec

NUM_TOKENS: Final = 128  # ASCII; any other character is read as "?"


def misfit(model: TransformerSpec, sequence_length: int) -> str:
    """Why the model does not fit, or ""."""
    if not model.causal or model.head != "next_token":
        return f'model "{model.name}" has head = {model.head} and causal = {str(model.causal).lower()}'
    return too_few(model, {"vocab_size": NUM_TOKENS})


def rows(model: TransformerSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """Windows of the text, one behind the other, and the character that follows each of theirs; the remainder is left out."""
    text = "\n\n".join(paragraph for _, paragraph in paragraphs())
    tokens = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64)
    count = (len(tokens) - 1) // sequence_length
    used = count * sequence_length
    return {"tokens": tokens[:used].reshape(count, sequence_length), "labels": tokens[1 : used + 1].reshape(count, sequence_length)}


DATASETS.register(
    "pydoc-topics",
    Origin(
        SOURCE, f"a decoder (causal = true, head = next_token) with vocab_size = {NUM_TOKENS} or more", ("tokens", "labels"), misfit, rows
    ),
)
