"""Why a task takes as long as it does: expression, shapes on a rank, counts, what bounds it, and where each constant is from.

Also what each reported figure means.  Prices are made in parsim.cost.timing; notes.py puts one task into words, bounds.py the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import units
from parsim.arguments import check_arguments
from parsim.cluster import Node
from parsim.cluster.link import Link
from parsim.confidence.runs import HELD, STEP
from parsim.cost.workload import Workload
from parsim.errors import ParsimError, did_you_mean
from parsim.estimator.estimate import estimate, stages_of
from parsim.estimator.parts import QUANTITIES
from parsim.estimator.result import Estimate
from parsim.model.dims import COMPUTE, MASTER
from parsim.parallel import dimensions
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import KEYS, Plan
from parsim.plain import flat
from parsim.report import sure
from parsim.report.feeding import FED
from parsim.report.feeding import explanation as of_feed
from parsim.report.goodput import MEANS
from parsim.report.goodput import explanation as of_goodput
from parsim.report.notes import NotedTask, task_lines
from parsim.report.whole import WHOLE, explanation
from parsim.scenario import Scenario
from parsim.simulator.program import Program
from parsim.simulator.run import run
from parsim.simulator.trace import Trace
from parsim.step.structure import Structure
from parsim.step.task import Bucket, Collective, Compute, Hold, Launches, Receive, Send, Task, Wait
from parsim.units import percent

_BOUNDARY = "boundary"
_MOST_EVENTS = 500_000  # some seconds: what a question about one task may take
_SHORT: Final = {"step": "step_s", "peak": "peak_bytes"}
_UNITS = {
    **{"step_s": "s", "tokens_per_s": "token/s", "tokens_per_s_per_device": "token/s"},
    **dict.fromkeys((*(f"{each}_bytes" for each in QUANTITIES), "peak_bytes", "capacity_bytes"), "GiB"),
    **dict.fromkeys(("host_peak_bytes", "host_capacity_bytes"), "GiB"),
}


METRICS: Final[Mapping[str, str]] = {
    "step_s": "seconds of one optimizer step: the longest path over all stages, from the first forward to the last update",
    "tokens_per_s": "global_batch x sequence_length / step_s: tokens trained in a second by all devices together, of padded and packed "
    "rows real ones",
    "tokens_per_s_per_device": "tokens_per_s / devices",
    "mfu": "model FLOPs / (step_s x devices x dense peak of the matmul dtype, the mean where devices differ); "
    "model FLOPs are 6 N + 12 L S w a token, with N weights "
    "without the input embedding and the experts that a token does not choose, L layers, S tokens a sequence, w = heads x mean width of "
    "keys and values (Chowdhery et al. 2022, appendix B), as if no mask left pairs of tokens out; of a layer with a window or chunks "
    "twice the pairs that its mask leaves, of padded and packed rows those of real tokens with their own document; a weight that "
    "multiplies features costs 4, since they need no gradient",
    "mfu_causal": "as mfu, with the pairs that masks leave counted once: half the attention FLOPs of a causal model",
    "hfu": "as mfu, with the matmuls and the attention that recomputation runs again, and with those of padding; without either "
    "the two are equal",
    "peak_bytes": "the largest memory of any device, in issue order as a caching allocator sees it; where devices differ, of the fullest",
    "allocated_bytes": "of that device what tensors take, with the workspaces of GEMM libraries: torch.cuda.max_memory_allocated",
    "reserved_bytes": "what its caching allocator holds, with fragments that no tensor uses: torch.cuda.max_memory_reserved",
    "device_bytes": "what nvidia-smi shows, with context, libraries and communicators; peak_bytes, which is to fit the capacity",
    "capacity_bytes": "the device memory that a program can allocate; where devices differ, of the fullest",
    "host_peak_bytes": "what the ranks of a node keep on its host together, on the fullest one",
    "host_capacity_bytes": "the memory of a node's host",
    "fits": "whether the peak of every stage is at most the capacity, and what a host keeps at most what it holds, where that is known",
    "fit": sure.FIT,
    "step_interval_s": "holds 8 of 10 measured runs that are comparable, and the prediction",
    "peak_interval_bytes": "the same of the peak: holds 8 of 10 that were measured",
    "step_error": "predicted step / measured step - 1",
    **WHOLE,
    **MEANS,
    **FED,
}

INTERVALS: Final = {"step_interval_s": STEP, "peak_interval_bytes": HELD}
SURE: Final = {"step_s": STEP, "peak_bytes": HELD}  # figures of which intervals are known

BREAKDOWN: Final[Mapping[str, str]] = {
    "compute": "the busiest stage's compute stream runs kernels of forward and backward, which take longer beside collectives",
    **{f"exposed_{axis}": f"it waits for {waits_for}" for axis, waits_for in dimensions.waits().items()},
    "exposed_servers": "it pulls weights and pushes gradients, or waits for servers, their ports or other workers",
    "exposed_host": "it waits for gradients to reach the host, or for weights to come back",
    "bubble": "it waits for another stage, which has not sent yet or is still at work",
    "optimizer": "gradient norm, clipping, the update and the cast of the weights, on the device or on its host",
    "other": "it waits for the host to launch kernels",
}

MEMORY: Final[Mapping[str, str]] = {
    "parameters": "weights in the dtype of the matmuls, or float32 where the stack shards those (master_shards), padding included",
    "gradients": "gradient buffers that last, in the stack's gradient_dtype, and narrower ones where it keeps both (narrow_gradients)",
    "optimizer": "what the plan's optimizer keeps on the device beside each weight, and the float32 weights where the matmuls use less",
    "activations": "what the micro-batches in flight keep for their backward",
    "transients": "what the forward or backward at the peak needs beyond that, or the update; gradients that do not last",
    "buffers": "what GEMM libraries hand over in place of gradients, logits that stay, and the scalars of loss and gradient norm",
    "workspaces": "what GEMM libraries keep as tensors: cuBLAS for each thread that calls it, Transformer Engine, its streams of experts",
    "rounding": "what blocks of 512 bytes hold beyond tensors that last, where the stack's allocator is PyTorch's",
    "fragments": "what that allocator holds and no tensor uses: the stack's allocator_slack of what comes and goes, ends of segments",
    "graph_pools": "what the pool of CUDA graphs and that of other kernels cannot share of what both need for a while",
    "context": "the software stack's context of the device and its libraries, as the stack states them (framework_memory)",
    "communicators": "buffers of NCCL for each group of ranks, by its channels, or as the stack states them (communicator_memory)",
}

FIGURES: Final = tuple(dict.fromkeys((*METRICS, *BREAKDOWN, *MEMORY)))  # all that have a definition


# Links that are keys of a node: what they join, and which it is.
_LINKS: Final[Mapping[str, Callable[[Node], tuple[str, Link]]]] = {
    "nic_link": lambda node: (
        "what joins a NIC to its host, and caps what it sends; host_link where left out",
        node.nic_link or node.host_link,
    ),
    **dict.fromkeys(("host", "host_link"), lambda node: ("what joins a device to its host, where an optimizer may lie", node.host_link)),
}


class Note(Struct, frozen=True):
    """What there is to say on one task or figure: pairs of label and text."""

    title: str
    lines: tuple[tuple[str, str], ...]


class Shared(Struct):
    """A plan's step with contention, simulated when it is first asked for."""

    workload: Workload
    trace: Trace | None = None

    def note(self, task: str) -> str:
        """What the flows of a task lost, on which link, to whom; all stages and micro_batches together."""
        if self.trace is None:
            program = Program(self.workload)
            if program.num_events(program.walks()) > _MOST_EVENTS:
                return "not simulated here, of too many events; ask parsim run --backend simulate --contention"
            self.trace = run(self.workload, contention=True)
        lost = self.trace.lost_s(task)
        if not lost:
            return "nothing: no other flow left it less of a link"
        parts = [f"{units.format(each, 's')} on {link} to {other}" for (link, _, other), each in lost.items()]
        return f"{', '.join(parts)}; in the whole step, all stages together"


