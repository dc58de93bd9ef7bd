"""The roles of a sentence, against a reading of its words from left to right that knows nothing of the grammar's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from dataset_models import MODELS

from parsim import data
from parsim.data import roles

Told = tuple[list[str], list[str], int]  # words, their roles, and where the verb stands that is asked about


def sentences() -> list[Told]:
    found = data.load("roles", 0.0, 0, MODELS["roles"], 24).train
    words, told = np.array(roles.VOCABULARY), []
    for tokens, marks, labels in zip(found["tokens"], found["token_types"], found["token_labels"], strict=True):
        assert marks.sum() == 1
        length = int(np.count_nonzero(tokens))
        assert not np.any(tokens[length:]) and not np.any(labels[length:])  # padding is behind, and has no role
        told.append((words[tokens[:length]].tolist(), [roles.ROLES[label] for label in labels[:length]], int(np.argmax(marks))))
    return told


def read(clause: Sequence[str]) -> list[str]:
    """Roles as English has them: by the words before a noun, and whether the verb is in the passive."""
    found, nouns, seen_verb, passive = ["none"] * len(clause), [], False, "was" in clause
    for place, word in enumerate(clause):
        if word in roles.TIMES:
            found[place] = "time"
        elif word in (*roles.VERBS, *roles.GIFTS):
            found[place], seen_verb = "predicate", True
        elif word in roles.PEOPLE:
            before = clause[place - 2] if place > 1 else ""
            nouns.append((place, {"by": "agent", "to": "recipient"}.get(before, "object" if seen_verb else "subject")))
    objects = [place for place, role in nouns if role == "object"]
    for place, role in nouns:
        if role == "subject":
            role = "patient" if passive else "agent"
        elif role == "object":  # of two, whoever gets it stands first
            role = "recipient" if len(objects) == 2 and place == objects[0] else "patient"
        found[place - 1 : place + 1] = [role, role]
    return found


def test_roles_are_what_the_words_say_for_the_verb_that_is_marked() -> None:
    for words, told, mark in sentences():
        cut = words.index("while")
        own = slice(0, cut) if mark < cut else slice(cut + 1, len(words))
        expected = ["none"] * len(words)
        expected[own] = read(words[own])
        assert told == expected, " ".join(words)


def test_the_first_person_of_a_clause_is_as_often_one_who_acts_as_not_so_that_places_do_not_tell() -> None:
    firsts = Counter(role for _, told, _ in sentences() for before, role in pairwise(["none", *told]) if before == "none" != role)
    assert set(firsts) >= {"agent", "patient"}
    assert 0.3 < firsts["agent"] / (firsts["agent"] + firsts["patient"]) < 0.8


def test_sentences_differ_and_their_longest_is_what_a_model_must_take() -> None:
    found = sentences()
    assert len({(*words, mark) for words, _, mark in found}) == roles.NUM_SENTENCES
    assert max(len(words) for words, _, _ in found) == roles.LEAST_LENGTH
