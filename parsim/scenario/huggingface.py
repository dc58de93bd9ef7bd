"""A Hugging Face config.json of a decoder or an encoder as a row of the catalog's kind; files of families/ say what its keys mean."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from parsim import catalog
from parsim.errors import ScenarioError
from parsim.scenario import asked
from parsim.scenario.families import (
    AS_HIDDEN,
    BIASES,
    CONFIG_FAMILIES,
    FULL,
    LATER,
    LOCAL,
    SHARE_TURNED,
    ConfigFamily,
    biases,
    count,
    entries,
    flag,
    is_name_of,
    is_same,
    layers,
    mapping,
    model_types,
    number,
)
from parsim.scenario.read_files import read_bytes
from parsim.scenario.tree import show

PREFIX: Final = "hf:"
_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+(?<!\.json)")
_MOST_BYTES: Final = 1_000_000
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_ACTIVATIONS: Final[Mapping[str, tuple[str, ...]]] = {  # with and without a gate
    **{"silu": ("swiglu",), "swish": ("swiglu",), "relu2": ("squared_relu",), "relu": ("relu",), "xielu": ("xielu",)},
    **dict.fromkeys(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), ("gelu", "geglu")),
}
_DECODERS: Final = ("ForCausalLM", "LMHeadModel")  # how an architecture ends whose head is a decoder's
_STORED_AS: Final = ("fp8", "mxfp4")  # quant_method of released weights, which says nothing of those that are trained
_LABELLED: Final = ("text", "token", "image")  # heads whose matrix is their own
_AROUND: Final = ("tie_word_embeddings", "quantization_config")  # what the config around that of a text model may say of it
# Keys that any config may have, and the one value, beside null, that can be read.
_ANYWHERE: Final[Mapping[str, object]] = {
    **dict.fromkeys(("qk_norm", "add_cross_attention", "is_encoder_decoder", "use_bidirectional_attention"), False),
    **dict.fromkeys(("clip_qkv", "embedding_size", "text_config", "vision_config")),
    **{"chunk_size_feed_forward": 0, "pruned_heads": {}},
}


def find(folder: Path, name: str) -> Path:
    """Where the config that follows `hf:` lies: at a path from a folder, or in the cache of the Hub as ORGANISATION/NAME.

    Source: huggingface/huggingface_hub, src/huggingface_hub/constants.py (HF_HUB_CACHE), and its guide manage-cache for the folders.
    """
    path = folder / name
    if os.path.exists(path) or not _REPOSITORY.fullmatch(name):
        return path
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    kept = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub") / f"models--{name.replace('/', '--')}"
    with suppress(OSError, ValueError):
        path = kept / "snapshots" / (kept / "refs" / "main").read_text().strip() / "config.json"
    return path


def row(path: Path, name: str) -> dict[str, Any]:
    """The row that a config.json describes, as an inline model of a scenario has it; reports call the model `name`.

    Raises:
        ScenarioError: the file cannot be read, is of another model_type, or says what no model here can be.
    """
    try:
        config = _config(path, name.removeprefix(PREFIX))
        has_other = "text_config" in config and config.get("model_type") not in model_types()
        part = ", of which the model that reads text" if has_other else ""
        return {"name": name, **_figures(config), "source": f"{name}, model_type {config['model_type']}{part}"}
    except ScenarioError as error:
        raise ScenarioError(f"{name}: {error.what}") from None


def _figures(config: dict[str, Any]) -> dict[str, Any]:
    config = _text_part(config)
    kind = config.get("model_type")
    if not is_name_of(kind, model_types()):
        said = asked.lack_of("model", kind) if isinstance(kind, str) else ""
        raise ScenarioError(
            f"model_type {show(kind)} {said or 'is not read'}; known: {', '.join(model_types())}, or one of these as text_config"
        )
    family = CONFIG_FAMILIES.get(kind)
    if family.beside:
        return family.beside(config, _figures(_of_text(config, kind, family)))
    config = _complete(config, family)
    _refuse_others(config, family)
    head = _head(config, family)
    found: dict[str, Any] = {
        **{figure: count(config, key) for figure, key in family.counts.items()},
        **{figure: count(config, key) for figure, key in family.optional.items() if config.get(key) is not None},
        **{figure: number(config, key) for figure, key in family.numbers.items() if config.get(key) is not None},
        **family.fixed,
        **_flags(config, family),
        "activation": family.fixed.get("activation") or _activation(config, family),
        **head,
        "tied_embedding": head.get("head") not in _LABELLED and flag(config, "tie_word_embeddings", family.tied),
        **_dropout(config, family),
        **_rotary_dim(config, family),
        **_windows(config, family),
        **family.more(config),
    }
    return {figure: value for figure, value in found.items() if figure not in family.lacks}


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of one that reads images, too; what reads these is left out."""
    text, kind = config.get("text_config"), f"{config.get('model_type')}_text"
    if text is None and kind in model_types() and mapping(config, "vision_config") is not None:  # one level, as before release 4.52
        return {**{key: each for key, each in config.items() if key != "vision_config"}, "model_type": kind}
    if text is None or config.get("model_type") in model_types():
        return config
    if not isinstance(text, dict):
        raise ScenarioError(f"text_config must be a mapping, not {show(text)}")
    if not isinstance(whole := config.get("model_type"), str) or not whole:
        raise ScenarioError(f"model_type must say by name what has this text_config, not {show(whole)}")
    around = {key: config[key] for key in _AROUND if key in config}
    return {"model_type": kind, **around, **text}


