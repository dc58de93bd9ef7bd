"""RoBERTa and XLM-RoBERTa: BERT whose position table begins with rows that no token has, those up to the padding's.

Source: configuration_roberta.py and modeling_roberta.py (`RobertaClassificationHead`) of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import ConfigFamily, count, register
from parsim.scenario.families.bert import BERT, heads


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With as many positions as tokens may have."""
    tokens = count(config, "max_position_embeddings") - count(config, "pad_token_id", 0) - 1
    if tokens < 1:
        raise ScenarioError(f"max_position_embeddings leaves no token a position behind pad_token_id = {config['pad_token_id']}")
    return {**config, "max_position_embeddings": tokens}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"position_offset": count(config, "pad_token_id", 0) + 1}


_FIRST = {**BERT, "fixed": {**BERT["fixed"], "norm_last": False, "embedding_norm": True}}  # norms before each branch
for _name, _model_type, _own in (
    ("Roberta", "roberta", BERT),
    ("XLMRoberta", "xlm-roberta", BERT),
    ("Camembert", "camembert", BERT),
    ("Data2VecText", "data2vec-text", BERT),
    ("RobertaPreLayerNorm", "roberta-prelayernorm", _FIRST),
):
    register(ConfigFamily(**_own, heads=heads(_name), left_out={"pad_token_id": 1}, prepare=_prepare, more=_more), _model_type)
