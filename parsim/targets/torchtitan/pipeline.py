"""torchtitan's pipeline: degree, schedule, layers of the stages, and micro_batches of a local batch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from parsim.parallel.plan import Plan
from parsim.parallel.stages import layers_of
from parsim.targets.entries import Entry, Keys
from parsim.targets.figures import spec_of
from parsim.targets.target import MICRO_BATCHES, KeyValue, Setup
from parsim.targets.torchtitan.dialect import Dialect
from parsim.targets.torchtitan.flavours import FUNCTIONS, row_of

SCHEDULES: Final = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved_1f1b": "Interleaved1F1B",
    "breadth_first": "LoopedBFS",
    "zero_bubble_v": "ZBVZeroBubble",
    "dual_pipe_v": "DualPipeV",
}
SINGLE, MULTI, V_SHAPED = "PipelineScheduleSingle", "PipelineScheduleMulti", "ZBVZeroBubble"  # beside written actions
_NAMES: Final = {name: ours for ours, name in SCHEDULES.items()}
_ONE_STAGE: Final = ("1F1B", "GPipe", SINGLE)
UNKNOWN: Final = "InterleavedZeroBubble"  # torch has it, parsim has no such order
DEGREE, SCHEDULE, WRITTEN = (f"parallelism.pipeline_parallel_{end}" for end in ("degree", "schedule", "schedule_csv"))
_FIRST, _LAST = (f"parallelism.pipeline_parallel_{end}_stage_less_layers" for end in ("first", "last"))
_PER_STAGE, _MODULES = "parallelism.pipeline_parallel_layers_per_stage", "parallelism.module_fqns_per_model_part"
_SIZE, _COUNT = "parallelism.pipeline_parallel_microbatch_size", "parallelism.num_pp_microbatches"
DEVICES: Final = "devices"  # of a line that starts the processes
_LAYER: Final = re.compile(r"layers\.(\d+)")
LESS: Final = {"embedding_and_head": 1, "even": 0, "remainder_first": 0}  # layers fewer on the first and on the last stage


def entries(dialect: Dialect) -> tuple[Entry, ...]:
    """Those of a pipeline; its micro_batches follow from the batch where it has but one stage."""
    fields = ("pipeline_parallel", "virtual_pipeline", "schedule", "layers_per_stage")
    named = tuple(f"plan.{field}" for field in fields)
    return (
        Entry((*named, "stack.layer_split"), partial(_write, dialect), partial(_read, dialect)),
        Entry(("plan.micro_batch", "batch.global_batch", "batch.sequence_length"), *_BATCHES[dialect.tokens]),
    )


def splits_as(setup: Setup) -> bool:
    """Whether torchtitan's own rule deals the layers out as the plan and its stack do."""
    plan, layers = setup.plan, setup.model.num_layers
    return _dealt(layers, plan.num_stages, LESS[setup.stack.layer_split]) == layers_of(plan, layers, setup.stack.layer_split)


def chunks_follow(setup: Setup) -> bool:
    """Whether a number of layers a stage makes the plan's number of stages."""
    per_stage = _per_stage(setup)
    return per_stage is None or _stages(setup.model.num_layers, LESS[setup.stack.layer_split], per_stage) == setup.plan.num_stages


def usual_chunks(schedule: str) -> int:
    """Stages a rank where nothing says how many.

    >>> usual_chunks("1F1B"), usual_chunks("Interleaved1F1B")
    (1, 2)
    """
    return 1 if schedule in _ONE_STAGE else 2


def schedule_name(plan: Plan) -> str | None:
    """torchtitan's name of the plan's schedule, and of where a written one has its stages; None: it has none.

    >>> schedule_name(Plan(pipeline_parallel=2, schedule=("0F0 0B0 3F0", "1F0 2F0"), virtual_pipeline=2))
    'ZBVZeroBubble'
    """
    if isinstance(plan.schedule, str):
        return SCHEDULES.get(plan.schedule)
    placed = ((re.split("[FBIW]", action)[0], rank) for rank, line in enumerate(plan.schedule) for action in line.split())
    places = {int(stage): rank for stage, rank in placed}
    ranks = plan.pipeline_parallel
    if all(rank == stage % ranks for stage, rank in places.items()):
        return SINGLE if plan.virtual_pipeline == 1 else MULTI
    folded = plan.virtual_pipeline == 2 and all(rank == min(stage, 2 * ranks - 1 - stage) for stage, rank in places.items())
    return V_SHAPED if folded else None


