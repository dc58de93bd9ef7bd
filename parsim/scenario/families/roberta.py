"""RoBERTa and XLM-RoBERTa: BERT whose position table begins with rows that no token has, those up to the padding's.

Source: configuration_roberta.py and modeling_roberta.py (`RobertaClassificationHead`) of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import AS_HIDDEN, COUNTS, LEARNED, ConfigFamily, count, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With as many positions as tokens may have."""
    tokens = count(config, "max_position_embeddings") - count(config, "pad_token_id", 0) - 1
    if tokens < 1:
        raise ScenarioError(f"max_position_embeddings leaves no token a position behind pad_token_id = {config['pad_token_id']}")
    return {**config, "max_position_embeddings": tokens}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"position_offset": count(config, "pad_token_id", 0) + 1}


for _name, _model_type in (("Roberta", "roberta"), ("XLMRoberta", "xlm-roberta"), ("Camembert", "camembert")):
    _heads = {"MaskedLM": "masked_token", "SequenceClassification": "text", "TokenClassification": "token"}
    register(
        ConfigFamily(
            fixed={**LEARNED, "causal": False, "norm_last": True},
            counts={**COUNTS, "num_token_types": "type_vocab_size"},
            optional={},
            activation=("hidden_act", "gelu", ("gelu", "relu")),
            dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", AS_HIDDEN),
            default_dropout=0.1,
            tied=True,
            heads={f"{_name}For{task}": head for task, head in _heads.items()},
            only={"position_embedding_type": "absolute", "is_decoder": False, "problem_type": "single_label_classification"},
            left_out={"pad_token_id": 1},
            prepare=_prepare,
            more=_more,
        ),
        _model_type,
    )