def _of_text(config: Mapping[str, Any], kind: str, family: ConfigFamily) -> dict[str, Any]:
    """The text model inside one whose other parts are read, too."""
    if not isinstance(text := config.get("text_config"), dict):
        raise ScenarioError(f"text_config must be a mapping, not {show(text)}, in a config of model_type {kind}")
    if text.get("model_type", kind) == kind:
        raise ScenarioError(f"text_config of model_type {kind} must say its own model_type")
    return {**{key: config[key] for key in _AROUND if key in config}, **family.text(text), **text}


def _complete(config: dict[str, Any], family: ConfigFamily) -> dict[str, Any]:
    """With what keys left out are."""
    rotary = mapping(config, "rope_parameters")
    inside = {SHARE_TURNED: rotary.get(SHARE_TURNED)} if rotary else {}
    config = {**family.left_out, **{key: each for key, each in inside.items() if each is not None}, **config}
    if is_same(config.get(LATER), 0):
        config[LATER] = None
    return family.prepare(config)


def _refuse_others(config: Mapping[str, Any], family: ConfigFamily) -> None:
    """Raise a fault that names a key of which another value can be read."""
    experts = [key for key in _EXPERTS if config.get(key) is not None and not is_same(config[key], 0) and key not in family.keys]
    if experts:
        raise ScenarioError(f"{experts[0]} = {show(config[experts[0]])}, but no {config['model_type']} that is read has experts")
    stored = mapping(config, "quantization_config")
    if stored and not is_name_of(said := stored.get("quant_method"), _STORED_AS):
        raise ScenarioError(f"quantization_config: quant_method {show(said)} is not read; {' and '.join(_STORED_AS)} are")
    others = {key: legal for each in CONFIG_FAMILIES.values() for key, legal in each.own.items() if key not in family.keys}
    for key, legal in {**_ANYWHERE, **others, **family.only}.items():
        if config.get(key) is not None and not is_same(config[key], legal):
            raise ScenarioError(f"{key} = {show(config[key])} is not read; {show(legal) if legal else json.dumps(legal)} is")


