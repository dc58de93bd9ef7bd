"""A Hugging Face config.json of a decoder, or of BERT, as a row of the catalog's kind; each model_type is one table of its keys.

What changes no count is left out: epsilons, rotary bases and scaling, initial values.  What would change one is read or refused by name.
Source: huggingface/transformers, models/NAME/configuration_NAME.py and modeling_NAME.py, for the keys, their defaults and the biases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from parsim.errors import ScenarioError
from parsim.scenario import asked
from parsim.scenario.tree import read_bytes, show

PREFIX: Final = "hf:"
_MOST_BYTES: Final = 1_000_000
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_ACTIVATIONS: Final = {
    **{"silu": "swiglu", "swish": "swiglu", "relu2": "squared_relu", "relu": "relu"},
    **dict.fromkeys(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu"),
}


_VOCABULARY: Final = {"vocab_size": "vocab_size"}
_COUNTS: Final = {
    **{"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "ffn_hidden_size": "intermediate_size"},
    **{"num_heads": "num_attention_heads", **_VOCABULARY, "max_positions": "max_position_embeddings"},
}
_OPTIONAL: Final = {"num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
_ROTARY: Final = {"norm": "rms_norm", "positions": "rotary"}
_LEARNED: Final = {"norm": "layer_norm", "positions": "learned", "bias": True}
_BIASES: Final = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}
_CHOSEN: Final = {"experts_per_token": "num_experts_per_tok"}
_NO_BIAS: Final = dict.fromkeys(("attention_bias", "mlp_bias"), False)
_DECODERS: Final = ("ForCausalLM", "LMHeadModel")  # how an architecture ends whose head is a decoder's
_SHARE_TURNED: Final = "partial_rotary_factor"  # of head_dim, by the rotary embedding
_LATER: Final = "num_nextn_predict_layers"
# Keys of which one value, or null, can be read in any family: another adds, drops or moves ops, weights or bytes.
_ONLY: Final[Mapping[str, object]] = {
    **dict.fromkeys(("alibi", "multi_query", "new_decoder_architecture", "parallel_attn", "use_parallel_residual"), False),
    **dict.fromkeys(("qk_norm", "qk_layernorm", "use_qk_norm", "add_cross_attention", "is_encoder_decoder"), False),
    **dict.fromkeys(("reorder_and_upcast_attn", "use_bidirectional_attention"), False),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv", "attention_chunk_size"), None),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "no_rope_layers"), None),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "text_config", "vision_config", "sliding_window_pattern"), None),
    **dict.fromkeys((_LATER, "chunk_size_feed_forward"), 0),
    "pruned_heads": {},
    _SHARE_TURNED: 1.0,
}


class _Family(Struct, frozen=True):
    """How a model_type spells what a row says: our figure -> its key; where nothing else is stated, as Llama does."""

    fixed: Mapping[str, object] = field(default_factory=lambda: _ROTARY)
    counts: Mapping[str, str] = field(default_factory=lambda: _COUNTS)
    optional: Mapping[str, str] = field(default_factory=lambda: _OPTIONAL)  # counts that may be left out
    activation: tuple[str, str, tuple[str, ...]] = ("hidden_act", "silu", ("swiglu",))  # key, default, and which of ours its code computes
    dropouts: tuple[str, ...] = ("attention_dropout",)
    default_dropout: float = 0.0
    biases: Mapping[str, str] = field(default_factory=dict)  # our figure -> its key, false where left out; what else is true or false
    tied: bool = False  # where tie_word_embeddings is left out
    heads: Mapping[str, str] = field(default_factory=dict)  # architecture -> our head; empty: all have the one of a decoder
    only: Mapping[str, object] = field(default_factory=dict)  # keys of which one value can be read, which is that of a key left out
    shared: str = ""  # the key of how many experts of that width all tokens pass
    left_out: Mapping[str, object] = field(default_factory=dict)  # what keys left out are, where that is not nothing
    full_every: int = 0  # where layer_types are left out, of the layers with windows each so many-th has none


_DEEPSEEK: Final = _Family(
    {**_ROTARY, "bias": False, "qkv_bias": False},
    {
        **_COUNTS,
        **{key: key for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        **{"num_experts": "n_routed_experts", **_CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"},
        "num_dense_layers": "first_k_dense_replace",
    },
    {
        **{"num_kv_heads": "num_key_value_heads", "q_lora_rank": "q_lora_rank", "mtp_layers": _LATER},
        **{"expert_groups": "n_group", "groups_per_token": "topk_group"},
    },
    only={**_NO_BIAS, "moe_layer_freq": 1},
    left_out={"q_lora_rank": 1536},
    shared="n_shared_experts",
)
_LLAMA4: Final = _Family(
    {
        **_ROTARY,
        **{"bias": False, "qkv_bias": False, "qk_norm_weights": False, "gates": "own_sigmoid", "gates_on_input": True},
        **dict.fromkeys(("full_attention_every", "unturned_every"), 4),
    },
    {
        **{**_COUNTS, "ffn_hidden_size": "intermediate_size_mlp", "num_experts": "num_local_experts", **_CHOSEN},
        **dict.fromkeys(("expert_ffn_hidden_size", "shared_ffn_hidden_size"), "intermediate_size"),
        **{"expert_layer_every": "interleave_moe_layer_step", "attention_chunk": "attention_chunk_size"},
    },
    biases={"qk_norm": "use_qk_norm"},
    only={**_NO_BIAS, "no_rope_layer_interval": 4},
    left_out={"num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16, "num_experts_per_tok": 1, "use_qk_norm": True},
)
_STORED_AS: Final = ("fp8", "mxfp4")  # quant_method of released weights, which says nothing of those that are trained
_QWEN: Final = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_FULL, _LOCAL = "full_attention", "sliding_attention"  # values of layer_types
_LABELLED: Final = ("text", "token")  # heads whose matrix is their own
_AS_HIDDEN: Final = "classifier_dropout"  # that of hidden vectors, where null

# left_out: configuration_mistral.py at commit 001f85b, configuration_qwen2.py at 008e574, configuration_nemotron.py at 05cd1ec, those of
# mixtral, qwen3 and qwen3_moe of release 4.51; a mistral with layer_types is read as the ministral that auto/configuration_auto.py takes
# it for.
FAMILIES: Final = {
    "bert": _Family(
        {**_LEARNED, "causal": False, "norm_last": True},
        {**_COUNTS, "num_token_types": "type_vocab_size"},
        {},
        ("hidden_act", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", _AS_HIDDEN),
        default_dropout=0.1,
        tied=True,
        heads={"BertForMaskedLM": "masked_token", "BertForSequenceClassification": "text", "BertForTokenClassification": "token"},
        only={"position_embedding_type": "absolute", "is_decoder": False, "problem_type": "single_label_classification"},
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), _DEEPSEEK),
    "gpt2": _Family(
        _LEARNED,
        {"num_layers": "n_layer", "hidden_size": "n_embd", "num_heads": "n_head", **_VOCABULARY, "max_positions": "n_positions"},
        {"ffn_hidden_size": "n_inner"},
        ("activation_function", "gelu_new", ("gelu", "relu")),
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        default_dropout=0.1,
        tied=True,
    ),
    "gpt_oss": _Family(
        {**_ROTARY, "activation": "clamped_swiglu", **dict.fromkeys(("bias", "qkv_bias", "attention_sinks"), True)},
        {**_COUNTS, "num_experts": "num_local_experts", **_CHOSEN},
        only={"hidden_act": "silu", "attention_bias": True, "swiglu_limit": 7.0},
        left_out={"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "num_local_experts": 128, "num_experts_per_tok": 4},
        full_every=2,
    ),
    "llama": _Family(biases=_BIASES),
    **dict.fromkeys(("llama4_text", "llama4"), _LLAMA4),
    "mixtral": _Family(
        {**_ROTARY, "bias": False},
        {**_COUNTS, "num_experts": "num_local_experts", **_CHOSEN},
        only=_NO_BIAS,
        left_out={"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "mistral": _Family({**_ROTARY, "bias": False}, only=_NO_BIAS, left_out={"num_key_value_heads": 8, "sliding_window": 4096}),
    "nemotron": _Family(
        {**_ROTARY, "norm": "layer_norm"},
        activation=("hidden_act", "relu2", ("squared_relu", "gelu", "relu")),
        biases=_BIASES,
        left_out={_SHARE_TURNED: 0.5},
    ),
    "qwen2": _Family(
        {**_ROTARY, "bias": False, "qkv_bias": True},
        only=_NO_BIAS,
        left_out=_QWEN,
    ),
    "qwen3": _Family({**_ROTARY, "bias": False, "qk_norm": True}, only=_NO_BIAS, left_out={**_QWEN, "head_dim": 128}),
    "qwen3_moe": _Family(
        {**_ROTARY, "bias": False, "qk_norm": True},
        {**_COUNTS, "num_experts": "num_experts", **_CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"},
        only={**_NO_BIAS, "decoder_sparse_step": 1, "mlp_only_layers": []},
        left_out={"num_key_value_heads": 4, "use_sliding_window": False, "num_experts": 128, "num_experts_per_tok": 8},
    ),
}


def row(path: Path, name: str) -> dict[str, Any]:
    """The row that a config.json describes, as an inline model of a scenario has it; reports call the model `name`.

    Raises:
        ScenarioError: the file cannot be read, is of another model_type, or says what no model here can be.
    """
    try:
        config = _config(path)
        return {"name": name, **_figures(config), "source": f"{name}, model_type {config['model_type']}"}
    except ScenarioError as error:
        raise ScenarioError(f"{name}: {error.what}") from None


def _figures(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        said = asked.lack_of("model", kind) if isinstance(kind, str) else ""
        raise ScenarioError(f"model_type {show(kind)} {said or 'is not read'}; known: {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    if family is _LLAMA4:
        config = _text_of_llama4(config)
    experts = [key for key in _EXPERTS if config.get(key) and key not in family.counts.values()]
    if experts:
        raise ScenarioError(f"{experts[0]} = {show(config[experts[0]])}, but no {kind} that is read has experts")
    rotary = config.get("rope_parameters")
    inside = {_SHARE_TURNED: rotary.get(_SHARE_TURNED)} if isinstance(rotary, dict) else {}
    config = {**family.left_out, **{key: each for key, each in inside.items() if each is not None}, **config}
    stored = config.get("quantization_config") or {}
    if stored and (not isinstance(stored, dict) or stored.get("quant_method") not in _STORED_AS):
        said = show(stored.get("quant_method")) if isinstance(stored, dict) else show(stored)
        raise ScenarioError(f"quantization_config: quant_method {said} is not read; {' and '.join(_STORED_AS)} are")
    if config.get(_LATER) == 0:
        config[_LATER] = None
    if config.get("topk_method") == "greedy":  # among all experts, whatever groups there are
        config |= {"n_group": 1, "topk_group": 1}
    own = {*family.counts.values(), *family.optional.values(), *family.biases.values()}
    for key, legal in {**_ONLY, **family.only}.items():
        if key not in own and config.get(key) not in (None, legal):
            raise ScenarioError(f"{key} = {show(config[key])} is not read; {show(legal) if legal else json.dumps(legal)} is")
    head = _head(config, family)
    return {
        **{figure: _count(config, key) for figure, key in family.counts.items()},
        **{figure: _count(config, key) for figure, key in family.optional.items() if config.get(key) is not None},
        **_shared_experts(config, family),
        **family.fixed,
        **_biases(config, family),
        "activation": family.fixed.get("activation") or _activation(config, family),
        **head,
        "tied_embedding": head.get("head") not in _LABELLED and _flag(config, "tie_word_embeddings", family.tied),
        "dropout": _dropout(config, family),
        **_windows(config, family),
    }


def _text_of_llama4(config: dict[str, Any]) -> dict[str, Any]:
    """The part that reads text, without lists of layers that say what its counts do."""
    text = config.get("text_config", {}) if config["model_type"] == "llama4" else config
    if not isinstance(text, dict):
        raise ScenarioError(f"text_config must be a mapping, not {show(text)}")
    num_layers, step = (_count(text, key) for key in ("num_hidden_layers", "interleave_moe_layer_step"))
    turns = [int(place % 4 > 0) for place in range(1, num_layers + 1)]
    patterns: dict[str, list[Any]] = {
        "no_rope_layers": turns,  # 1 where there are positions
        "layer_types": ["chunked_attention" if each else _FULL for each in turns],
        "moe_layers": [*range(step - 1, num_layers, step)],
    }
    for key, pattern in patterns.items():
        if text.get(key) not in (None, [], pattern):
            raise ScenarioError(f"{key} is not read where it is another pattern than each 4th layer, or each interleave_moe_layer_step-th")
    return {key: value for key, value in text.items() if key not in patterns} | {"model_type": config["model_type"]}


def _shared_experts(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    """The width of all shared experts, and what gates are and are multiplied by, where a family has such experts."""
    if not family.shared:
        return {}
    gates = config.get("scoring_func", "sigmoid" if config["model_type"] != "deepseek_v2" else "softmax")
    if gates not in ("softmax", "sigmoid"):
        raise ScenarioError(f"scoring_func = {show(gates)} is not read; softmax and sigmoid are")
    scale = config.get("routed_scaling_factor") or 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1000:
        raise ScenarioError(f"routed_scaling_factor must be a number above 0, not {show(scale)}")
    if not config.get("norm_topk_prob", gates == "sigmoid"):
        gates = {"softmax": "pre_softmax", "sigmoid": "own_sigmoid"}[gates]
    number = _count(config, family.shared) if config.get(family.shared) is not None else 0
    return {"shared_ffn_hidden_size": number * _count(config, "moe_intermediate_size"), "gates": gates, "gate_scale": float(scale)}


def _config(path: Path) -> dict[str, Any]:
    try:
        raw = read_bytes(path / "config.json" if path.is_dir() else path, _MOST_BYTES)
        if len(raw) > _MOST_BYTES:
            raise ScenarioError(f"the file is larger than {_MOST_BYTES} bytes, which no config.json is")
        config = json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        remedy = "give the path of a config.json or of its directory, relative to the scenario file; nothing is downloaded"
        raise ScenarioError(f"cannot read the file: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"is no JSON in UTF-8: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(config, dict):
        raise ScenarioError(f"must hold a mapping, not {show(config)}")
    return config


def _count(config: Mapping[str, Any], key: str) -> int:
    if key not in config:
        raise ScenarioError(f"key '{key}' is missing")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScenarioError(f"{key} must be a whole number above 0, not {show(value)}")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ScenarioError(f"{key} must be true or false, not {show(value)}")
    return value


def _windows(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    """The window of the layers that have one, and which have none; nothing where no layer has one."""
    types = _layer_types(config, family)
    if _LOCAL not in types or config.get("sliding_window") is None:
        return {}
    every = types.index(_FULL) + 1 if _FULL in types else 0
    if any((each == _FULL) != (every > 0 and place % every == 0) for place, each in enumerate(types, 1)):
        raise ScenarioError("layer_types is no pattern that is read: each so many-th layer with full attention")
    return {"sliding_window": _count(config, "sliding_window"), "full_attention_every": every}


def _layer_types(config: Mapping[str, Any], family: _Family) -> list[str]:
    """What each layer's attention is; of qwen2, the layers from max_window_layers on slide."""
    types, first = config.get("layer_types"), config.get("max_window_layers")
    if types is None:
        num_layers = _count(config, family.counts["num_layers"])
        num_full = num_layers if config.get("use_sliding_window") is False else first if isinstance(first, int) else 0
        every = family.full_every or num_layers + 1
        return [_FULL if place <= num_full or place % every == 0 else _LOCAL for place in range(1, num_layers + 1)]
    if isinstance(types, list) and all(each in (_FULL, _LOCAL) for each in types):
        return types
    raise ScenarioError(f"layer_types holds other layers than {_FULL} and {_LOCAL}, which are not read")


