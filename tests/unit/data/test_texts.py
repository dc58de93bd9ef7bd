"""What stands in the data sets: against the originals, and against what the labels are meant to say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from dataset_models import MODELS
from msgspec.structs import replace

from parsim import data
from parsim.data import praise, pydoc_sections
from parsim.data.pydoc_topics import paragraphs


def test_digits_are_the_pixels_and_labels_of_scikit_learn_from_0_to_1() -> None:
    original = pytest.importorskip("sklearn.datasets", reason="scikit-learn (extra data) is not installed").load_digits()
    found = data.load("digits", 0.0, 0, MODELS["digits"], 1)
    assert found.num_train == 1797 and found.train["features"].max() == 1.0
    pairs = zip(found.train["features"], found.train["row_labels"][:, 0], strict=True)
    ours = Counter((image.tobytes(), int(label)) for image, label in pairs)
    theirs = zip(original.images, original.target, strict=True)
    assert ours == Counter(((image.reshape(1, 64) / 16).tobytes(), int(label)) for image, label in theirs)


def test_a_sequence_of_digits_is_so_many_images_and_a_remainder_is_left_out() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    found = data.load("digits", 0.0, 0, MODELS["digits"], 8)
    assert found.train["features"].shape == (224, 8, 64)  # 1797 = 224 x 8 + 5
    assert found.train["row_labels"].shape == (224, 8)


def test_a_label_of_the_help_topics_is_the_character_that_follows() -> None:
    found = data.load("pydoc-topics", 0.0, 0, MODELS["pydoc-topics"], 16)
    tokens, labels = found.train["tokens"], found.train["labels"]
    np.testing.assert_array_equal(tokens[:, 1:], labels[:, :-1])
    text = "\n\n".join(paragraph for _, paragraph in paragraphs()).encode("ascii", "replace")
    windows = {bytes(row.astype(np.uint8)): chr(last) for row, last in zip(tokens, labels[:, -1], strict=True)}
    for start in (0, 16 * 100, 16 * (found.num_train - 1)):
        window = text[start : start + 16]
        assert window in windows
    assert windows[text[:16]] == chr(text[16])
    assert found.num_train == (len(text) - 1) // 16


def test_no_paragraph_of_the_help_topics_comes_twice_though_topics_quote_one_another() -> None:
    from pydoc_data.topics import topics

    once = [" ".join(paragraph.split()) for _, paragraph in paragraphs()]
    assert len(once) == len(set(once))
    everything = {" ".join(p.split()) for text in topics.values() for p in text.split("\n\n")} - {""}
    assert set(once) == everything
    assert len(once) < sum(bool(p.strip()) for text in topics.values() for p in text.split("\n\n"))


def test_every_section_has_as_many_windows_as_the_others_and_they_begin_with_the_class_token() -> None:
    found = data.load("pydoc-sections", 0.0, 0, MODELS["pydoc-sections"], 16)
    counts = np.bincount(found.train["text_labels"])
    assert len(counts) == len(pydoc_sections.SECTIONS) and len(set(counts.tolist())) == 1
    assert counts[0] > 100
    assert set(found.train["tokens"][:, 0].tolist()) == {0}
    assert not np.any(found.train["tokens"][:, 1:] == 0)
    assert not np.any(found.train["token_types"])


def test_a_larger_vocabulary_leaves_fewer_words_unknown() -> None:
    shares = []
    for vocab_size in (64, 256, 10_000):
        found = data.load("pydoc-sections", 0.0, 0, replace(MODELS["pydoc-sections"], vocab_size=vocab_size), 16)
        shares.append(float(np.mean(found.train["tokens"] == 1)))
    assert shares[0] > shares[1] > shares[2] == 0.0


def sentences() -> list[tuple[list[str], int]]:
    found = data.load("praise", 0.0, 0, MODELS["praise"], 12)
    words = np.array(praise.VOCABULARY)
    rows = zip(found.train["tokens"], found.train["text_labels"], strict=True)
    return [([word for word in words[tokens] if word not in ("[CLS]", "[PAD]")], int(label)) for tokens, label in rows]


def said(words: list[str]) -> int:
    """The label by the rule of the grammar, worked out from the words: the one that is not negated decides, else the opposite."""
    label = {word: number for number, group in enumerate(praise.OPINIONS) for word in group}
    negated = [any(before == "not" for before in words[max(0, i - 2) : i]) and words[i - 1] != "but" for i in range(len(words))]
    opinions = [(label[word], turned) for word, turned in zip(words, negated, strict=True) if word in label]
    return next((number for number, turned in opinions if not turned), 1 - opinions[-1][0])


def test_the_label_of_a_sentence_is_what_its_words_say() -> None:
    assert all(said(words) == label for words, label in sentences())


def test_all_sentences_differ_and_half_of_them_praise() -> None:
    found = sentences()
    assert len(found) == len({" ".join(words) for words, _ in found}) == praise.NUM_SENTENCES
    assert abs(np.mean([label for _, label in found]) - 0.5) < 4 * 0.5 / np.sqrt(praise.NUM_SENTENCES)  # 4 standard deviations


def test_the_same_words_in_another_order_say_the_opposite_so_that_a_bag_of_words_must_err() -> None:
    # Of every bag of words that has both labels, whatever decides by the bag alone errs on the rarer.
    bags: dict[tuple[str, ...], Counter[int]] = {}
    for words, label in sentences():
        bags.setdefault(tuple(sorted(words)), Counter())[label] += 1
    errors = sum(min(count[0], count[1]) for count in bags.values())
    assert errors > 50


def test_no_word_alone_says_whether_a_sentence_praises() -> None:
    counts: dict[str, Counter[int]] = {}
    for words, label in sentences():
        for word in set(words):
            counts.setdefault(word, Counter())[label] += 1
    for word, count in counts.items():
        total = count[0] + count[1]
        # An opinion stands for itself in half of the sentences with one opinion; with two, both labels are as likely.
        limit = 5 * 0.5 / np.sqrt(total)
        assert abs(count[1] / total - 0.5) < limit, (word, count)