def _config(path: Path, name: str) -> dict[str, Any]:
    try:
        raw = read_bytes(path / "config.json" if path.is_dir() else path, _MOST_BYTES)
        if len(raw) > _MOST_BYTES:
            raise ScenarioError(f"the file is larger than {_MOST_BYTES} bytes, which no config.json is")
        config = json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        remedy = "give the path of a config.json or of its directory, relative to the scenario file; nothing is downloaded"
        if not _REPOSITORY.fullmatch(name):
            raise ScenarioError(f"cannot read the file: {error.strerror}; {remedy}") from None
        if (said := asked.lack_of("model", name.rpartition("/")[2])).startswith("is not"):
            raise ScenarioError(said) from None
        near = asked.about_value("model", name, catalog.names("models"))
        near = near if "did you mean" in near else ""
        raise ScenarioError(
            f"cannot read the file: {error.strerror}{near}; {remedy}: hf download {name} config.json puts it where it is found"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"is no JSON in UTF-8: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(config, dict):
        raise ScenarioError(f"must hold a mapping, not {show(config)}")
    return config


def _windows(config: Mapping[str, Any], family: ConfigFamily) -> dict[str, Any]:
    """The window of the layers that have one, and which have none; nothing where no layer has one."""
    types, window = _layer_types(config, family), config.get("sliding_window")
    if LOCAL not in types or window is None:
        return {}
    if not family.windows:
        raise ScenarioError(f"sliding_window = {show(window)} is not read of model_type {config['model_type']}, whose code has no windows")
    first, *more = [place for place, each in enumerate(types, 1) if each == FULL] or [0]
    every = more[0] - first if more else max(first, len(types)) if first else 0
    if any((each == FULL) != (every > 0 and (place - first) % every == 0) for place, each in enumerate(types, 1)):
        raise ScenarioError("layer_types is no pattern that is read: each so many-th layer with full attention")
    return {
        **{"sliding_window": count(config, "sliding_window"), "full_attention_every": every},
        "full_attention_from": first if first != every else 0,
    }


def _layer_types(config: Mapping[str, Any], family: ConfigFamily) -> list[str]:
    """What each layer's attention is; of qwen2, the layers from max_window_layers on slide."""
    types, num_layers = entries(config, "layer_types"), layers(config, family.counts["num_layers"])
    if types is None:
        first = count(config, "max_window_layers", 0) if config.get("max_window_layers") is not None else 0
        num_full = first if flag(config, "use_sliding_window", default=True) else num_layers
        every = family.full_every or num_layers + 1
        return [FULL if place <= num_full or place % every == 0 else LOCAL for place in range(1, num_layers + 1)]
    if all(each in (FULL, LOCAL) for each in types):
        if len(types) != num_layers:
            raise ScenarioError(f"layer_types has {len(types)} layers, but {family.counts['num_layers']} = {num_layers}")
        return types
    raise ScenarioError(f"layer_types holds other layers than {FULL} and {LOCAL}, which are not read")


def _head(config: Mapping[str, Any], family: ConfigFamily) -> dict[str, Any]:
    """The head that the config's architecture has, with the number of its labels."""
    stated = config.get("architectures")
    stated = [stated] if isinstance(stated, str) else stated
    if not family.heads:
        if not isinstance(stated, list | None):
            raise ScenarioError(f"architectures must be a list, not {show(stated)}")
        others = [each for each in stated or () if not str(each).endswith(_DECODERS)]
        if others:
            raise ScenarioError(f"architectures holds {show(others[0])}, whose head is not read; that of a ...ForCausalLM is")
        return {}
    known = [family.heads[each] for each in stated if is_name_of(each, family.heads)] if isinstance(stated, list) else []
    if len(known) != 1 or len(stated or ()) != 1:
        shown = ", ".join(map(show, stated)) or "nothing" if isinstance(stated, list) else show(stated)
        raise ScenarioError(f"architectures is {shown}, which has no head that is read; known: {', '.join(family.heads)}")
    return {"head": known[0], **({"num_labels": _num_labels(config)} if known[0] in _LABELLED else {})}


def _num_labels(config: Mapping[str, Any]) -> int:
    """As transformers counts them: the names of id2label, or num_labels, or two."""
    labels = mapping(config, "id2label")
    found = len(labels) if labels is not None else count({"num_labels": 2, **config}, "num_labels")
    if found < 2:
        raise ScenarioError(f"the number of labels is {found}, a regression in transformers, which is not read; 2 or more are")
    return found


def _flags(config: Mapping[str, Any], family: ConfigFamily) -> dict[str, bool]:
    """Figures by the config's flags; attention_bias is also that of the attention output."""
    found = {figure: flag(config, key) for figure, key in family.flags.items()}
    if family.flags.items() >= BIASES.items():
        found |= biases(qkv=found["qkv_bias"], out=found["qkv_bias"], mlp=found["bias"])
    return found


def _activation(config: Mapping[str, Any], family: ConfigFamily) -> str:
    key, default, legal = family.activation
    value = config.get(key, default)
    ours = {name: each for name, known in _ACTIVATIONS.items() for each in known if each in legal}
    if not is_name_of(value, ours):
        raise ScenarioError(f"{key} {show(value)} is not read; known here: {', '.join(ours)}")
    return ours[value]


def _dropout(config: Mapping[str, Any], family: ConfigFamily) -> dict[str, Any]:
    """One share, and which of the places that a family names by keys of their own it is dropped at."""
    keys = (*family.dropouts, *family.dropped.values())
    values = {key: config.get(key, family.default_dropout) for key in keys if key != AS_HIDDEN or config.get(key) is not None}
    wrong = [key for key, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1]
    if wrong:
        raise ScenarioError(f"{wrong[0]} must be at least 0 and below 1, not {show(values[wrong[0]])}")
    share = float(values[family.dropouts[0]])
    legal = {key: {share, 0} if key in family.dropped.values() else {share} for key in values}
    if any(value not in legal[key] for key, value in values.items()):
        raise ScenarioError(f"{', '.join(values)} differ; one dropout for all can be read")
    if share and len(values) == 1:
        raise ScenarioError(f"{family.dropouts[0]} = {share} drops attention scores only, which is not read; 0 is")
    return {"dropout": share, **{figure: values[key] > 0 for figure, key in family.dropped.items() if share}}


def _rotary_dim(config: Mapping[str, Any], family: ConfigFamily) -> dict[str, int]:
    """How much of a head is turned, where that is not all."""
    if config.get(SHARE_TURNED) is None or is_same(config[SHARE_TURNED], 1.0):
        return {}
    width = (
        count(config, "head_dim")
        if config.get("head_dim") is not None
        else count(config, family.counts["hidden_size"]) // count(config, family.counts["num_heads"])
    )
    if not 0 < (turned := int(number(config, SHARE_TURNED) * width)) <= width:
        raise ScenarioError(f"{SHARE_TURNED} = {config[SHARE_TURNED]} turns {turned} elements of a head of {width}, which is not read")
    return {"rotary_dim": turned}
