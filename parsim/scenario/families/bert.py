"""BERT: norms behind the residual adds, a table of token types, heads that label."""

from __future__ import annotations

from parsim.scenario.families import AS_HIDDEN, COUNTS, LEARNED, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**LEARNED, "causal": False, "norm_last": True},
        counts={**COUNTS, "num_token_types": "type_vocab_size"},
        optional={},
        activation=("hidden_act", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", AS_HIDDEN),
        default_dropout=0.1,
        tied=True,
        heads={"BertForMaskedLM": "masked_token", "BertForSequenceClassification": "text", "BertForTokenClassification": "token"},
        only={"position_embedding_type": "absolute", "is_decoder": False, "problem_type": "single_label_classification"},
    ),
    "bert",
)
