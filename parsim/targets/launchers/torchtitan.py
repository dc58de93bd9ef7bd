"""torchtitan: a file of keys up to 0.2.2, then a function that configures and flags beside it, at last with batches in tokens."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from math import inf
from typing import Any, Final

from parsim.errors import ParsimError
from parsim.targets.documents import flatten
from parsim.targets.entries import Entry, Keys
from parsim.targets.flags import flags_in, number_in
from parsim.targets.starting import sbatch, split_line, torchrun
from parsim.targets.target import TARGETS, KeyValue, Launch, Setup, Target
from parsim.targets.torchtitan import entries, pipeline
from parsim.targets.torchtitan.dialect import DIALECTS, HEAD, NEWEST, TOML, Dialect
from parsim.targets.torchtitan.flavours import CONVERTED, FUNCTIONS, flavour_of, is_theirs
from parsim.targets.torchtitan.refusals import NAME, refusals
from parsim.targets.torchtitan.registration import registers, registration
from parsim.targets.torchtitan.registry import COMPUTED, jobs_in
from parsim.targets.training import usual_notes

_FILE, _CSV, _OURS = "torchtitan.toml", "schedule.csv", "parsim_job"
_IDLE: Final = (  # sections that say nothing of what a step does
    *("job", "profiling", "metrics", "checkpoint", "lr_scheduler", "validation", "comm", "debug", "experimental"),
    *("hf_assets_path", "dump_folder", "profiler", "tokenizer", "dataloader", "validator", "memory_estimation", "fault_tolerance"),
)
_IDLE_KEYS: Final = (
    *(f"training.{key}" for key in ("dataset", "dataset_path", "gc_freq", "gc_debug", "seed", "deterministic")),
    "optimizer.implementation",
    *(f"model.{key}" for key in ("hf_assets_path", "tokenizer_path", "print_after_conversion", "norm_type")),
    *("training.mixed_precision_reduce", "compile.backend", "compile.components", "activation_checkpoint.preserve_rng_state"),
)
_CONVERTERS: Final = {"mxfp8": ("MXFP8LinearConverter", ""), "nvfp4": ("NVFP4LinearConverter", 'fqns=["layers"], ')}
_POLICY: Final = "activation-checkpoint:"
_WHY: Final = "it says nothing of what a step does"
_RENAMED: Final = {  # keys of releases before 0.2, and of those before 0.1, whose degrees stood in [training] and [experimental]
    "training.batch_size": "training.local_batch_size",
    "training.data_parallel_degree": "parallelism.data_parallel_shard_degree",
    **{
        f"training.{name}": f"parallelism.{name}"
        for name in (
            *("tensor_parallel_degree", "pipeline_parallel_degree", "data_parallel_replicate_degree", "data_parallel_shard_degree"),
            *("fsdp_reshard_after_forward", "disable_loss_parallel"),
        )
    },
    "float8": "quantize.linear.float8",
    "mx": "quantize.linear.mx",
}


def _entries(version: str) -> tuple[Entry, ...]:
    """The table, behind what a line says of its devices and before what nobody misses."""
    return (Entry((), lambda setup: {}, _devices), *entries.entries(version), Entry((), lambda setup: {}, _idle))


def _devices(keys: Keys) -> dict[str, Any]:
    return {"num_devices": keys.take(pipeline.DEVICES)}


def _idle(keys: Keys) -> dict[str, Any]:
    for key in keys.rest():
        if key.split(".")[0] in _IDLE or key in _IDLE_KEYS:
            keys.leave(key, _WHY)
    return {}


def _write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """The files: keys or a line, actions of a schedule, a function where torchtitan has none, and a script for Slurm."""
    told, files = dict(keys), {}
    if written := told.get(pipeline.WRITTEN):
        files[_CSV], told[pipeline.WRITTEN] = written, _CSV
    if DIALECTS[version].toml:
        program = ["-m", "torchtitan.train", "--job.config_file", _FILE]
        main = {_FILE: _as_toml({"job.description": f"plan {setup.name} of {setup.scenario.name}", **told})}
    else:
        if not is_theirs(told["config"]):
            files[f"{_OURS}.py"] = _function(told["config"], told["module"], setup, DIALECTS[version])
            told["module"] = _OURS
        program = ["-m", "torchtitan.train", *_flags(told)]
        main = {"train.sh": f"#!/bin/bash\n# torchtitan {version}\n{torchrun(setup, program)}\n"}
    files["train.sbatch"] = sbatch(setup, program)
    return Launch(NAME, version, {**main, **files}, torchrun(setup, program), _notes(setup, version))


def _notes(setup: Setup, version: str) -> tuple[str, ...]:
    notes = [] if setup.stack.name.startswith(NAME) else [f"it runs kernels of its own; the scenario assumes stack {setup.stack.name}"]
    if registers(setup, DIALECTS[version]):
        notes.append(f"{_OURS}.py registers a flavour {setup.model.name}, which torchtitan has not; rotations are those of Llama 3.1")
    elif flavour_of(setup.model, toml=DIALECTS[version].toml) is None:
        sizes = ("num_layers", "hidden_size", "ffn_hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "num_experts")
        figures = ", ".join(f"{name} = {value}" for name in sizes if (value := getattr(setup.model, name, 0)))
        notes.append(f"no flavour of it has the figures of {setup.model.name}: register one of that name, with {figures}")
    if not DIALECTS[version].toml and setup.dtype in CONVERTED:
        notes.append("its converter of linear layers needs torchao")
    return (*notes, *usual_notes(setup, scheduled=True))


def _as_toml(keys: Mapping[str, KeyValue]) -> str:
    sections: dict[str, list[str]] = {}
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {'inf' if value == inf else json.dumps(value)}")
    parts = [f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items()]
    return f"# torchtitan {TOML}\n" + "\n\n".join(parts) + "\n"


def _flags(keys: Mapping[str, KeyValue]) -> list[str]:
    words: list[str] = []
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        if key == entries.POLICY:
            continue
        if isinstance(value, bool):
            words.append(f"--{section}.{'' if value else 'no_'}{name}")
        elif isinstance(value, list):
            words += [f"--{key}", *(",".join(each) if isinstance(each, list) else str(each) for each in value)]
        else:
            words += [f"--{key}", str(value)]
    return [*words, f"{entries.POLICY.replace('_', '-')}:{keys[entries.POLICY]}"]  # behind all flags of its parent


def _function(name: str, module: str, setup: Setup, dialect: Dialect) -> str:
    """A module with a function that configures a flavour which torchtitan has no function of, or narrows its linear layers."""
    known = FUNCTIONS.get(name)
    flavour, precision = known.flavour if known else setup.model.name, setup.dtype if setup.dtype in CONVERTED else ""
    base = f"{module}_debugmodel"
    words = f"model_compile_enabled={setup.stack.name.startswith(entries.COMPILED)}"
    converter, more = _CONVERTERS.get(precision, ("Float8LinearConverter", f'recipe_name="{precision.removeprefix("fp8_")}", '))
    imported = f"from torchtitan.components.quantization import {converter}\n" if precision else ""
    converters = f", converters=[{converter}.Config({more}{words})]" if precision else ""
    registered = f"\n{registration(setup, dialect)}" if registers(setup, dialect) else ""
    return f'''"""A configuration of torchtitan that parsim wrote."""

{imported}from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.models.{module} import model_registry
from torchtitan.models.{module}.config_registry import {base}
from torchtitan.trainer import Trainer
{registered}

def {name}() -> Trainer.Config:
    config = {base}()
    config.model_spec = model_registry({flavour!r}{converters})
    config.loss.loss_fn.global_vocab_size = decoder_vocab_size(config.model_spec)
    return config
'''


def _read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    if "Trainer.Config" in text and "model_registry" in text:
        return _of_registry(text, name)
    if re.search(r"--(parallelism|training|job\.config_file|config)\b", text) and re.search(
        r"torchtitan|--module|--job\.config_file", text
    ):
        return _of_line(text)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    try:
        keys = {_new_name(key): value for key, value in flatten(document)}
    except RecursionError:
        raise ParsimError("its tables are nested too deep", name) from None
    titan = "model.flavor" in keys or any(key.startswith("parallelism.") for key in keys)
    return (keys, TOML) if titan and "training" in document else None


def _new_name(key: str) -> str:
    if key in _RENAMED:
        return _RENAMED[key]
    section, _, rest = key.partition(".")
    moved = section == "experimental" and rest.startswith(("pipeline_", "context_", "enable_async"))
    return f"parallelism.{rest}" if moved else f"{_RENAMED[section]}.{rest}" if section in _RENAMED else key


def _of_registry(text: str, name: str) -> tuple[Mapping[str, KeyValue], str]:
    """One function of a registry; `name` may end in ":FUNCTION"."""
    path, _, chosen = name.partition(".py:")
    chosen = chosen.removeprefix(":")  # FILE::FUNCTION, as of other launchers
    try:
        jobs = jobs_in(text, path)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ParsimError(f"it is no Python: {error or 'nested too deep'}", name) from None
    if chosen not in jobs and len(jobs) != 1:
        remedy = f"Name one, FILE::NAME, or import a command line with --module and --config; there are {', '.join(jobs)}." if jobs else ""
        raise ParsimError(f"it has {len(jobs)} functions that configure a job", name, remedy)
    keys = jobs[chosen] if chosen in jobs else next(iter(jobs.values()))
    stated = {key: value for key, value in keys.items() if not (isinstance(value, tuple | dict) and COMPUTED in value)}
    return stated, HEAD if any("num_tokens" in key or "max_context" in key for key in keys) else NEWEST


def _of_line(text: str) -> tuple[Mapping[str, KeyValue], str] | None:
    """Flags behind torchrun; a word ending in a backslash goes on, and comments do not count."""
    lines = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    try:
        words = shlex.split(lines, comments=True)
    except ValueError:
        return None
    processes, _ = split_line(words)
    keys: dict[str, KeyValue] = {pipeline.DEVICES: processes.num_devices} if processes else {}
    place = next((n for n, word in enumerate(words) if re.match(r"--(module|config|job|training|parallelism|model)\b", word)), len(words))
    behind = words[place:]
    if policies := [word.removeprefix(_POLICY) for word in behind if word.startswith(_POLICY)]:
        keys[entries.POLICY] = policies[-1]
    keys.update(_flag(flag.replace("-", "_"), values) for flag, values in flags_in(behind, (_POLICY,)))
    newer = HEAD if any("num_tokens" in key or "num_pp" in key for key in keys) else NEWEST
    return (keys, TOML if "job.config_file" in keys or "model.flavor" in keys else newer) if len(keys) > 1 else None


def _flag(key: str, values: list[str]) -> tuple[str, KeyValue]:
    section, _, name = key.rpartition(".")
    if key.endswith("module_fqns_per_model_part"):
        return key, [value.split(",") for value in values]
    if not values:
        return (f"{section}.{name[3:]}", False) if name.startswith("no_") else (key, True)
    numbers = [number_in(each) for each in values]
    if len(values) > 1 and None not in numbers:
        return key, [float(each) for each in values]
    if len(values) > 1:
        return key, values
    known = {"None": None, "True": True, "False": False, "true": True, "false": False}
    return key, known.get(values[0], values[0]) if numbers[0] is None else numbers[0]


TARGETS.register(
    NAME,
    Target(
        NAME,
        (NEWEST, HEAD, TOML),
        "torchtitan: flags beside a function of its registry, or up to 0.2.2 a file of keys",
        _entries,
        _write,
        _read,
        refusals,
        "pytorch/torchtitan, tag v0.2.2, release 0.3.0 and commit b5bcd76c",
    ),
)
