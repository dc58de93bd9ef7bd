"""Models as MaxText's files name them, or as the figures beside `model_name: default` say.

Source: AI-Hypercomputer/maxtext, commit e591f30c, src/maxtext/configs/models/*.yml, base.yml and types.py (get_individual_scales).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.model.spec import ModelSpec
from parsim.targets.entries import Keys
from parsim.targets.figures import FiguresRow, same_figures, spec_of
from parsim.targets.target import KeyValue
from parsim.targets.torchtitan.flavours import FLAVOURS

NAME: Final = "model_name"
_QWEN: Final = {f"qwen3-{size.lower()}": row for (module, size), row in FLAVOURS.items() if module == "qwen3" and "debug" not in size}
_GPT: Final = {"max_positions": 16384, "dropout": 0.0}


_GEMMA2, _GEMMA3 = {"vocab_size": 256128}, {"vocab_size": 262144}
_LIKE_V3: Final = {"base": "deepseek-v3", "expert_groups": 0, "groups_per_token": 0}


def _small_v3(hidden: int, heads: int, ffn: int, width: int, **others: int) -> FiguresRow:
    sizes = {"hidden_size": hidden, "num_heads": heads, "num_kv_heads": heads, "ffn_hidden_size": ffn}
    return {**_LIKE_V3, **sizes, "expert_ffn_hidden_size": width, "shared_ffn_hidden_size": width, **others}


def _gpt3(layers: int, hidden: int, heads: int) -> FiguresRow:
    sizes = {"num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": 4 * hidden, "num_heads": heads, "num_kv_heads": heads}
    return {"base": "gpt3-175b", **sizes, "head_dim": hidden // heads, "vocab_size": 32768, **_GPT}


MODELS: Final[dict[str, FiguresRow]] = {
    **{name: {"base": name} for name in ("llama2-7b", "llama2-13b", "llama2-70b", "llama3-8b", "llama3-70b", "llama3.1-405b")},
    **{name: {"base": name} for name in ("mistral-7b", "mixtral-8x7b", "gpt-oss-20b", "gpt-oss-120b", "qwen2.5-7b")},
    "mixtral-8x22b": {"base": "mixtral-8x22b", "vocab_size": 32768},
    "llama3.1-8b": {"base": "llama3-8b", "max_positions": 131072},
    "llama3.1-70b": {"base": "llama3-70b", "max_positions": 131072},
    "llama3.3-70b": {"base": "llama3-70b", "max_positions": 131072},
    "llama3-405b": {"base": "llama3.1-405b"},
    "deepseek2-16b": {"base": "deepseek-v2-lite"},
    "deepseek2-236b": {"base": "deepseek-v2"},
    "deepseek3-671b": {"base": "deepseek-v3"},
    "kimi-k2-1t": {"base": "kimi-k2"},
    "llama4-17b-16e": {"base": "llama4-scout"},
    "llama4-17b-128e": {"base": "llama4-maverick"},
    "gpt3-175b": {"base": "gpt3-175b", "vocab_size": 50304, **_GPT},
    "gpt3-22b": _gpt3(48, 6144, 24),
    "gpt3-6b": _gpt3(48, 3072, 12),
    **_QWEN,
    "gpt3-52k": {**_gpt3(1, 16, 2), "vocab_size": 1024, "max_positions": 2048},
    **{f"gemma-{size}": {"base": f"gemma-{size}", **_GEMMA2} for size in ("2b", "7b")},
    **{f"gemma2-{size}": {"base": f"gemma-2-{size}", **_GEMMA2} for size in ("2b", "9b", "27b")},
    **{f"gemma3-{size}": {"base": f"gemma-3-{size}", **_GEMMA3} for size in ("4b", "12b", "27b")},
    **{"gemma4-26b": {"base": "gemma-4-26b-a4b"}, "gemma4-31b": {"base": "gemma-4-31b"}},
    **{f"olmo3-{size}": {"base": f"olmo-3-{size.removesuffix('-pt')}"} for size in ("7b", "7b-pt", "32b")},
    **{f"qwen2.5-{size}": {"base": f"qwen2.5-{size}"} for size in ("1.5b", "14b")},
    "qwen3-480b-a35b": {"base": "qwen3-coder-480b-a35b"},
    "qwen3-vl-30b-a3b": {"base": "qwen3-30b-a3b"},
    "deepseek3-test": _small_v3(512, 128, 18432, 512),
    "deepseek3-tiny": _small_v3(64, 4, 64, 64, num_experts=16, q_lora_rank=32, kv_lora_rank=16),
}
_ENDS: Final = ("-Instruct", "-base", "-thinking-2507", "-batchsplit", "-2dfsdp")  # of names with the same figures
BLOCKS: Final = {
    "llama2": "llama3-8b",
    "mistral": "llama3-8b",
    "qwen3": "qwen3-8b",
    "mixtral": "mixtral-8x7b",
}  # of stated figures, by block
_FIGURES: Final = {  # figure: its key, and what it is where left out
    "num_layers": ("base_num_decoder_layers", 16),
    "hidden_size": ("base_emb_dim", 2048),
    "ffn_hidden_size": ("base_mlp_dim", 7168),
    "num_heads": ("base_num_query_heads", 16),
    "num_kv_heads": ("base_num_kv_heads", 16),
    "head_dim": ("head_dim", 128),
    "vocab_size": ("vocab_size", 32000),
}
_OF_EXPERTS: Final = {
    "num_experts": ("num_experts", 1),
    "experts_per_token": ("num_experts_per_tok", 1),
    "expert_ffn_hidden_size": ("base_moe_mlp_dim", -1),
}
_FLAGS: Final = {
    "tied_embedding": ("logits_via_embedding", False),
    "qk_norm": ("use_qk_norm", False),
    "qkv_bias": ("attention_bias", False),
}
_GATED: Final = ["silu", "linear"]  # a SwiGLU
_SCALE: Final = "global_parameter_scale"
_OVERRIDES: Final = "override_model_config"


def row_of(name: str) -> FiguresRow | None:
    """The figures of a model that has a file; None: it has none, or none that is known here.

    >>> row_of("llama3.1-70b-Instruct")["base"]
    'llama3-70b'
    """
    for end in _ENDS:
        name = name.removesuffix(end)
    return MODELS.get(name)


def name_of(model: ModelSpec) -> str | None:
    """MaxText's name of a model."""
    return next((name for name, row in MODELS.items() if same_figures(model, row)), None)