def _head(config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    """The head that the config's architecture has, with the number of its labels."""
    stated = config.get("architectures")
    if not family.heads:
        others = [each for each in stated or () if not str(each).endswith(_DECODERS)] if isinstance(stated, list) else []
        if others:
            raise ScenarioError(f"architectures holds {show(others[0])}, whose head is not read; that of a ...ForCausalLM is")
        return {}
    known = [family.heads[each] for each in stated if isinstance(each, str) and each in family.heads] if isinstance(stated, list) else []
    if len(known) != 1 or len(stated or ()) != 1:
        shown = ", ".join(map(show, stated)) or "nothing" if isinstance(stated, list) else show(stated)
        raise ScenarioError(f"architectures is {shown}, which has no head that is read; known: {', '.join(family.heads)}")
    return {"head": known[0], **({"num_labels": _num_labels(config)} if known[0] in _LABELLED else {})}


def _num_labels(config: Mapping[str, Any]) -> int:
    """As transformers counts them: the names of id2label, or num_labels, or two."""
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise ScenarioError(f"id2label must be a mapping, not {show(labels)}")
    count = len(labels) if labels is not None else _count({"num_labels": 2, **config}, "num_labels")
    if count < 2:
        raise ScenarioError(f"the number of labels is {count}, a regression in transformers, which is not read; 2 or more are")
    return count


def _biases(config: Mapping[str, Any], family: _Family) -> dict[str, bool]:
    """Biases by the config's flags; attention_bias is also that of the attention output, which `bias` covers with the MLP."""
    found = {figure: _flag(config, key, False) for figure, key in family.biases.items()}
    if len(set(found.values())) > 1:
        raise ScenarioError("attention_bias and mlp_bias differ; both true or both false can be read")
    return found


def _activation(config: Mapping[str, Any], family: _Family) -> str:
    key, default, legal = family.activation
    value = config.get(key, default)
    activation = _ACTIVATIONS.get(value) if isinstance(value, str) else None
    if activation is None or activation not in legal:
        known = ", ".join(each for each, ours in _ACTIVATIONS.items() if ours in legal)
        raise ScenarioError(f"{key} {show(value)} is not read; known here: {known}")
    return activation


def _dropout(config: Mapping[str, Any], family: _Family) -> float:
    values = {key: config.get(key, family.default_dropout) for key in family.dropouts if key != _AS_HIDDEN or config.get(key) is not None}
    wrong = [key for key, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1]
    if wrong:
        raise ScenarioError(f"{wrong[0]} must be at least 0 and below 1, not {show(values[wrong[0]])}")
    if len(set(values.values())) > 1:
        raise ScenarioError(f"{', '.join(values)} differ; one dropout for all can be read")
    share = float(values[family.dropouts[0]])
    if share and len(values) == 1:
        raise ScenarioError(f"{family.dropouts[0]} = {share} drops attention scores only, which is not read; 0 is")
    return share
