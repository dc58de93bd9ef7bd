"""Megatron-LM's pretrain_gpt.py: a command line of flags, in a shell script; a YAML file of its tests, or of --yaml-cfg, is read, too."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from parsim.errors import PlanError
from parsim.scenario import tree
from parsim.targets import shell
from parsim.targets.entries import Entry, Unresolved, constant
from parsim.targets.flags import flags_in, number_in
from parsim.targets.megatron import experts, hybrid, model, parallel, precision, rates
from parsim.targets.megatron.config import from_config
from parsim.targets.megatron.constraints import environment, notes, refusals
from parsim.targets.starting import exports, of_sbatch, processes_of, slurm, split_line, torchrun
from parsim.targets.target import TARGETS, KeyValue, Launch, Setup, Target

NAME: Final = "megatron-lm"
VERSIONS: Final = ("0.20.0", "0.16.1")
_PROGRAM, _SCRIPT, _JOB = "pretrain_gpt.py", "pretrain.sh", "job.sbatch"
# Flags that turn off what is on, and what they turn off.
OFF: Final = {
    "disable_bias_linear": "add_bias_linear",
    "no_bias_gelu_fusion": "bias_gelu_fusion",
    "no_gradient_accumulation_fusion": "gradient_accumulation_fusion",
    "torch_fsdp2_no_reshard_after_forward": "torch_fsdp2_reshard_after_forward",
}
_ON: Final = {name: flag for flag, name in OFF.items()}
_STAND_INS: Final = {"mock_data": True, "transformer_impl": "transformer_engine"}
_KNOWN: Final = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "num_attention_heads", "micro_batch_size", "hidden_size")
_TESTS, _NESTED = "MODEL_ARGS", ("language_model", "model_parallel")


def entries(version: str) -> tuple[Entry, ...]:
    """All that its flags say of plan, batch and model."""
    own = (*model.entries(), *experts.entries(), hybrid.entry(), *rates.entries())
    return (*parallel.entries(version), *precision.entries(), *own, constant(**_STAND_INS))


def flags(keys: Mapping[str, KeyValue]) -> Iterator[list[str]]:
    """The words of each key; what is so anyway has none.

    >>> [*flags({"bf16": True, "add_bias_linear": False, "num_layers": 2, "recompute_modules": ["mlp", "moe"], "swiglu": False})]
    [['--bf16'], ['--disable-bias-linear'], ['--num-layers', '2'], ['--recompute-modules', 'mlp', 'moe']]
    """
    for key, value in keys.items():
        flag = f"--{key.replace('_', '-')}"
        if value is False:
            if key in _ON:
                yield [f"--{_ON[key].replace('_', '-')}"]
        elif value is True:
            yield [flag]
        else:
            yield [flag, *map(str, value if isinstance(value, list) else [value])]


def write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """A script that each node runs, and that of Slurm around it."""
    told = {key: value for key, value in keys.items() if key != parallel.WORLD}
    lines = ["#!/bin/bash", f"# {setup.scenario.name}, plan {setup.name}: Megatron-LM {version}.", "set -euo pipefail"]
    lines += [*exports(environment(setup)), "ARGS=(", *(f"  {shlex.join(words)}" for words in flags(told)), ")"]
    script = "\n".join([*lines, f'{torchrun(setup, [_PROGRAM])} "${{ARGS[@]}}"', ""])
    several = processes_of(setup).num_nodes > 1
    command = f"sbatch {_JOB}" if several else f"bash {_SCRIPT}"
    return Launch(NAME, version, {_SCRIPT: script, _JOB: slurm(setup, f"bash {_SCRIPT}")}, command, tuple(notes(setup)))


def read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    """The keys of a script, a line, or a YAML file; None where none of them are Megatron's."""
    if name.endswith((".yaml", ".yml")):
        found = _of_yaml(text, name)
        return (found, "") if found is not None else None
    script = shell.read_script(text)
    processes, program = split_line(script.command)
    keys = of_words(program[1:])
    if not any(key in keys for key in _KNOWN):
        return None
    if processes := processes or of_sbatch(text):
        keys[parallel.WORLD] = processes.num_devices
    elif "torchrun" in " ".join(script.command):
        keys[parallel.WORLD] = Unresolved("nodes x processes a node")
    return keys, ""


def of_words(words: Sequence[str]) -> dict[str, KeyValue]:
    """The keys that flags say.

    >>> of_words(["--num-layers", "2", "--bf16", "--moe-aux-loss-coeff=1e-2", "--no-bias-dropout-fusion", "--data-path", "$X"])
    {'num_layers': 2, 'bf16': True, 'moe_aux_loss_coeff': 0.01, 'no_bias_dropout_fusion': True, 'data_path': '$X'}
    """
    found: dict[str, KeyValue] = {}
    for flag, values in flags_in(words):
        key = flag.replace("-", "_")
        if key in OFF:
            found[OFF[key]] = False
        else:
            found[key] = _value(values)
    return found


def _value(values: Sequence[str]) -> KeyValue:
    if any("$" in each or "`" in each for each in values):
        return Unresolved(" ".join(values))
    read_as = [each if (number := number_in(each)) is None else number for each in values]
    return True if not read_as else read_as[0] if len(read_as) == 1 else read_as


def _of_yaml(text: str, name: str) -> dict[str, KeyValue] | None:
    found = tree.parse(text, name)
    if not isinstance(found.value, Mapping):
        return None
    document: Mapping[str, Any] = found.value
    if isinstance(flat := document.get(_TESTS), Mapping):
        words = ([str(key), *_words(value)] for key, value in flat.items() if value is not False and value is not None)
        return of_words([word for each in words for word in each])
    if not all(isinstance(document.get(part), Mapping) for part in _NESTED):
        return None
    flat = {key: value for key, value in document.items() if key not in _NESTED}
    return from_config({**{f"model.{key}": value for part in _NESTED for key, value in document[part].items()}, **flat})


def _words(value: KeyValue) -> list[str]:
    return [] if value is True else [str(each) for each in value] if isinstance(value, list) else [str(value)]


def refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What it would not run."""
    return refusals(NAME, setup, version)


TARGETS.register(
    NAME,
    Target(
        NAME,
        VERSIONS,
        "Megatron-LM: pretrain_gpt.py under torchrun or Slurm; its scripts and YAML files",
        entries,
        write,
        read,
        refuses,
        "NVIDIA/Megatron-LM, tag core_v0.16.1 and d98e8a64 (0.20.0 of August 2026): megatron/training/arguments.py",
    ),
)
