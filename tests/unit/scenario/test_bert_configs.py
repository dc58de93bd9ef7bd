"""A config.json of a BERT as the model of a scenario: which head it has, and which labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_configs import BERT, POOLER, files
from parsim import scenario
from parsim.model.parameters import num_parameters
from parsim.model.transformer import TransformerSpec


def bert(folder: Path, architecture: str = "BertForMaskedLM", **changes: object) -> TransformerSpec:
    return scenario.load(files(folder, {**BERT, "architectures": [architecture], **changes})).model


# AutoModelForMaskedLM of 2020, which still held the pooler (a dense layer of 768): google-research/bert, pull request 1122, by vocabulary.
# bert-base-uncased has 109,482,240 with its pooler and no head: google-research/bert, issue 1225.
@pytest.mark.parametrize(("vocab_size", "published"), [(119_547, 178_565_115), (105_879, 168_054_423), (21_128, 102_880_904)])
def test_a_bert_for_masked_tokens_has_the_published_parameters_beside_a_pooler(vocab_size: int, published: int, tmp_path: Path) -> None:
    assert num_parameters(bert(tmp_path, vocab_size=vocab_size)) + POOLER == published


def test_a_bert_for_labels_is_its_encoder_and_a_row_with_a_bias_a_label(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}}
    assert num_parameters(bert(tmp_path, "BertForSequenceClassification", **labels)) == 109_482_240 + 3 * 769
    assert num_parameters(bert(tmp_path, "BertForTokenClassification", num_labels=9)) == 109_482_240 - POOLER + 9 * 769
    assert num_parameters(bert(tmp_path, "BertForTokenClassification")) == 109_482_240 - POOLER + 2 * 769


def test_the_dropout_before_the_labels_of_bert_may_be_that_of_the_rest_only(tmp_path: Path) -> None:
    assert bert(tmp_path, "BertForTokenClassification", classifier_dropout=0.1).dropout == 0.1
    (fault,) = scenario.check(files(tmp_path, {**BERT, "classifier_dropout": 0.2}))
    names = "hidden_dropout_prob, attention_probs_dropout_prob, classifier_dropout"
    assert fault.message == f"hf:models/config.json: {names} differ; one dropout for all can be read"


HEADS = "BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, f"architectures is 'BertModel', which has no head that is read; known: {HEADS}"),
        ({"architectures": []}, f"architectures is nothing, which has no head that is read; known: {HEADS}"),
        ({"architectures": None}, f"architectures is nothing, which has no head that is read; known: {HEADS}"),
        ({"architectures": [["x"]]}, f"architectures is a list, which has no head that is read; known: {HEADS}"),
        (
            {"architectures": ["BertForMaskedLM", "BertForTokenClassification"]},
            f"architectures is 'BertForMaskedLM', 'BertForTokenClassification', which has no head that is read; known: {HEADS}",
        ),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key' is not read; 'absolute' is"),
        ({"is_decoder": True}, "is_decoder = true is not read; false is"),
        ({"type_vocab_size": 0}, "type_vocab_size must be a whole number above 0, not 0"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not read; known here: relu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh"),
    ],
)
def test_a_bert_that_cannot_be_read_is_a_fault(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (fault,) = scenario.check(files(tmp_path, {**BERT, **changes}))
    assert fault.message == f"hf:models/config.json: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a"}}, "the number of labels is 1, a regression in transformers, which is not read; 2 or more are"),
        ({"num_labels": 0}, "num_labels must be a whole number above 0, not 0"),
        ({"id2label": ["a", "b"]}, "id2label must be a mapping, not a list"),
        ({"problem_type": "regression"}, "problem_type = 'regression' is not read; 'single_label_classification' is"),
    ],
)
def test_labels_that_cannot_be_read_are_a_fault(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    config = {**BERT, "architectures": ["BertForSequenceClassification"], **changes}
    (fault,) = scenario.check(files(tmp_path, config))
    assert fault.message == f"hf:models/config.json: {message}"
