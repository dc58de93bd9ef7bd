"""Translations, against one made word by word from the source, which knows nothing of how pairs are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_models import MODELS

from parsim import data
from parsim.data import translation
from parsim.errors import ScenarioError

LENGTHS = 10, 8


def pairs() -> list[tuple[list[str], list[str]]]:
    found = data.load("translation", 0.0, 0, MODELS["translation"], *LENGTHS).train
    words = np.array(translation.VOCABULARY)
    told = []
    for source, tokens, labels in zip(found["source_tokens"], found["tokens"], found["labels"], strict=True):
        told.append((words[source[source > 0]].tolist(), words[tokens[tokens > 0]].tolist()))
        assert words[labels[labels > 0]].tolist() == [*told[-1][1][1:], "[EOS]"] and told[-1][1][0] == "[BOS]"
    return told


def translated(source: list[str]) -> list[str]:
    """By the places of articles: a phrase begins at each, and what is left between and behind them is verb and time."""
    begins = [place for place, word in enumerate(source) if word in ("the", "two")]
    phrases, others = [], []
    for begin, end in zip(begins, [*begins[1:], len(source)], strict=True):
        own = source[begin:end]
        noun = next(place for place, word in enumerate(own) if word.removesuffix("s") in translation.NOUNS)
        many = "-i" if own[0] == "two" else ""
        assert own[noun].endswith("s") == bool(many)
        stems = [translation.NOUNS[own[noun].removesuffix("s")], *(translation.ADJECTIVES[word] for word in own[1:noun])]
        phrases.append(([stem + many for stem in stems], many))
        others.append(own[noun + 1 :])
    (subject, many), (patient, _) = phrases
    ((verb,), times) = others
    return [*map(translation.TIMES.get, times), *patient, "wo", *subject, "ga", translation.VERBS[verb] + many]  # type: ignore[list-item]


def test_a_target_is_what_the_rules_make_of_its_source() -> None:
    for source, target in pairs():
        assert target[1:] == translated(source), " ".join(source)


def test_sentences_differ_and_the_longest_are_what_a_model_must_take() -> None:
    found = pairs()
    assert len({tuple(source) for source, _ in found}) == translation.NUM_SENTENCES
    assert max(len(source) for source, _ in found) == translation.SOURCE_LENGTH
    assert max(len(target) for _, target in found) == translation.TARGET_LENGTH


def test_a_source_has_the_length_of_the_longest() -> None:
    with pytest.raises(ScenarioError, match="source_length = 10 must be 8"):
        data.load("translation", 0.0, 0, MODELS["translation"], 10, 10)