@check_arguments
def explain(scenario: Scenario, plan: str, op: str) -> list[Note]:
    """The notes on every task of a plan that `op` names: a task, all that start with it, a pass, a segment, or a reported figure.

    Raises:
        ScenarioError: the scenario has no such plan.
        PlanError: the plan is not legal there.
        ParsimError: the plan has nothing of that name; the nearest is named.
    """
    chosen = scenario.plan(plan)
    found = estimate(scenario, plan)
    if (figure := _SHORT.get(op, op)) in FIGURES:
        return _figures(found, figure, scenario)
    if op in KEYS:
        return [_key(op, chosen)]
    if op in _LINKS:
        return list(dict.fromkeys(_link(op, each.node, apart=bool(scenario.cluster.groups)) for each in scenario.cluster.kinds))
    workload = stages_of(scenario, chosen).workload
    every, shared = list(_tasks(workload, found.critical_rank)), Shared(workload)
    named = _matches(every, op)
    if not named:
        raise _unknown(every, plan, op)
    return _notes(workload, named, shared)


def _tasks(workload: Workload, rank: int) -> Iterator[NotedTask]:
    """All tasks that take time: of segments, of what surrounds them in a pass, and of the end of a step on a pipeline rank."""
    kinds = workload.model.cluster.kinds
    for node in dict.fromkeys(workload.shape.nodes.tolist()) if len(kinds) > 1 else (None,):
        for each in _in_passes(workload, node):
            yield each if node is None else replace(each, where=f"{each.where} on {kinds[node].node.name}", node=node)
    each_step = {task.name for task in (workload.step.quiet or workload.step).finish}
    for task in workload.step.finish:
        if not isinstance(task, Wait):
            holder = _holder(workload, task, rank)
            node = workload.node_of(holder)
            end = "end of the step" if task.name in each_step else "end of a period"
            yield NotedTask(end, task, ("finish",), holder, workload.copies_on(holder), node)