def _dealt(layers: int, stages: int, less: int) -> tuple[int, ...]:
    """Layers of each stage as torchtitan deals them out (generate_llm_fqn_per_model_part), where either end counts as `less` of them."""
    each, rest = divmod(layers + 2 * less, stages)
    return tuple(each + (stage < rest) - less * (stage == 0) - less * (stage == stages - 1) for stage in range(stages))


def _stages(layers: int, less: int, per_stage: int) -> int:
    return math.ceil((layers + 2 * less) / per_stage)


def _per_stage(setup: Setup) -> int | None:
    """What says the number of stages; None: it is the usual one, or the modules of each stage do."""
    plan = setup.plan
    if plan.layers_per_stage is not None or plan.virtual_pipeline == usual_chunks(schedule_name(plan) or ""):
        return None
    return math.ceil((setup.model.num_layers + 2 * LESS[setup.stack.layer_split]) / plan.num_stages)


def _write(dialect: Dialect, setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    if plan.pipeline_parallel == 1:
        return {DEGREE: 1}
    keys: dict[str, KeyValue] = {DEGREE: plan.pipeline_parallel, SCHEDULE: schedule_name(plan)}
    if not isinstance(plan.schedule, str):
        keys[WRITTEN] = "".join(f"{line.replace(' ', ',')}\n" for line in plan.schedule)
    if plan.layers_per_stage is not None:
        return keys | {_MODULES: _modules(plan.layers_per_stage, "output" if dialect.toml else "lm_head")}
    keys |= dict.fromkeys((_FIRST, _LAST), LESS[setup.stack.layer_split])
    per_stage = _per_stage(setup)
    return keys if per_stage is None else keys | {_PER_STAGE: per_stage}


def _modules(layers: tuple[int, ...], head: str) -> list[list[str]]:
    ends = [sum(layers[: n + 1]) for n in range(len(layers))]
    parts = [[f"layers.{n}" for n in range(end - count, end)] for end, count in zip(ends, layers, strict=True)]
    parts[0] = ["tok_embeddings", *parts[0]]
    parts[-1] = [*parts[-1], "norm", head]
    return parts


def _read(dialect: Dialect, keys: Keys) -> dict[str, Any]:
    ranks = keys.like(DEGREE, 1)
    told: dict[str, Any] = {name: keys.like(name, usual) for name, usual in ((WRITTEN, ""), (_PER_STAGE, 0), (_MODULES, []))}
    name, first, last = keys.like(SCHEDULE, "1F1B"), keys.like(_FIRST, 1, least=0), keys.like(_LAST, 1, least=0)
    if ranks == 1:
        return {}
    chunks, found = usual_chunks(name), {"plan.pipeline_parallel": ranks, "plan.schedule": _NAMES.get(name)}
    if told[WRITTEN] and "\n" in told[WRITTEN]:
        found["plan.schedule"] = tuple(line.replace(",", " ") for line in told[WRITTEN].splitlines())
    elif told[WRITTEN]:
        keys.leave(WRITTEN, "its actions stand in another file; write them as plan's schedule")
    elif name not in _NAMES:
        keys.leave(SCHEDULE, "parsim has no schedule of that order")
    if parts := [part for part in told[_MODULES] if isinstance(part, list)]:
        counts = tuple(sum(bool(_LAYER.fullmatch(str(module))) for module in part) for part in parts)
        chunks, found["plan.layers_per_stage"] = len(parts) // ranks, counts
    elif (first, last) in ((0, 0), (1, 1)):
        found["stack.layer_split"] = "embedding_and_head" if first else "even"
    else:
        keys.leave(_FIRST, "parsim takes a layer off both ends or off none; state layers_per_stage")
    if told[_PER_STAGE] and not parts:
        if layers := _num_layers(dialect, keys):
            chunks = math.ceil((layers + first + last) / told[_PER_STAGE]) // ranks
        else:
            keys.leave(_PER_STAGE, "how many stages it makes, the layers of a model say that is not known here")
    found["plan.virtual_pipeline"] = max(chunks, 1)
    return {field: value for field, value in found.items() if value is not None}


def _num_layers(dialect: Dialect, keys: Keys) -> int | None:
    if dialect.toml:
        row = row_of(keys.like("model.name", "llama3"), keys.like("model.flavor", "debugmodel"))
    else:
        known = FUNCTIONS.get(keys.like("config", ""))
        row = row_of(known.module, known.flavour) if known else None
    return spec_of(row).num_layers if row else None


def replicas(keys: Keys) -> int | None:
    """Replicas of the batch; None where what shards takes the devices that remain, and their number is not known."""
    replicate, shard = (keys.like(f"parallelism.data_parallel_{how}_degree", default) for how, default in (("replicate", 1), ("shard", -1)))
    if shard > 0:
        return int(replicate * shard)
    rest = math.prod(keys.like(f"parallelism.{axis}_parallel_degree", 1) for axis in ("tensor", "context", "pipeline"))
    devices = keys.take(DEVICES)
    return None if devices is None or devices % rest else devices // rest


def _write_sequences(setup: Setup) -> dict[str, KeyValue]:
    plan, batch = setup.plan, setup.batch
    keys: dict[str, KeyValue] = {"training.seq_len": batch.sequence_length, "training.global_batch_size": batch.global_batch}
    if plan.pipeline_parallel == 1:
        return {"training.local_batch_size": plan.micro_batch, **keys}
    return {"training.local_batch_size": plan.micro_batch * setup.num_micro_batches, **keys, _SIZE: plan.micro_batch}


def _read_sequences(keys: Keys) -> dict[str, Any]:
    local, total, size = keys.like("training.local_batch_size", 8), keys.like("training.global_batch_size", -1), keys.like(_SIZE, 1)
    piped = keys.like(DEGREE, 1) > 1
    found = {"plan.micro_batch": size if piped else local, "batch.sequence_length": keys.like("training.seq_len", 2048)}
    return found | _global(keys, "training.local_batch_size", (local, found["plan.micro_batch"]), total if total > 0 else None)


def _write_tokens(setup: Setup) -> dict[str, KeyValue]:
    plan, batch = setup.plan, setup.batch
    return {
        "training.num_tokens_per_microbatch_per_dp_rank": plan.micro_batch * batch.sequence_length,
        "training.num_tokens_per_train_step": batch.global_batch * batch.sequence_length,
        "training.max_context_length": batch.sequence_length,
        **({_COUNT: setup.num_micro_batches} if plan.pipeline_parallel > 1 else {}),
    }


def _read_tokens(keys: Keys) -> dict[str, Any]:
    name = "training.num_tokens_per_microbatch_per_dp_rank"
    tokens, total = keys.like(name, 16384), keys.like("training.num_tokens_per_train_step", -1)
    length, count, piped = keys.like("training.max_context_length", 2048), keys.like(_COUNT, 1), keys.like(DEGREE, 1) > 1
    if tokens % length or (total > 0 and total % length):
        keys.leave(name, f"it is no whole number of sequences of {length} tokens")
        return {"batch.sequence_length": length}
    size = tokens // length
    found = {"plan.micro_batch": size, "batch.sequence_length": length}
    return found | _global(keys, name, (size * (count if piped else 1), size), total // length if total > 0 else None)


def _global(keys: Keys, name: str, sizes: tuple[int, int], total: int | None) -> dict[str, Any]:
    """The sequences of a step, and whether gradients add up over several runs of a pipeline; `sizes`: of a local and a micro batch."""
    (local, size), ranks = sizes, replicas(keys)
    if total is None:
        return {MICRO_BATCHES: local // size}
    if keys.like(DEGREE, 1) > 1 and ranks is not None and total > local * ranks:
        keys.leave(name, "gradients add up over several runs of the pipeline; parsim runs all micro_batches of a step through it at once")
    return {"batch.global_batch": total}


_BATCHES: Final[dict[bool, tuple[Callable[[Setup], Any], Callable[[Keys], Any]]]] = {
    False: (_write_sequences, _read_sequences),
    True: (_write_tokens, _read_tokens),
}
