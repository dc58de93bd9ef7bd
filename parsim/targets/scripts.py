"""What a script of transformers' Trainer is told beside its launcher: its model, adapters, and arguments in a YAML of their own.

Source: huggingface/transformers 5.24.0, training_args.py; huggingface/trl, trl/scripts/utils.py (TrlParser: --config FILE) and
trl/trainer/model_config.py; axolotl-ai-cloud/axolotl@067b021c, src/axolotl/utils/schemas (Axolotl's keys for the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.targets import hub
from parsim.targets.documents import flatten
from parsim.targets.entries import Keys
from parsim.targets.target import KeyValue, Neighbours

PREFIX: Final = "script."  # of the names of TrainingArguments
_MODELS: Final = tuple(f"{PREFIX}{name}" for name in ("model_name_or_path", "model_name", "model_id"))
_OF_TRAINER: Final = "per_device_train_batch_size"  # which no other file has
_OF_AXOLOTL: Final = {
    "base_model": "model_name_or_path",
    "micro_batch_size": _OF_TRAINER,
    "sequence_len": "max_length",
    "optimizer": "optim",
}
_SAID_OTHERWISE: Final = ("adapter", "lora_target_linear", "fsdp", "fsdp_config", "fsdp_version")
_ADAPTERS: Final = {"lora": {"use_peft": True}, "qlora": {"use_peft": True, "load_in_4bit": True}}


def read_model(keys: Keys) -> dict[str, Any]:
    """The row of the model that the script loads."""
    if (key := next((each for each in _MODELS if each in keys), None)) is None:
        return {}
    name = keys.of_type(str, key, "") or ""
    if row := hub.row_called(name):
        return {"model": row}
    keys.leave(key, hub.part_left(name) or "no row of the catalog is known by it; give --model NAME or --model hf:path/to/config.json")
    return {}


def read_adapters(keys: Keys) -> dict[str, Any]:
    """Adapters beside linear layers, with the defaults of TRL's ModelConfig and, of targets, of peft."""
    if keys.take(f"{PREFIX}use_peft") is not True:
        return {}
    targets = keys.take(f"{PREFIX}lora_target_modules") or ["q_proj", "v_proj"]
    found: dict[str, Any] = {"lora_targets": targets if isinstance(targets, list) else str(targets).split()}
    found |= {"lora_rank": keys.like(f"{PREFIX}lora_r", 16), "lora_alpha": keys.of_type(float, f"{PREFIX}lora_alpha", 32.0)}
    found["lora_dropout"] = keys.of_type(float, f"{PREFIX}lora_dropout", 0.05)
    if keys.take(f"{PREFIX}load_in_4bit") is True:
        found |= {"quantization": "nf4", "double_quantization": keys.like(f"{PREFIX}use_bnb_nested_quant", False)}
    return {f"tuning.{name}": value for name, value in found.items()}


def leave_others(keys: Keys) -> dict[str, Any]:
    """Tell what else the script is told."""
    if "config_file" in keys:
        keys.leave("config_file", "import that file, too: it says how the processes work together")
    if f"{PREFIX}deepspeed" in keys:
        keys.leave(f"{PREFIX}deepspeed", "import that file, which says how states are shared: parsim import FILE --from deepspeed")
    for key in [key for key in keys.rest() if key.startswith(PREFIX)]:
        keys.leave(key, "of the script, of which parsim knows the flags of transformers' Trainer that change a step")
    return {}


def arguments_in(document: Mapping[str, Any]) -> dict[str, KeyValue] | None:
    """The keys of a YAML that holds the arguments of such a script, or Axolotl's for it; None where it holds others.

    >>> arguments_in({"base_model": "a/b", "micro_batch_size": 2, "adapter": "lora", "lora_target_linear": True})
    {'script.model_name_or_path': 'a/b', 'script.per_device_train_batch_size': 2, 'script.use_peft': True, \
'script.lora_target_modules': ['all-linear']}
    """
    if _OF_TRAINER in document:
        return {f"{PREFIX}{key}": value for key, value in flatten(document)}
    return _of_axolotl(document) if {"base_model", "micro_batch_size"} <= document.keys() else None


def _of_axolotl(document: Mapping[str, Any]) -> dict[str, KeyValue]:
    own = {key: value for key, value in document.items() if value is not None and key not in _SAID_OTHERWISE}
    found = {_OF_AXOLOTL.get(key, key): value for key, value in own.items()} | _ADAPTERS.get(str(document.get("adapter")), {})
    if document.get("lora_target_linear") is True:
        found["lora_target_modules"] = ["all-linear"]
    if document.get("bf16") == "auto":
        found["bf16"] = True
    told = {f"{PREFIX}{key}": value for key, value in flatten(found)}
    if not (document.get("fsdp") or document.get("fsdp_config")):
        return told
    sharding = document.get("fsdp_config")
    stated = {"version": document.get("fsdp_version", 1), **(sharding if isinstance(sharding, dict) else {})}
    keys = {f"fsdp_{str(key).removeprefix('fsdp_')}": value for key, value in stated.items()}
    return {"distributed_type": "FSDP", **{f"fsdp_config.{key}": value for key, value in keys.items()}, **told}


def text_beside(keys: Mapping[str, KeyValue], key: str, beside: Neighbours) -> str | None:
    """The file that a key names, where it lies beside."""
    named = keys.get(key)
    return beside(named) if isinstance(named, str) else None
