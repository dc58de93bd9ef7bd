"""EuroBERT: Llama's layers, whose tokens see one another, and logits without a layer before them.

Source: configuration_eurobert.py and modeling_eurobert.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, register

register(
    ConfigFamily(fixed={**PLAIN, "causal": False}, only=NO_BIAS, heads={"EuroBertForMaskedLM": "next_token"}),
    "eurobert",
)