def _in_passes(workload: Workload, node: int | None) -> Iterator[NotedTask]:
    """Those of passes on a kind of node; None: on all."""
    phases, inside = workload.phases, set[int]()
    stages = [stage for stage in range(workload.num_stages) if node in (None, workload.node_of(workload.rank_of(stage)))]
    held = {name for stage in stages for name, _ in workload.parts(stage)}
    for segment in (each for name, each in workload.step.segments.items() if node is None or name in held):
        for phase in phases:
            inside |= set(map(id, segment.phases[phase]))
            words = (segment.name, phase.words, f"{segment.name}.{phase.words}")
            yield from (NotedTask(f"{segment.name} {phase.words}", task, words) for task in segment.phases[phase])
    for stage in stages:
        for phase in phases:
            each = workload.pass_of(stage, phase, closes=True)
            for task in (*each.prologue, *(task for part in each.runs for task in part.tasks), *each.epilogue):
                if id(task) not in inside and not isinstance(task, Receive | Wait | Launches | Hold):
                    inside.add(id(task))
                    at_boundary = isinstance(task, Send) or (isinstance(task, Collective) and not isinstance(task.source, Bucket))
                    yield NotedTask(f"stage boundary {phase.words}" if at_boundary else phase.words, task, (_BOUNDARY,) * at_boundary)


def _holder(workload: Workload, task: Task, rank: int) -> int:
    """The pipeline rank to look at: this one, or of those that alone take part the last."""
    homes = task.group.homes if isinstance(task, Collective) else ()
    ranks = [each for each in range(workload.num_ranks) if not homes or any(home in workload.copies_on(each) for home in homes)]
    return rank if rank in ranks else ranks[-1]


def _matches(tasks: list[NotedTask], op: str) -> list[NotedTask]:
    """The tasks meant: by exact name with what is derived of them, else by pass or segment, kernel or operation, or prefix."""
    if not op:
        return []
    exact = [each for each in tasks if op == each.task.name or each.task.name.startswith(f"{op}.")]
    place = [each for each in tasks if op in each.names]
    kind = [each for each in tasks if op == getattr(each.task, "kernel", getattr(each.task, "operation", ""))]
    prefix = [each for each in tasks if each.task.name.startswith(op)]
    return exact or place or kind or prefix


def _unknown(tasks: list[NotedTask], plan: str, op: str) -> ParsimError:
    ops = tuple(dict.fromkeys(each.task.name.partition(".")[0] for each in tasks))
    places = dict.fromkeys(name for each in tasks for name in each.names)
    known = (*places, *ops, *(each.task.name for each in tasks), *FIGURES, *KEYS, *_LINKS)
    remedy = f"Tasks: {', '.join(ops)}.  Figures: {', '.join(FIGURES)}."
    return ParsimError(f"nothing is called '{op}'{did_you_mean(op, known)}", f"plan '{plan}'", remedy)


