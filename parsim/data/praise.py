"""Sentences of a small grammar that praise or fault something; the same words in another order may say the opposite.

sentence = subject verb opinion
opinion  = [degree] word             its word decides
         | "not" [degree] word       the opposite of its word
         | "not" word "but" word     the second word decides, and the first says the opposite
         | word "," "not" word       the first word decides, and the second says the opposite
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin
from parsim.data.labelled_text import CLASS, GIVES, PADDING, SPECIAL, misfit
from parsim.model.transformer import TransformerSpec

# By label: 0 faults, 1 praises.
OPINIONS: Final = (("dull", "slow", "clumsy", "bland", "weak", "noisy"), ("good", "clever", "moving", "fresh", "lovely", "funny"))
SUBJECTS: Final = ("the film", "the book", "the song", "the plot", "the ending", "the cast", "this play", "this story")
VERBS: Final = ("was", "is", "seemed", "felt")
DEGREES: Final = ("", "really", "quite", "rather")
VOCABULARY: Final = tuple(
    dict.fromkeys(
        (*SPECIAL, "not", "but", ",", *VERBS, *DEGREES[1:], *OPINIONS[0], *OPINIONS[1], *(w for s in SUBJECTS for w in s.split()))
    )
)
NUM_SENTENCES: Final = 4000
LEAST_LENGTH: Final = 8  # [CLS] and the longest sentence: subject 2, verb 1, "not" word "but" word 4


def sentence(rng: np.random.Generator) -> tuple[str, int]:
    """A sentence with its label; both labels and the four forms of an opinion are equally likely."""

    def one_of(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    label, form = int(rng.integers(2)), int(rng.integers(4))
    says, says_not = one_of(OPINIONS[label]), one_of(OPINIONS[1 - label])
    degree = one_of(DEGREES)
    opinion = (f"{degree} {says}", f"not {degree} {says_not}", f"not {says_not} but {says}", f"{says} , not {says_not}")[form]
    return " ".join(f"{one_of(SUBJECTS)} {one_of(VERBS)} {opinion}".split()), label


def rows(model: TransformerSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """[CLS], a sentence and [PAD] up to sequence_length, which no mask hides; 4,000 sentences drawn from the seed, all different."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, int] = {}
    while len(drawn) < NUM_SENTENCES:
        text, label = sentence(rng)
        drawn[text] = label
    number = {word: index for index, word in enumerate(VOCABULARY)}
    tokens = np.full((NUM_SENTENCES, sequence_length), number[PADDING], np.int64)
    for row, text in zip(tokens, drawn, strict=True):
        written = [number[word] for word in (CLASS, *text.split())]
        row[: len(written)] = written
    return {"tokens": tokens, "text_labels": np.array(list(drawn.values()), np.int64)}


_SOURCE: Final = "made up for parsim: the grammar and the words of its file, drawn from the scenario's seed"
_TRAINS: Final = f"an encoder (causal = false, head = text) with num_labels = 2 and vocab_size = {len(VOCABULARY)} or more"
_MISFIT: Final = misfit(vocabulary=len(VOCABULARY), labels=2, length=LEAST_LENGTH)
DATASETS.register("praise", Origin(_SOURCE, _TRAINS, GIVES, _MISFIT, rows))
