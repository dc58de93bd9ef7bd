"""Megatron-Bridge: a recipe, which is a Python function that fills a configuration.  One is written; any is read, and never run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from parsim.errors import ParsimError, PlanError
from parsim.scenario.huggingface import PREFIX
from parsim.targets import hub
from parsim.targets.entries import Entry, Keys, Unresolved, constant
from parsim.targets.figures import spec_of
from parsim.targets.megatron import experts, hybrid, model, parallel, precision, rates
from parsim.targets.megatron.config import from_config, to_config
from parsim.targets.megatron.constraints import environment, notes, refusals
from parsim.targets.recipes import MadeObject, Reader, flat
from parsim.targets.starting import exports, processes_of, slurm, torchrun
from parsim.targets.target import TARGETS, KeyValue, Launch, Neighbours, NotExpressible, Setup, Target

NAME: Final = "megatron-bridge"
VERSIONS: Final = ("0.7.0", "0.3.1")
_RECIPE, _SCRIPT, _JOB = "recipe.py", "pretrain.sh", "job.sbatch"
_BASE: Final = "_pretrain_common"
# What that sets, of what matters to a step, where its own file is not at hand: recipes/common.py, alike in both versions.
_OF_BASE: Final[Mapping[str, KeyValue]] = {
    "train.global_batch_size": 32,
    "train.micro_batch_size": 2,
    "ddp.grad_reduce_in_fp32": True,
    "ddp.overlap_grad_reduce": True,
    "ddp.overlap_param_gather": True,
    "ddp.data_parallel_sharding_strategy": "optim_grads_params",
    "ddp.use_distributed_optimizer": True,
    "optimizer.use_distributed_optimizer": True,
    "dataset.seq_length": 4096,
    "mixed_precision": "bf16_mixed",
}
_SWITCHES: Final = ("grad_reduce_in_fp32", "overlap_grad_reduce", "overlap_param_gather", "use_distributed_optimizer")
_HF: Final = "hf_model"  # what a model's figures are taken from, in place of stated ones
_OF_CLASS: Final = "its class is that of hf_model"
_CLASS: Final = "model class"  # one whose own text says the figures
_OF_IMAGES: Final = ("Wan", "Flux")
# Classes whose figures are those of a repository, where a recipe states no others; of several by the number of layers.
_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "OlMoEModelProvider": ("allenai/OLMoE-1B-7B-0924",),
    "Gemma3ModelProvider": ("google/gemma-3-1b-pt",),
}
_HYBRIDS: Final = ("HybridModelProvider", "MambaModelProvider")
# What a model that is named has of its own.
_SAID_BY_NAME: Final = ("tokenizer_type", "vocab_size", "attention_dropout", "hidden_dropout")
_SAID_BY_CLASS: Final = (
    *("hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "group_query_attention", "kv_channels"),
    *("window_size", "model.rope_scaling_factor"),
)
_PRECISION: Final = "get_mixed_precision_config"  # whose argument is the name
_PEFT: Final = "peft"
_TARGETS: Final = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
_OF_MAMBA: Final = ("in_proj", "out_proj")
_TORCH: Final = {"torch.bfloat16": "bf16", "torch.float32": "fp32", "torch.float16": "fp16"}
_BACK: Final = {short: long for long, short in _TORCH.items()}
_DTYPES: Final = ("optimizer.exp_avg_dtype", "optimizer.exp_avg_sq_dtype")
_DEVICES: Final = re.compile(r"_(\d{1,5})gpus?_")  # of the names of its recipes


def entries(version: str) -> tuple[Entry, ...]:
    """All that a recipe says of plan, batch and model, which may be that of a repository of the hub."""
    own = tuple(map(_unless_named, (*model.entries(), *experts.entries(), hybrid.entry())))
    of_plan = parallel.entries("0.16.1")  # the dataclass has the strategy that the command line had then
    read_only = (Entry((), lambda setup: {}, each) for each in (_read_name, _read_tokenizer, _read_adapters))
    return (*of_plan, *precision.entries(), *own, *rates.entries(bridge=True), *read_only, constant(transformer_impl="transformer_engine"))


def _unless_named(entry: Entry) -> Entry:
    return replace(entry, read=lambda keys: {} if _HF in keys or _CLASS in keys else entry.read(keys))


def _read_name(keys: Keys) -> dict[str, Any]:
    """The model of a repository, with the layers and the modules for a later token that a recipe states beside it."""
    if known := keys.of_type(str, _CLASS):
        why = "the text of the class says the figures"
        why = "models of images or video (diffusion) are not built" if known.startswith(_OF_IMAGES) else why
        keys.leave(_CLASS, why)
    if not (name := keys.of_type(str, _HF)):
        return {}
    for key in (*_SAID_BY_NAME, *(_SAID_BY_CLASS if keys.take(_OF_CLASS) else ())):
        keys.take(key)  # the model's own
    if why := hub.part_left(name):
        keys.leave(_HF, why)
    model = hub.model_of(name)
    if not model or model.startswith(PREFIX):
        return {"model": model} if model else {}
    counts = {figure: keys.of_type(int, key) for figure, key in (("num_layers", "num_layers"), ("mtp_layers", "mtp_num_layers"))}
    return {"model": model, **{f"model.{figure}": count for figure, count in counts.items() if count is not None}}


def _read_tokenizer(keys: Keys) -> dict[str, Any]:
    """The tokens of a model that states none, where its tokenizer is that of a repository that is known."""
    name = keys.of_type(str, "tokenizer.tokenizer_model")
    row = hub.ROWS.get(name or "") or hub.TOKENS_OF.get(name or "")
    if row is None or _HF in keys or _CLASS in keys or keys.take("vocab_size") is not None:
        return {}
    return {"model.vocab_size": spec_of({"base": row}).extents["V"]}


def _read_adapters(keys: Keys) -> dict[str, Any]:
    """Adapters beside linear layers; the defaults are those of its class (peft/lora.py)."""
    if (kind := keys.of_type(str, _PEFT)) is None:
        return {}
    if kind != "LoRA":
        keys.leave(_PEFT, "adapters of LoRA are built")
        return {}
    targets, alpha = keys.take(f"{_PEFT}.target_modules") or _TARGETS, keys.of_type(float, f"{_PEFT}.alpha", 32.0)
    latent = bool(keys.take("multi_latent_attention") or hub.is_latent(keys.of_type(str, _HF) or ""))  # which has no layer of that name
    if of_mamba := [each for each in targets if each in _OF_MAMBA]:
        keys.leave(f"{_PEFT}.target_modules", f"{', '.join(of_mamba)}: adapters beside Mamba layers are not built")
    targets = [each for each in targets if each not in of_mamba and (each != "linear_qkv" or not latent)]
    found = {"lora_rank": keys.like(f"{_PEFT}.dim", 32), "lora_alpha": alpha, "lora_targets": targets}
    found["lora_dropout"] = keys.of_type(float, f"{_PEFT}.dropout", 0.0)
    return {f"tuning.{name}": value for name, value in found.items()}


def write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """A recipe, a script that each node runs, and that of Slurm around it."""
    config = {f"ddp.{name}": False for name in _SWITCHES} | to_config({key: value for key, value in keys.items() if key not in _LEFT_OUT})
    config |= {"ddp.use_megatron_fsdp": bool(config.get("ddp.use_megatron_fsdp"))}
    config["optimizer.use_distributed_optimizer"] = config["ddp.use_distributed_optimizer"]
    config |= {"dataset.seq_length": config["model.seq_length"], "model.vocab_size": keys["vocab_size"] + 1, "model.should_pad_vocab": True}
    lines = ["#!/bin/bash", "set -euo pipefail", *exports(environment(setup)), torchrun(setup, [_RECIPE]), ""]
    files = {_RECIPE: _recipe(config, setup, version), _SCRIPT: "\n".join(lines), _JOB: slurm(setup, f"bash {_SCRIPT}")}
    several = processes_of(setup).num_nodes > 1
    return Launch(NAME, version, files, f"sbatch {_JOB}" if several else f"bash {_SCRIPT}", tuple(notes(setup)))


_LEFT_OUT: Final = ("mock_data", "transformer_impl")


def _recipe(config: Mapping[str, KeyValue], setup: Setup, version: str) -> str:
    latent, function = config.get("model.multi_latent_attention"), f"pretrain_{setup.plan.num_devices}gpu_config"  # as its own are named
    provider, module = ("MLAModelProvider", "mla_provider") if latent else ("GPTModelProvider", "gpt_provider")
    own = {name.removeprefix("model."): value for name, value in config.items() if name.startswith("model.")}
    named = [f"        {name}={_python(name, value)}," for name, value in own.items()]
    precise = config["mixed_precision"]
    called = f'get_mixed_precision_config("{precise}")' if precise else "None"
    rest = {name: value for name, value in config.items() if not name.startswith("model.") and name != "mixed_precision"}
    return "\n".join(
        [
            f'"""{setup.scenario.name}, plan {setup.name}: Megatron-Bridge {version}."""',
            "",
            "import torch",
            "from megatron.core.activations import quick_gelu, squared_relu  # noqa: F401",
            f"from megatron.bridge.models.{module} import {provider}",
            f"from megatron.bridge.recipes.common import {_BASE}",
            "from megatron.bridge.training.config import ConfigContainer",
            "from megatron.bridge.training.gpt_step import forward_step",
            "from megatron.bridge.training.mixed_precision import get_mixed_precision_config",
            "from megatron.bridge.training.pretrain import pretrain",
            "",
            "",
            f"def {function}() -> ConfigContainer:",
            f"    cfg = {_BASE}()",
            f"    cfg.model = {provider}(",
            *named,
            "    )",
            f"    cfg.mixed_precision = {called}",
            *(f"    cfg.{name} = {_python(name, value)}" for name, value in rest.items()),
            "    return cfg",
            "",
            "",
            'if __name__ == "__main__":',
            f"    pretrain(config={function}(), forward_step_func=forward_step)",
            "",
        ]
    )


def _python(name: str, value: KeyValue) -> str:
    if name == "activation_func":
        return "torch.nn.functional.silu" if value == "silu" else str(value)
    if name in _DTYPES:
        return _BACK[value]
    if name == "moe_layer_freq":
        return str(value)  # lists times numbers, as they stand
    return repr(tuple(value) if name == "window_size" else value)


def read(text: str, name: str, beside: Neighbours = lambda path: None) -> tuple[Mapping[str, KeyValue], str] | None:
    """The keys of a recipe, FILE or FILE::FUNCTION; None where the file has none.

    Raises:
        ParsimError: it has several, and none is named, or one gives no configuration.
    """
    path, _, asked = name.partition("::")
    if not path.endswith(".py") or "megatron.bridge" not in text:
        return None
    reader = Reader(text, path, beside, (_PRECISION,))
    known = [each for each in reader.functions() if each.endswith(("config", "_cfg"))] or [*reader.functions()]
    if not asked and len(known) != 1:
        first = known[0] if known else "FUNCTION"
        raise ParsimError(f"it has {len(known)} recipes: {', '.join(known[:12])} ...", path, f"Name one: {path}::{first}.")
    record = reader.call(asked or known[0])
    if not isinstance(record, MadeObject):
        raise ParsimError(f"{asked or known[0]} gives no configuration that can be read", path, f"What it gives: {str(record)[:100]}.")
    keys = from_config(_dotted_names(record))
    if found := _DEVICES.search(f"{asked or known[0]}_"):
        keys.setdefault(parallel.WORLD, int(found[1]))
    return keys, ""


def _dotted_names(record: MadeObject) -> dict[str, KeyValue]:
    found: dict[str, KeyValue] = dict(_OF_BASE) if record.made_by == _BASE else {}
    if record.made_by not in (_BASE, "ConfigContainer", ""):
        found[f"{record.made_by}()"] = Unresolved("its text is not at hand")
    of_model, precise = record.fields.get("model"), record.fields.get("mixed_precision")
    for name, value in flat(record):
        if name.startswith("model.") and name.endswith("."):
            continue
        short = _TORCH.get(str(value), value) if isinstance(value, Unresolved) else value
        found[name] = str(value) if name == "model.activation_func" else short
    if isinstance(tuned := record.fields.get(_PEFT), MadeObject):
        found[_PEFT] = tuned.made_by
    if isinstance(of_model, MadeObject):
        usual = hybrid.OF_CLASS if of_model.made_by in _HYBRIDS else {}
        found = {**{f"model.{name}": value for name, value in usual.items()}, **found, **_model_of(of_model)}
    if isinstance(precise, MadeObject) and precise.made_by not in ("MixedPrecisionConfig", ""):
        args = precise.fields.get("") or []
        named = precise.fields.get("name") or (args[0] if args else None)
        told = {name: value for name, value in found.items() if name.startswith("mixed_precision.")}
        found = {name: value for name, value in found.items() if name not in told}
        found |= {"mixed_precision": named if precise.made_by.startswith("get_") else precise.made_by, **told}
    return found


def _model_of(made: MadeObject) -> dict[str, KeyValue]:
    """Where the figures of a model come from that a recipe does not state itself."""
    if "from_hf_" in made.made_by:
        args = made.fields.get("") or []
        name = args[0] if args else made.fields.get("hf_path")
        return {_HF: name if isinstance(name, str) else Unresolved(str(name))}
    layers = made.fields.get("num_layers")
    for each in _CLASSES.get(made.made_by, ()):
        if layers in (None, spec_of({"base": hub.ROWS[each]}).num_layers):
            return {_HF: each, _OF_CLASS: True}
    plain = made.made_by in ("GPTModelProvider", "MLAModelProvider", "GPTModelConfig", *_HYBRIDS, "")
    own: dict[str, KeyValue] = {"multi_latent_attention": True} if made.made_by == "MLAModelProvider" else {}
    return own if plain else {_CLASS: made.made_by}


def refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What it would not run."""
    yield from refusals(NAME, setup, version)
    if setup.plan.zero_stage > 1 and setup.plan.rank_order == "tp-pp-dp":
        yield NotExpressible("rank_order", NAME, version, "its Megatron-FSDP keeps to tp-dp-pp")


TARGETS.register(
    NAME,
    Target(
        NAME,
        VERSIONS,
        "Megatron-Bridge: a recipe in Python; any recipe is read, and never run",
        entries,
        write,
        lambda text, name: read(text, name),
        refuses,
        "NVIDIA-NeMo/Megatron-Bridge, tag v0.3.1 and 067f987d (0.7.0 of August 2026): src/megatron/bridge/training/config.py, recipes/",
        read_with=read,
    ),
)
