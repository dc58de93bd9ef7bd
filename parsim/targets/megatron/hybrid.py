"""Models of several kinds of layers, which Megatron Core is told as a pattern: read only, since no plan of theirs is exported.

Source: NVIDIA/Megatron-LM, megatron/core/ssm/mamba_hybrid_layer_allocation.py (Symbols) and megatron/training/arguments.py;
NVIDIA-NeMo/Megatron-Bridge@067f987d, src/megatron/bridge/models/hybrid/hybrid_provider.py, for the defaults of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.targets.entries import Entry, Keys
from parsim.targets.target import KeyValue

PATTERNS: Final = ("hybrid_layer_pattern", "hybrid_override_pattern")
OF_CLASS: Final[Mapping[str, KeyValue]] = {  # of Megatron-Bridge, where a recipe leaves them out
    **{"normalization": "RMSNorm", "add_bias_linear": False, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    **{"share_embeddings_and_output_weights": False, "position_embedding_type": "none", "num_attention_heads": 1},
}
_LATER, _STAGE = "/", "|"  # what parts the pattern of a module for a later token, and the stages of a pipeline
_FIGURES: Final = {  # figure: its key, and what it is where left out
    "mamba_heads": ("mamba_num_heads", 0),
    "mamba_head_dim": ("mamba_head_dim", 64),
    "mamba_groups": ("mamba_num_groups", 8),
    "state_size": ("mamba_state_dim", 128),
    "scan_chunk": ("mamba_chunk_size", 128),
}
_IDLE: Final = ("is_hybrid_model", "hybrid_attention_ratio", "hybrid_mlp_ratio", "use_mamba_mem_eff_path", "spec")


def entry() -> Entry:
    """The pattern and the figures of Mamba-2, last of a model's entries.

    >>> read = entry().read(Keys({"hybrid_layer_pattern": "M*ME/*E", "mamba_num_heads": 64}))
    >>> [read[f"model.{figure}"] for figure in ("pattern", "num_layers", "mamba_heads", "mtp_layers")]
    ['M*ME', 4, 64, 1]
    """
    return Entry((), lambda setup: {}, _read)


def _read(keys: Keys) -> dict[str, Any]:
    name = next((each for each in PATTERNS if each in keys), "")
    if not (pattern := keys.of_type(str, name, "") if name else ""):
        return {}
    for key in _IDLE:
        keys.take(key)
    main, *later = pattern.split(_LATER)
    if _STAGE in main:
        keys.leave(name, "what stands between | of a pattern is a stage: state layers_per_stage")
        main = main.replace(_STAGE, "")
    own = keys.of_type(str, "mtp_hybrid_override_pattern", later[0] if later else "*E")
    count = keys.like("mtp_num_layers", len(later), least=0)
    if count and own != "*E":
        keys.leave("mtp_hybrid_override_pattern", "a module of attention and experts, *E, is built")
    figures = {figure: value for figure, (key, usual) in _FIGURES.items() if (value := keys.like(key, usual))}
    found = {"family": "hybrid", "pattern": main, "num_layers": len(main), **figures, "norm_in_float32": False, "conv_width": 4}
    return {f"model.{figure}": value for figure, value in {**found, **({"mtp_layers": count} if count else {})}.items()}
