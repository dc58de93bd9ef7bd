"""A parallel corpus of a small grammar, for machine translation: in a source the verb stands before its object, in a target behind.

source = subject verb object [time]                    "the old farmer helped two bakers yesterday"
target = [time] object subject verb                    object and subject with their marks, the verb with the number of its subject
noun phrase: number, perhaps an adjective before the noun in the source and behind it in the target; the target's article is a mark
of case behind the noun, and its adjective and verb agree with the noun in number

So words change places, one word of the source becomes two or none, and what a verb ends in is told by a word far away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin, too_few

PADDING, BEGIN, END = "[PAD]", "[BOS]", "[EOS]"
# Each with its translation.
NOUNS: Final = {"farmer": "bova", "baker": "kelu", "singer": "miro", "girl": "tasi", "doctor": "nedo", "pilot": "rufa"}
ADJECTIVES: Final = {"": "", "old": "gam", "young": "sil", "tall": "hep"}
VERBS: Final = {"helped": "dor", "called": "vin", "watched": "zak", "praised": "lup", "followed": "jem"}
TIMES: Final = {"": "", "yesterday": "oshi", "today": "ama", "often": "uru"}
MANY: Final = "-i"  # behind whatever agrees with several
SUBJECT, OBJECT = "ga", "wo"  # marks of case
SOURCE_WORDS: Final = (PADDING, "the", "two", *NOUNS, *(f"{noun}s" for noun in NOUNS), *ADJECTIVES, *VERBS, *TIMES)
_STEMS: Final = (*NOUNS.values(), *ADJECTIVES.values(), *VERBS.values())
TARGET_WORDS: Final = (BEGIN, END, SUBJECT, OBJECT, *_STEMS, *(stem + MANY for stem in _STEMS if stem), *TIMES.values())
VOCABULARY: Final = tuple(word for word in dict.fromkeys((*SOURCE_WORDS, *TARGET_WORDS)) if word)
NUM_SENTENCES: Final = 4000
SOURCE_LENGTH: Final = 8  # two phrases of three words, verb and time
TARGET_LENGTH: Final = 9  # [BOS] or [EOS], time, two phrases of noun, adjective and mark, and the verb


def pair(rng: np.random.Generator) -> tuple[str, str]:
    """A sentence and its translation; all words are equally likely, and the nouns differ."""

    def one_of(words: Mapping[str, str]) -> tuple[str, str]:
        return [*words.items()][rng.integers(len(words))]

    phrases = []
    for noun, mark in zip(rng.permutation(len(NOUNS))[:2], (SUBJECT, OBJECT), strict=True):
        word, stem = [*NOUNS.items()][noun]
        (adjective, its_stem), many = one_of(ADJECTIVES), bool(rng.integers(2))
        end = MANY * many
        phrases.append(
            (f"{'two' if many else 'the'} {adjective} {word}{'s' * many}", f"{stem}{end} {its_stem and its_stem + end} {mark}", end)
        )
    (subject, its_subject, agrees), (patient, its_patient, _) = phrases
    (verb, its_verb), (time, its_time) = one_of(VERBS), one_of(TIMES)
    texts = f"{subject} {verb} {patient} {time}", f"{its_time} {its_patient} {its_subject} {its_verb}{agrees}"
    source, target = (" ".join(text.split()) for text in texts)
    return source, target


def rows(model: Any, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """A sentence as source_tokens, and its translation, behind [BOS] as tokens and before [EOS] as labels; [PAD] fills all up, unmasked.

    4,000 different sentences drawn from the seed; a source has as many tokens as the longest.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, str] = {}
    while len(drawn) < NUM_SENTENCES:
        drawn.update([pair(rng)])
    number = {word: index for index, word in enumerate(VOCABULARY)}

    def table(texts: list[str], length: int) -> DataArray:
        found = np.full((NUM_SENTENCES, length), number[PADDING], np.int64)
        for row, text in zip(found, texts, strict=True):
            words = text.split()
            row[: len(words)] = [number[word] for word in words]
        return found

    return {
        "source_tokens": table([*drawn], SOURCE_LENGTH),
        "tokens": table([f"{BEGIN} {text}" for text in drawn.values()], sequence_length),
        "labels": table([f"{text} {END}" for text in drawn.values()], sequence_length),
    }


def _misfit(model: Any, sequence_length: int) -> str:
    short = f"sequence_length = {sequence_length} must be at least {TARGET_LENGTH}" if sequence_length < TARGET_LENGTH else ""
    return too_few(model, {"vocab_size": len(VOCABULARY)}) or short


_SOURCE: Final = "made up for parsim: the grammar and the words of its file, drawn from the scenario's seed"
_TRAINS: Final = f"an encoder-decoder model (family: encoder_decoder) with vocab_size = {len(VOCABULARY)} or more"
DATASETS.register("translation", Origin(_SOURCE, _TRAINS, ("source_tokens", "tokens", "labels"), _misfit, rows, SOURCE_LENGTH))