def _notes(workload: Workload, tasks: list[NotedTask], shared: Shared) -> list[Note]:
    """A note a task; one for tasks of several passes about which there is the same to say."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for each in tasks:
        sends = isinstance(each.task, Send) or (isinstance(each.task, Collective) and each.task.operation != "slice")
        lost = (("lost to others", shared.note(each.task.name)),) if sends else ()
        again = " (computed again)" if isinstance(each.task, Compute | Collective) and each.task.again else ""
        found.setdefault((f"{each.task.name}{again}", (*task_lines(workload, each), *lost)), []).append(each.where)
    return [Note(f"{', '.join(dict.fromkeys(where))}: {name}", lines) for (name, lines), where in found.items()]


def _key(name: str, plan: Plan) -> Note:
    """What a key of a plan means, and what the plan says."""
    key, value = KEYS[name], getattr(plan, name)
    others = (("legal", ", ".join(map(str, key.legal))),) if key.legal else ()
    return Note(
        f"{name}, key of a plan",
        (("means", key.description), ("here", "none" if value in (None, ()) else str(flat({name: value})[name]).lower()), *others),
    )


def _link(name: str, node: Node, *, apart: bool) -> Note:
    """What a link of a node joins, and its rate."""
    means, link = _LINKS[name](node)
    rate = f"{units.format(link.bandwidth_bytes_per_s, 'bytes/s')}, {units.format(link.latency_s, 's')}"
    return Note(
        f"{name}, of the node{f' {node.name}' if apart else ''}", (("means", means), ("here", f"{link.name}: {rate} [{link.source}]"))
    )


def _figures(found: Estimate, name: str, scenario: Scenario) -> list[Note]:
    """The definition and value of a figure; "optimizer" is one of time and one of memory."""
    notes = [Note(name, (("means", METRICS[name]), *_values(found, name, scenario)))] if name in METRICS else []
    if name in BREAKDOWN:
        seconds = found.breakdown_s.get(name, 0.0)
        value = f"{units.format(seconds, 's')}, {percent(seconds / found.step_s)} of the step, on stage {found.critical_rank}"
        notes.append(Note(f"{name}, share of the step", (("means", BREAKDOWN[name]), ("value", value))))
    if name in MEMORY:
        sizes = ", ".join(units.format(parts[name], "GiB") for parts in found.memory_bytes)
        means = f"{MEMORY[name]}: {_states(found, scenario)}" if name == "optimizer" else MEMORY[name]
        notes.append(Note(f"{name}, part of the memory", (("means", means), ("by stage", sizes))))
    return notes


def _states(found: Estimate, scenario: Scenario) -> str:
    """What an optimizer keeps of an element, and where."""
    row, scenario = OPTIMIZERS[found.plan.optimizer], scenario.trained_by(found.plan)
    stores = scenario.batch.recipe.stores
    updated = scenario.itemsize_bytes[stores.get(MASTER, stores[COMPUTE])]
    states = ", ".join(f"{name} {size} bytes" for name, size in row.state_sizes(updated))
    structure = Structure.of(scenario.model, scenario.batch, found.plan, scenario.stack)
    master = f", a weight {updated} bytes" if structure.master_weights or structure.offload else ""
    place = "all on the host" if found.plan.offload_optimizer else "states on the host, in pages" if row.paged else "on the device"
    return f"{found.plan.optimizer}: {states}{master} an element, {place} [{row.source}]"


def _values(found: Estimate, name: str, scenario: Scenario) -> Iterator[tuple[str, str]]:
    """The value of a figure, and how sure it is where that is known."""
    yield "value", _value(found, name, scenario)
    if name in SURE:
        yield "80 %", sure.explanation(scenario, found, SURE[name])


def _value(found: Estimate, name: str, scenario: Scenario) -> str:
    if name in WHOLE:
        return explanation(scenario, found, name)
    if name in FED:
        return of_feed(scenario, found, name)
    if name in MEANS:
        return of_goodput(scenario, found, name)
    if name == "fits":
        return "yes" if found.fits else "no"
    if name == "fit":
        return f"{found.fit}, with a probability of {percent(found.fit_probability or 0.0)}"
    if name in INTERVALS:
        return sure.explanation(scenario, found, INTERVALS[name])
    if name == "step_error":
        measured = scenario.measured.get(found.name)
        return percent(found.step_s / measured.step_s - 1, signed=True) if measured and measured.step_s else "nothing measured is stated"
    if name == "host_peak_bytes" and found.host_memory_bytes:
        return ", ".join(
            f"{part} {units.format(size, 'GiB')}" for part, size in {"all": found.host_peak_bytes, **found.host_memory_bytes}.items()
        )
    value, unit = getattr(found, name), _UNITS.get(name)
    if value is None:
        return "nobody says; give host_memory_capacity of the node"
    return units.format(value, unit, digits=4 if unit == "s" else 3) if unit else percent(value)
