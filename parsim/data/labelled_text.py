"""What the data sets share that put a label on a whole text: the tokens with a meaning of their own, and which models fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parsim.data import too_few
from parsim.model.transformer import TransformerSpec

CLASS, UNKNOWN, PADDING = "[CLS]", "[UNK]", "[PAD]"
# The label is read from the first token, which is the same in all texts: Devlin et al. 2019 (arXiv:1810.04805), section 3.
SPECIAL: Final = (CLASS, UNKNOWN, PADDING)
GIVES: Final = ("tokens", "text_labels")


def misfit(*, vocabulary: int, labels: int, length: int) -> Callable[[TransformerSpec, int], str]:
    """The function that says why a model does not fit a data set of so many tokens and labels in sequences of at least `length`, or ""."""

    def why(model: TransformerSpec, sequence_length: int) -> str:
        if model.causal:
            return f'model "{model.name}" has causal = true, so its first token sees no other'
        short = f"sequence_length = {sequence_length} must be at least {length}" if sequence_length < length else ""
        return too_few(model, {"vocab_size": vocabulary, "num_labels": labels}) or short

    return why
