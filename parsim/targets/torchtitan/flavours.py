"""Models that torchtitan trains, which it knows as flavours of a module, and the functions that configure them.

Source: pytorch/torchtitan, tag v0.2.2 and release 0.3.0, torchtitan/models/*/__init__.py (figures) and config_registry.py (functions).
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from parsim.model.spec import ModelSpec
from parsim.targets.figures import FiguresRow, same_figures, spec_of

_DEBUG: Final = {"num_layers": 6, "hidden_size": 256, "num_heads": 16, "num_kv_heads": 16, "vocab_size": 2048}
_TITAN_4: Final = {"qk_norm": False, "attention_chunk": 0, "full_attention_every": 0, "unturned_every": 0}
_IROPE: Final = {"qk_norm": False}


def _llama3(layers: int, hidden: int, ffn: int, heads: int, **others: Any) -> FiguresRow:
    sizes = {"num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_heads": heads, "head_dim": hidden // heads}
    return {"base": "llama3-8b", **sizes, **others}


def _qwen3(layers: int, hidden: int, ffn: int, heads: int, tied: bool) -> FiguresRow:
    sizes = {"num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_heads": heads}
    return {"base": "qwen3-8b", **sizes, "head_dim": 128, "tied_embedding": tied}


FLAVOURS: Final[dict[tuple[str, str], FiguresRow]] = {
    ("llama3", "debugmodel"): _llama3(6, 256, 768, 16, num_kv_heads=16, vocab_size=2048),
    ("llama3", "1B"): _llama3(16, 2048, 8192, 32, tied_embedding=True),
    ("llama3", "3B"): _llama3(28, 3072, 8192, 24, tied_embedding=True),
    ("llama3", "8B"): {"base": "llama3-8b"},
    ("llama3", "70B"): {"base": "llama3-70b"},
    ("llama3", "405B"): {"base": "llama3.1-405b"},
    ("llama4", "17bx16e"): {"base": "llama4-scout", **_TITAN_4},
    ("llama4", "17bx128e"): {"base": "llama4-maverick", **_TITAN_4},
    ("llama4", "17bx16e_irope"): {"base": "llama4-scout", **_IROPE},
    ("llama4", "17bx128e_irope"): {"base": "llama4-maverick", **_IROPE},
    ("deepseek_v3", "debugmodel"): {
        "base": "deepseek-v2-lite",
        **_DEBUG,
        "ffn_hidden_size": 1024,
        "num_experts": 8,
        "experts_per_token": 3,
        "expert_ffn_hidden_size": 256,
        "shared_ffn_hidden_size": 512,
    },
    ("deepseek_v3", "16B"): {"base": "deepseek-v2-lite"},
    ("deepseek_v3", "236B"): {"base": "deepseek-v2"},
    ("deepseek_v3", "671B"): {"base": "deepseek-v3"},
    ("qwen3", "debugmodel"): {**_qwen3(8, 256, 3072, 16, True), "vocab_size": 2048},
    ("qwen3", "0.6B"): _qwen3(28, 1024, 3072, 16, True),
    ("qwen3", "1.7B"): _qwen3(28, 2048, 6144, 16, True),
    ("qwen3", "4B"): _qwen3(36, 2560, 9728, 32, True),
    ("qwen3", "8B"): {"base": "qwen3-8b"},
    ("qwen3", "14B"): _qwen3(40, 5120, 17408, 40, False),
    ("qwen3", "32B"): {"base": "qwen3-32b"},
    ("qwen3", "debugmodel_moe"): {
        "base": "qwen3-30b-a3b",
        **_DEBUG,
        "num_layers": 8,
        "num_kv_heads": 8,
        "head_dim": 128,
        "ffn_hidden_size": 3072,
        "num_experts": 64,
    },
    ("qwen3", "30B-A3B"): {"base": "qwen3-30b-a3b"},
    ("qwen3", "235B-A22B"): {"base": "qwen3-235b-a22b"},
    ("gpt_oss", "debugmodel"): {"base": "gpt-oss-20b", "num_layers": 4, "hidden_size": 256, "head_dim": 64, "num_experts": 8},
    ("gpt_oss", "20b"): {"base": "gpt-oss-20b"},
    ("gpt_oss", "120b"): {"base": "gpt-oss-120b"},
}
_SAME_FIGURES: Final = re.compile(r"_(flex|varlen|flex_attn|varlen_attn|non_fused_qkv)$")  # another kernel of attention


class Configured(Struct, frozen=True):
    """What a function of a registry configures: a flavour, and the recipe in which its linear layers multiply; "": as keys say."""

    module: str
    flavour: str
    precision: str = ""


# Functions whose name is not that of module and flavour, or which narrow what they multiply.
_FUNCTIONS: Final = {
    "llama3_405b": Configured("llama3", "405B", "fp8_rowwise"),
    "llama3_8b_mxfp8": Configured("llama3", "8B", "mxfp8"),
    "deepseek_v3_671b_float8": Configured("deepseek_v3", "671B", "fp8_rowwise"),
    "qwen3_moe_debug": Configured("qwen3", "debugmodel_moe"),
}
# Those that torchtitan has; all others are written beside the command.
_THEIRS: Final = {
    *_FUNCTIONS,
    *(f"llama3_{flavour}" for flavour in ("debugmodel", "8b", "70b")),
    *(f"deepseek_v3_{flavour}" for flavour in ("debugmodel", "16b", "671b")),
    *(f"qwen3_{flavour}" for flavour in ("debugmodel", "0_6b", "1_7b", "14b", "32b", "30b_a3b")),
    *(f"gpt_oss_{flavour}" for flavour in ("debugmodel", "20b", "120b")),
}
CONVERTED: Final = ("fp8_rowwise", "fp8_rowwise_gw_hp", "mxfp8", "nvfp4")  # recipes that only such a function can ask for


def _function(module: str, flavour: str, precision: str = "") -> str:
    name = f"{module}_{re.sub(r'[^a-z0-9]', '_', flavour.lower())}"
    wide = f"{name}_bf16" if _FUNCTIONS.get(name, Configured(module, flavour)).precision else name
    return f"{name}_{precision}" if precision else wide


FUNCTIONS: Final = {
    **{_function(*pair, precision): Configured(*pair, precision) for pair in FLAVOURS for precision in ("", *CONVERTED)},
    **_FUNCTIONS,
}


def is_theirs(function: str) -> bool:
    """Whether torchtitan has a function of that name."""
    return function in _THEIRS


def function_of(module: str, flavour: str, precision: str) -> str:
    """The function of a flavour in a recipe: torchtitan's own where it has one.

    >>> function_of("llama3", "8B", ""), function_of("llama3", "405B", "fp8_rowwise"), function_of("llama3", "405B", "")
    ('llama3_8b', 'llama3_405b', 'llama3_405b_bf16')
    """
    flavour = _SAME_FIGURES.sub("", flavour)
    sought = Configured(module, flavour, precision)
    return next((name for name, each in _FUNCTIONS.items() if each == sought), _function(module, flavour, precision))


def row_of(module: str, flavour: str) -> FiguresRow | None:
    """The figures of a flavour; None: not known here.

    >>> row_of("llama3", "8B_flex")
    {'base': 'llama3-8b'}
    """
    return FLAVOURS.get((module, _SAME_FIGURES.sub("", flavour)))


def flavour_of(model: ModelSpec, *, toml: bool) -> tuple[str, str] | None:
    """Module and flavour of a model; None: it has none of its figures."""
    gone = {("llama3", "1B"), ("llama3", "3B")} if toml else {pair for pair in FLAVOURS if pair[0] == "llama4"}
    return next((pair for pair, row in FLAVOURS.items() if pair not in gone and same_figures(model, row)), None)


def has_experts(row: FiguresRow) -> bool:
    """Whether a flavour has experts."""
    return bool(spec_of(row).extents.get("E", 0))
