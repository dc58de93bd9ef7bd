"""Next-token prediction on the text of Python's help topics; a token is a character.

Each paragraph stands once: topics quote one another, and what is trained on may not come back later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin, too_few
from parsim.errors import ParsimError
from parsim.model.transformer import TransformerSpec

SOURCE: Final = "Python's language reference as its standard library ships it, pydoc_data.topics (text differs between versions of Python)"
NUM_TOKENS: Final = 128  # ASCII; any other character is read as "?"


def paragraphs(topics: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Topic and text of each paragraph that is not a repetition: of these topics in order, or of all by name.

    A topic that this version of Python lacks has no paragraphs.

    Raises:
        ParsimError: this Python comes without its help topics.
    """
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:
        what, remedy = "this Python comes without the module pydoc_data.topics", "Install the whole standard library."
        raise ParsimError(what, "data.name", remedy) from None
    seen: set[str] = set()
    for topic in topics or sorted(texts):
        for paragraph in texts.get(topic, "").split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                yield topic, paragraph.strip("\n")


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


_TRAINS: Final = f"a decoder (causal = true, head = next_token) with vocab_size = {NUM_TOKENS} or more"
DATASETS.register("pydoc-topics", Origin(SOURCE, _TRAINS, ("tokens", "labels"), misfit, rows))
