"""MaxText: keys over its base.yml, as a file or as words behind it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Final

from parsim.errors import PlanError
from parsim.model.tuning import Tuning
from parsim.scenario.asked import lack_of
from parsim.scenario.defaults import STACK_ON_DEVICE
from parsim.targets.documents import mapping_of
from parsim.targets.entries import Unresolved
from parsim.targets.maxtext import axes, benchmarks
from parsim.targets.maxtext.entries import BASE, NARROW, OTHERS, POLICIES, STACK, WIDE, chunks_of, entries, policy_of
from parsim.targets.maxtext.models import NAME as NAMED
from parsim.targets.maxtext.models import keys_of_figures, name_of, row_of
from parsim.targets.starting import processes_of
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target
from parsim.targets.torchtitan.refusals import Said
from parsim.targets.training import usual_notes

NAME, VERSION, _FILE = "maxtext", "main-2026-08", "maxtext.yml"
_KNOWN: Final = re.compile(r"^(ici|dcn)_\w+_parallelism$|^per_device_batch_size$|^max_target_length$|^base_emb_dim$")
_TRAINER: Final = re.compile(r"\btrainers\.(pre_train|post_train\.sft)\.|\btrain\.py\b|\b[Mm]ax[Tt]ext\.train\b")
# Programs that read the same keys, and do not train, or not on given text.
_OTHER_PROGRAM: Final = re.compile(
    r"decode|logit_checker|to_maxtext|to_huggingface|generate_param|train_rl|inference|convert|_ckpt|eval(?!_)"  # not eval_steps=
)
_ASSIGNED: Final = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(\"[^\"\n]*\"|'[^'\n]*'|[^\s;&|]*)\s*$", re.MULTILINE)
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^{}]*))?\}|\$(\w+)")
_DEEPEST: Final = 3  # of defaults inside one another
_WORDS: Final = re.compile(r"\b[a-z][a-z_0-9]*=")
_WORD: Final = re.compile(r"([a-z][a-z_0-9]*)=(.*)", re.DOTALL)


def _refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    for subject in (_model, _replicas, _pipeline, _layers):
        for field, why, remedy in subject(setup):
            yield NotExpressible(field, NAME, version, why, remedy)
    for field, why, remedy in _would_not_run(setup):
        yield PlanError(f"{NAME} {version} {why}", f"plans.{setup.name}.{field}", remedy)


def _model(setup: Setup) -> Said:
    if setup.model.tuning != Tuning():
        yield "model.tuning", "its pre-training, which is what is written, trains all weights", ""
    elif name_of(setup.model) is None and keys_of_figures(setup.model) is None:
        blocks = "rotary positions, RMSNorm, a SwiGLU and no biases, or experts as Mixtral's"
        yield (
            "model.name",
            f"it has no file of the figures of {setup.model.name}, and states others of {blocks} only",
            "Choose such a model.",
        )


def _replicas(setup: Setup) -> Said:
    plan = setup.plan
    group = plan.zero_group or plan.data_parallel
    if plan.zero_stage == 2:
        yield "zero_stage", "it shards the optimizer (1) or all (3)", "Set zero_stage = 1 or 3."
    if plan.zero_stage != 3 and plan.context_parallel * plan.expert_parallel > 1:
        axis = "context" if plan.context_parallel > 1 else "expert"
        yield "zero_stage", f"parameters are sharded over axis {axis}, whatever it is asked", "Set zero_stage = 3."
    if plan.zero_stage == 1 and plan.zero_group not in (None, plan.data_parallel):
        yield "zero_group", "the optimizer is sharded over all of axis data", "Leave zero_group out."
    if plan.zero_stage == 3 and group % plan.expert_parallel:
        yield "expert_parallel", f"axis expert is one of those that shard, but {plan.expert_parallel} does not divide {group}", ""
    if plan.offload_optimizer:
        said = "optimizer_memory_host_offload brings states back to the device for the update"
        yield "offload_optimizer", said, "Leave offload_optimizer out."
    if plan.reshard_after_forward is False and plan.pipeline_parallel == 1 and plan.zero_stage == 3:
        said = "without a pipeline parameters are gathered again in the backward, as remat has it"
        yield "reshard_after_forward", said, "Leave reshard_after_forward out."
    if setup.model.extents.get("E") and plan.expert_tensor_parallel != plan.tensor_parallel:
        said = "experts are cut by tensor_parallel as all else"
        yield "expert_tensor_parallel", said, f"Set expert_tensor_parallel = {plan.tensor_parallel}."
    if plan.tensor_parallel > 1 and not plan.sequence_parallel:
        yield "sequence_parallel", "what tensor parallelism leaves on the stream is cut, too", "Set sequence_parallel = true."
    if plan.context_parallel > 1 and plan.context_kind not in axes.KINDS:
        yield "context_kind", f"it has no {plan.context_kind}", f"It has {', '.join(axes.KINDS)}."


def _pipeline(setup: Setup) -> Said:
    plan = setup.plan
    if plan.pipeline_parallel == 1:
        return
    usual = "breadth_first" if plan.virtual_pipeline > 1 else "gpipe"
    if plan.schedule not in ("breadth_first", "gpipe"):
        yield "schedule", "its pipeline runs all forwards before the first backward", f"Set schedule = {usual}."
    if chunks_of(setup) is None:
        yield (
            "layers_per_stage",
            "all its stages have as many layers",
            "Choose pipeline_parallel x virtual_pipeline that divides num_layers.",
        )


def _layers(setup: Setup) -> Said:
    if setup.dtype not in (*WIDE, *NARROW):
        yield "precision", f"it trains in no {setup.dtype}", f"It knows {', '.join((*WIDE, *NARROW))}."
    if policy_of(setup) is None and not (setup.plan.recompute_ops or setup.plan.recompute_modules):
        if setup.plan.recompute == "none":
            said = "its layers always run in jax.checkpoint, of which remat_policy none keeps nothing"
        else:
            said = f"none of its policies runs {', '.join(setup.stack.selective_recompute)} again"
        near = ", ".join(POLICIES["minimal_with_context"])
        yield "recompute", said, f"Set recompute = full, or selective with stack.selective_recompute = [{near}] (minimal_with_context)."


def _would_not_run(setup: Setup) -> Said:
    plan, count = setup.plan, setup.num_micro_batches
    if axes.split(setup) is None:
        per_node = processes_of(setup).per_node
        said = f"cuts each axis into a part in a node of {per_node} devices and whole such parts, which these degrees do not allow"
        yield "tensor_parallel", said, "Choose degrees that multiply to whole nodes, neighbours first."
    if plan.pipeline_parallel > 1 and count % plan.pipeline_parallel:
        said = f"asserts that {count} micro-batches divide by pipeline_parallel = {plan.pipeline_parallel}"
        yield "micro_batch", said, "Choose global_batch or micro_batch so."
    if plan.context_parallel > 1 and plan.context_kind in ("ulysses", "ulysses_ring") and not axes.on_tpu(setup):
        yield "context_kind", f"has {plan.context_kind} on TPUs only", "Set context_kind = all_gather or ring."
    if plan.context_kind == "ring" and axes.on_tpu(setup) and setup.batch.sequence_length % plan.context_parallel**2:
        said = "asserts that a ring on TPUs has a sequence_length that divides by context_parallel squared"
        yield "context_parallel", said, "Choose a sequence_length that does."


def _write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    lines = [f"{key}: {json.dumps(value)}" for key, value in keys.items()]
    text = f"# MaxText, {version}: plan {setup.name} of {setup.scenario.name}\nbase_config: base.yml\n" + "\n".join(lines) + "\n"
    found = processes_of(setup)
    place = "each host of each slice" if axes.on_tpu(setup) else f"each of {found.num_nodes} nodes"
    notes = [f"run it on {place}: JAX finds the others by its coordinator"]
    if setup.stack.name.removesuffix(" (changed)") not in (STACK, *(each.get(STACK) for each in STACK_ON_DEVICE.values())):
        notes.append(f"it runs programs of XLA; the scenario assumes stack {setup.stack.name}")
    notes += usual_notes(setup, scheduled=True)
    command = f"python3 -m maxtext.trainers.pre_train.train {_FILE} run_name={shlex.quote(setup.name)}"
    return Launch(NAME, version, {_FILE: text}, command, tuple(notes))


def _read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    if benchmarks.CLASS in text and name.partition("::")[0].endswith(".py"):
        return benchmarks.keys_of(text, name), VERSION
    if re.search(r"^[^#\n]*\bpython3?\b", text, re.MULTILINE) or "per_device_batch_size=" in text:
        return _of_line(text, name)
    mapping = mapping_of(text, name)
    if mapping is None or not (any(_KNOWN.match(str(key)) for key in mapping) or "base_config" in mapping):
        return None
    file = PurePath(name).stem  # of a model is called as the model is
    is_model = NAMED not in mapping and (row_of(file) is not None or ("decoder_block" in mapping and lack_of("model", file) != ""))
    called = {NAMED: file} if is_model else {}
    return {**{str(key): value for key, value in mapping.items()}, **called}, VERSION


def _of_line(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    """Words KEY=VALUE behind base.yml, or in a variable that is handed to it; variables that the script sets stand for their values.

    Of several commands the first that trains: a script decodes, checks and converts as well.
    """
    joined = re.sub(r"\\\s*\n", " ", text)
    lines = [line for line in joined.splitlines() if not line.lstrip().startswith("#")]
    said = [line for line in lines if "per_device_batch_size=" in line or _TRAINER.search(line) or re.search(r"base\.yml.* \w+=", line)]
    training = [line for line in said if _TRAINER.search(line)]
    others = [line for line in said if not _OTHER_PROGRAM.search(line)]
    line = next((line for line in (*training, *others) if _WORDS.search(line)), "")
    line = _fill_in(line, _variables(joined))
    try:
        words = [word for each in shlex.split(line, comments=True) for word in each.split()]
    except ValueError:
        return None
    said_of = {match[1]: match[2] for word in words if (match := _WORD.fullmatch(word))}
    found = {key: value for key, value in said_of.items() if "$" not in value}
    base = next((PurePath(word).name for word in words if word.endswith(".yml") and "=" not in word), "base.yml")
    values = mapping_of("\n".join(f"{key}: {_scalar(value)}" for key, value in found.items()), f"{name}.yml") if found else None
    if not values:
        return None
    values = {**values, **{key: Unresolved(value) for key, value in said_of.items() if key not in found}}
    return {**values, **({BASE: base} if base != "base.yml" else {}), **({OTHERS: len(training) - 1} if len(training) > 1 else {})}, VERSION


def _variables(text: str) -> dict[str, str]:
    """What a script sets, with what it set before in place of variables; of one that may be set outside its default."""
    found: dict[str, str] = {}
    for name, value in _ASSIGNED.findall(text):
        found[name] = _fill_in(value.strip("\"'"), found)
    return found


def _fill_in(text: str, variables: Mapping[str, str]) -> str:
    """With values in place of variables, as far as they are known.

    >>> _fill_in("model_name=${NAME:-gemma2-2b} x=$X steps=${N}", {"X": "a"})
    'model_name=gemma2-2b x=a steps=${N}'
    """

    def value(match: re.Match[str]) -> str:
        own = variables.get(match[1] or match[3])
        return own if own is not None else match[2] if match[2] is not None else match[0]

    for _ in range(_DEEPEST):
        text = _VARIABLE.sub(value, text)
    return text


def _scalar(value: str) -> str:
    """A word as YAML takes it."""
    return value if re.fullmatch(r"-?[\d._]+(e-?\d+)?|true|false|True|False", value) else json.dumps(value)


TARGETS.register(
    NAME,
    Target(
        NAME,
        (VERSION,),
        "MaxText: YAML over its base.yml, or a command that trains with such keys",
        entries,
        _write,
        _read,
        _refuses,
        "AI-Hypercomputer/maxtext, commit e591f30c, src/maxtext/configs/base.yml and types.py",
    ),
)
