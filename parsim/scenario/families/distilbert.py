"""DistilBERT: BERT without token types, whose keys are its own.

Source: configuration_distilbert.py and modeling_distilbert.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import LEARNED, VOCABULARY, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**LEARNED, "causal": False, "norm_last": True},
        counts={
            **{"num_layers": "n_layers", "hidden_size": "dim", "ffn_hidden_size": "hidden_dim", "num_heads": "n_heads"},
            **{**VOCABULARY, "max_positions": "max_position_embeddings"},
        },
        optional={},
        activation=("activation", "gelu", ("gelu", "relu")),
        dropouts=("dropout", "attention_dropout"),
        default_dropout=0.1,
        tied=True,
        only={"sinusoidal_pos_embds": False},
        heads={"DistilBertForMaskedLM": "masked_token", "DistilBertForTokenClassification": "token"},
    ),
    "distilbert",
)