def keys_of_figures(model: ModelSpec) -> dict[str, KeyValue] | None:
    """The keys of a model that MaxText has no file of; None: it has no such block."""
    for block, base in BLOCKS.items():
        sizes = _sizes(block)
        row = {"base": base, **{figure: getattr(model, figure, None) for figure in (*sizes, *_FLAGS)}}
        if None not in row.values() and same_figures(model, row):
            told = {key: row[figure] for figure, (key, _) in {**sizes, **_FLAGS}.items()}
            return {NAME: "default", "decoder_block": block, **told}
    return None


def _sizes(block: str) -> dict[str, tuple[str, int]]:
    return {**_FIGURES, **_OF_EXPERTS} if block == "mixtral" else _FIGURES


def read_row(keys: Keys) -> FiguresRow | None:
    """The figures that keys say: those of a file of its own, or what stands beside."""
    name = keys.like(NAME, "default")
    if name not in ("default", ""):
        row = row_of(name)
        return {**row, **_overrides(keys, row)} if row and keys.take(_OVERRIDES) is True else row
    block = str(keys.like("decoder_block", "llama2"))
    if block not in BLOCKS or keys.take("mlp_activations", _GATED) != _GATED:
        return None
    sizes = {figure: keys.like(key, usual) for figure, (key, usual) in _sizes(block).items()}
    flags = {figure: bool(keys.like(key, usual)) for figure, (key, usual) in _FLAGS.items()}
    return {"base": BLOCKS[block], **_times(sizes, keys.like(_SCALE, 1)), **flags}


def _overrides(keys: Keys, row: FiguresRow) -> dict[str, Any]:
    """The figures beside a model's name that come before those of its file."""
    known = {**_FIGURES, **(_OF_EXPERTS if has_experts(row) else {})}
    own = spec_of(row)
    return {figure: keys.like(key, getattr(own, figure)) for figure, (key, _) in known.items() if key in keys and hasattr(own, figure)}


def _times(sizes: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """Sizes times powers of two, so that there are about `scale` times as many parameters."""
    base, rest = divmod(max(scale, 1).bit_length() - 1, 3)
    wider = {"num_layers": base, "hidden_size": base + (rest > 1)}
    heads = dict.fromkeys(("ffn_hidden_size", "num_heads", "num_kv_heads", "expert_ffn_hidden_size"), base + (rest > 0))
    return {figure: size * 2 ** {**wider, **heads}.get(figure, 0) for figure, size in sizes.items()}


def has_experts(row: FiguresRow) -> bool:
    """Whether a model has experts."""
    return bool(spec_of(row).extents.get("E", 0))
