"""BERT, and Megatron-LM's: norms behind the residual adds, a table of token types, heads that label."""

from __future__ import annotations

from typing import Any, Final

from parsim.scenario.families import AS_HIDDEN, COUNTS, LEARNED, ConfigFamily, register

BERT: Final[dict[str, Any]] = {
    "fixed": {**LEARNED, "causal": False, "norm_last": True},
    "counts": {**COUNTS, "num_token_types": "type_vocab_size"},
    "optional": {},
    "activation": ("hidden_act", "gelu", ("gelu", "relu")),
    "dropouts": ("hidden_dropout_prob", "attention_probs_dropout_prob", AS_HIDDEN),
    "default_dropout": 0.1,
    "tied": True,
    "only": {"position_embedding_type": "absolute", "is_decoder": False, "problem_type": "single_label_classification"},
}


def heads(name: str) -> dict[str, str]:
    """The heads of a kind of BERT, by the architectures that have them."""
    ours = {"MaskedLM": "masked_token", "SequenceClassification": "text", "TokenClassification": "token"}
    return {f"{name}For{task}": head for task, head in ours.items()}


register(ConfigFamily(**BERT, heads=heads("Bert")), "bert")
# With norms before each branch, and none behind the embedding: modeling_megatron_bert.py of release 5.24.
_FIRST = {**BERT, "fixed": {**BERT["fixed"], "norm_last": False}}
register(ConfigFamily(**_FIRST, heads=heads("MegatronBert")), "megatron-bert")
