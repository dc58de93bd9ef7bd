"""Sentences of two clauses of a small grammar, and what role each word has for one of the two verbs, which a token type marks.

sentence = clause "while" clause
clause   = agent verb patient | patient "was" verb "by" agent
         | agent gift recipient patient | agent gift patient "to" recipient | patient "was" gift "to" recipient "by" agent
         each with a time behind it, or none

A word's role follows from where it stands and which verb is asked about: words of the other clause have none.
Source of the roles: Palmer, Gildea and Kingsbury 2005, The Proposition Bank, sections 3.1 and 3.2 (Arg0, Arg1, Arg2, ArgM-TMP); of marking
the predicate: Shi and Lin 2019 (arXiv:1904.05255), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from parsim.data import DATASETS, DataArray, Origin
from parsim.data.labelled_text import PADDING, misfit
from parsim.model.transformer import TransformerSpec

NONE, PREDICATE, AGENT, PATIENT, RECIPIENT, TIME = range(6)  # labels; padding has no role
ROLES: Final = ("none", "predicate", "agent", "patient", "recipient", "time")
PEOPLE: Final = ("teacher", "child", "doctor", "singer", "farmer", "pilot", "baker", "writer")  # anybody does, has done, or gets, anything
VERBS: Final = ("praised", "followed", "helped", "called", "watched", "invited")
GIFTS: Final = ("offered", "handed", "promised", "assigned")
TIMES: Final = ("", "today", "yesterday", "again")
FORMS: Final = (  # words, and roles whose noun is drawn
    (VERBS, (AGENT, PREDICATE, PATIENT)),
    (VERBS, (PATIENT, "was", PREDICATE, "by", AGENT)),
    (GIFTS, (AGENT, PREDICATE, RECIPIENT, PATIENT)),
    (GIFTS, (AGENT, PREDICATE, PATIENT, "to", RECIPIENT)),
    (GIFTS, (PATIENT, "was", PREDICATE, "to", RECIPIENT, "by", AGENT)),
)
VOCABULARY: Final = (PADDING, "the", "was", "by", "to", "while", *PEOPLE, *VERBS, *GIFTS, *TIMES[1:])
NUM_SENTENCES: Final = 4000
LEAST_LENGTH: Final = 23  # twice the longest clause, of three nouns with "the", four words and a time, and "while"
_JOINS: Final = [("while", NONE)]


def clause(rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Words, each with its role for the verb of the clause; forms are equally likely, and the people differ."""
    verbs, form = FORMS[rng.integers(len(FORMS))]
    people = iter(rng.permutation(len(PEOPLE)).tolist())
    for part in form:
        if isinstance(part, str):
            yield part, NONE
        elif part == PREDICATE:
            yield verbs[rng.integers(len(verbs))], PREDICATE
        else:
            yield from (("the", part), (PEOPLE[next(people)], part))
    if time := TIMES[rng.integers(len(TIMES))]:
        yield time, TIME


def sentence(rng: np.random.Generator) -> list[tuple[str, int]]:
    """Words of two clauses with their roles for the verb of either, equally likely."""
    first, second = [*clause(rng)], [*clause(rng)]
    if rng.integers(2):
        return [*_without(first), *_JOINS, *second]
    return [*first, *_JOINS, *_without(second)]


def _without(words: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(word, NONE) for word, _ in words]


def rows(model: TransformerSpec, sequence_length: int, seed: int) -> Mapping[str, DataArray]:
    """A sentence and [PAD] up to sequence_length, which no mask hides; type 1 for the verb that is asked about.

    4,000 sentences drawn from the seed, which differ in a word or in the verb.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[tuple[str, int], ...], None] = {}
    while len(drawn) < NUM_SENTENCES:
        drawn[tuple(sentence(rng))] = None
    number = {word: index for index, word in enumerate(VOCABULARY)}
    tokens, labels = np.full((2, NUM_SENTENCES, sequence_length), NONE, np.int64)  # [PAD] is token 0
    for row, roles, words in zip(tokens, labels, drawn, strict=True):
        row[: len(words)] = [number[word] for word, _ in words]
        roles[: len(words)] = [role for _, role in words]
    return {"tokens": tokens, "token_types": (labels == PREDICATE).astype(np.int64), "token_labels": labels}


def _misfit(model: TransformerSpec, sequence_length: int) -> str:
    if model.num_token_types < 2:
        return f'num_token_types = {model.num_token_types} of model "{model.name}" must be at least 2: the second marks the verb'
    return misfit(vocabulary=len(VOCABULARY), labels=len(ROLES), length=LEAST_LENGTH)(model, sequence_length)


_SOURCE: Final = "made up for parsim: the grammar and the words of its file, drawn from the scenario's seed"
_FIGURES: Final = f"num_token_types = 2, num_labels = {len(ROLES)} and vocab_size = {len(VOCABULARY)} or more"
_TRAINS: Final = f"an encoder (causal = false, head = token) with {_FIGURES}"
DATASETS.register("roles", Origin(_SOURCE, _TRAINS, ("tokens", "token_types", "token_labels"), _misfit, rows))
