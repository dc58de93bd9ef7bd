"""How a Hugging Face config.json says what a model is, one small file a family: our figures by its keys, and what keys left out are.

What changes no count is left out: epsilons, rotary bases and scaling, initial values.  What would change one is read or refused by name.
Source: huggingface/transformers, models/NAME/configuration_NAME.py and modeling_NAME.py, for the keys, their defaults and the biases.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping
from typing import Any, Final, TypeGuard

from msgspec import Struct, field

from parsim.errors import ScenarioError
from parsim.model.spec import MOST, MOST_LAYERS
from parsim.registry import Registry
from parsim.scenario.tree import show

VOCABULARY: Final = {"vocab_size": "vocab_size"}
COUNTS: Final = {
    **{"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "ffn_hidden_size": "intermediate_size"},
    **{"num_heads": "num_attention_heads", **VOCABULARY, "max_positions": "max_position_embeddings"},
}
OPTIONAL: Final = {"num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
ROTARY: Final = {"norm": "rms_norm", "positions": "rotary"}
PLAIN: Final = {**ROTARY, "bias": False}
LEARNED: Final = {"norm": "layer_norm", "positions": "learned", "bias": True}
BIASES: Final = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}
CHOSEN: Final = {"experts_per_token": "num_experts_per_tok"}
NO_BIAS: Final = dict.fromkeys(("attention_bias", "mlp_bias"), False)
QWEN: Final = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
SHARE_TURNED: Final = "partial_rotary_factor"  # of head_dim, by the rotary embedding
LATER: Final = "num_nextn_predict_layers"
AS_HIDDEN: Final = "classifier_dropout"  # that of hidden vectors, where null
FULL, LOCAL = "full_attention", "sliding_attention"  # values of layer_types


class ConfigFamily(Struct, frozen=True, kw_only=True):
    """How a model_type spells what a row says: our figure -> its key; where nothing else is stated, as Llama does."""

    fixed: Mapping[str, object] = field(default_factory=lambda: ROTARY)
    counts: Mapping[str, str] = field(default_factory=lambda: COUNTS)
    optional: Mapping[str, str] = field(default_factory=lambda: OPTIONAL)  # counts that may be left out
    flags: Mapping[str, str] = field(default_factory=dict)  # true or false, false where left out
    numbers: Mapping[str, str] = field(default_factory=dict)  # others above 0, that may be left out
    activation: tuple[str, str, tuple[str, ...]] = (
        "hidden_act",
        "silu",
        ("swiglu", "geglu"),
    )  # key, default, and which of ours its code computes
    dropouts: tuple[str, ...] = ("attention_dropout",)
    dropped: Mapping[str, str] = field(default_factory=dict)  # scores_dropped, embedding_dropped -> keys that may be 0 alone
    default_dropout: float = 0.0
    tied: bool = False  # where tie_word_embeddings is left out
    heads: Mapping[str, str] = field(default_factory=dict)  # architecture -> our head; empty: all have the one of a decoder
    only: Mapping[str, object] = field(default_factory=dict)  # keys of which one value can be read, which is that of a key left out
    left_out: Mapping[str, object] = field(default_factory=dict)  # what keys left out are, where that is not nothing
    windows: bool = False  # whether its code looks at sliding_window
    full_every: int = 0  # where layer_types are left out, of the layers with windows each so many-th has none
    # The mapping that all else is read of, and figures that no table above can say.
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict
    more: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config: {}
    # Keys that add, drop or move ops, weights or bytes, which this family reads, and the one value, beside null, that others may have.
    own: Mapping[str, object] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # further keys that it reads, of which others may read some
    lacks: tuple[str, ...] = ()  # figures of transformers that its rows have not
    # Of a model whose text_config is a model of its own: what keys that it leaves out are, and the row that these and its figures make.
    text: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    beside: Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]] | None = None

    @property
    def keys(self) -> set[str]:
        """Those that say figures."""
        return {*self.counts.values(), *self.optional.values(), *self.flags.values(), *self.numbers.values(), *self.own, *self.also}


CONFIG_FAMILIES: Registry[ConfigFamily] = Registry("model_type")


def register(family: ConfigFamily, *model_types: str) -> None:
    """Read configs of these types so."""
    for each in model_types:
        CONFIG_FAMILIES.register(each, family)


def model_types() -> tuple[str, ...]:
    """All that are read, sorted."""
    CONFIG_FAMILIES.discover(__name__)
    return CONFIG_FAMILIES.names()


def count(config: Mapping[str, Any], key: str, least: int = 1, most: int = MOST) -> int:
    """The number that a key states.

    Raises:
        ScenarioError: it is no whole number of at least so many, above the most, or missing.
    """
    if key not in config:
        raise ScenarioError(f"key '{key}' is missing")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ScenarioError(f"{key} must be a whole number above {least - 1}, not {show(value)}")
    if value > most:
        raise ScenarioError(f"{key} = {show(value)} is above {most}")
    return value


def layers(config: Mapping[str, Any], key: str = "num_hidden_layers") -> int:
    """The number of layers that a key states, before a list of as many is made.

    Raises:
        ScenarioError: it is no whole number above 0, above what a model may have, or missing.
    """
    return count(config, key, most=MOST_LAYERS)


def is_name_of(value: object, names: Container[str]) -> TypeGuard[str]:
    """Whether a value of a config, which may be a list or a mapping, is one of these names.

    >>> is_name_of("mamba", {"mamba": "m"}), is_name_of([], {"mamba": "m"})
    (True, False)
    """
    return isinstance(value, str) and value in names


def entries(config: Mapping[str, Any], key: str) -> list[Any] | None:
    """The list that a key states, nothing where it is null or left out.

    Raises:
        ScenarioError: it is none.
    """
    if not isinstance(value := config.get(key), list | None):
        raise ScenarioError(f"{key} must be a list, not {show(value)}")
    return value


def mapping(config: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The mapping that a key states, nothing where it is null or left out.

    Raises:
        ScenarioError: it is none.
    """
    if not isinstance(value := config.get(key), dict | None):
        raise ScenarioError(f"{key} must be a mapping, not {show(value)}")
    return value


def is_same(value: object, legal: object) -> bool:
    """Whether two values of a config are one, of which true is not 1, and false is not 0.

    >>> is_same(0, 0.0), is_same(0, False)
    (True, False)
    """
    return value == legal and isinstance(value, bool) == isinstance(legal, bool)


def number(config: Mapping[str, Any], key: str) -> float:
    """The number that a key states.

    Raises:
        ScenarioError: it is none, or not above 0.
    """
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ScenarioError(f"{key} must be a number above 0, not {show(value)}")
    return float(value)


def flag(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """What a key says.

    Raises:
        ScenarioError: neither true nor false.
    """
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ScenarioError(f"{key} must be true or false, not {show(value)}")
    return value


def biases(*, qkv: bool, out: bool, mlp: bool) -> dict[str, bool]:
    """Figures by which linear layers have biases."""
    return {"qkv_bias": qkv, "bias": out or mlp, **({"out_bias": out, "mlp_bias": mlp} if out != mlp else {})}


def each_full(config: Mapping[str, Any], every: int, *, first: bool = False) -> list[str]:
    """The layer_types of layers with windows of which each so many-th has none: the last of as many, or the first."""
    return [LOCAL if (place + 1 - first) % every else FULL for place in range(layers(config))]


def gates_of_shares(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gates of Qwen's experts: shares of those that a token chose, or, where it is left out, of all.

    Source: huggingface/transformers, modeling_qwen2_moe.py and modeling_qwen3_moe.py (norm_topk_prob).
    """
    return {"gates": "softmax" if flag(config, "norm_topk_prob") else "pre_softmax"}
