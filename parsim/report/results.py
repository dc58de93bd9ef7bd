"""The results of a scenario's plans and the planner's ranking, and the documents of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import __version__, units
from parsim.cluster.cluster import NodeGroup
from parsim.errors import ParsimError
from parsim.estimator.estimate import Priced, estimate_each
from parsim.estimator.parts import QUANTITIES
from parsim.estimator.result import RATES, Estimate
from parsim.goodput.long_run import as_planned, in_a_run
from parsim.model.documents import PACKED
from parsim.model.parameters import num_parameters, num_trained_parameters
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.parallel.plan import ENDS, Batch, Plan
from parsim.parallel.plans import Plans
from parsim.parallel.recomputation import in_vain
from parsim.parallel.sharding_faults import keeps_parameters
from parsim.parallel.stack_limits import reasons
from parsim.plain import flat
from parsim.report import disturbing, sure, whole
from parsim.scenario import Measured, Scenario
from parsim.scenario.document import DEFAULT_STACK
from parsim.scenario.rows import read
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.disturbance import Disturbed
    from parsim.feed.supply import Supply
    from parsim.goodput.keeping import Keeping
    from parsim.goodput.outage import Lived
    from parsim.goodput.predict import Goodput
    from parsim.planner import Ranking

_SCHEMA: Final = 1  # of results.json; keys are added, never changed, within a number
_OTHER_STACK: Final = "torchtitan"
BACKENDS: Final = ("estimate", "simulate")
_SIZES: Final = ("peak_bytes", *(f"{each}_bytes" for each in QUANTITIES), "capacity_bytes", "host_peak_bytes", "host_capacity_bytes")
_RANKED: Final = ("step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", *_SIZES)  # of a plan in a ranking


class Sharing(Struct, frozen=True):
    """What different collectives that overlap on links cost a step."""

    alone_step_s: float  # the step if each had its links to itself
    lost_s: Mapping[tuple[str, str, str], float]  # by (link, stream, stream it was shared with), all pipeline ranks together
    busy_s: Mapping[str, float]  # by link: of the one of its name that carries something for longest

    def document(self) -> dict[str, Any]:
        """As results.json has it."""
        lost = [{"link": link, "stream": stream, "with": other, "lost_s": lost} for (link, stream, other), lost in self.lost_s.items()]
        return {"alone_step_s": self.alone_step_s, "lost": lost, "busy_s": dict(self.busy_s)}


class Result(Struct, frozen=True):
    """One plan: what was predicted, and what was measured where the scenario states it."""

    estimate: Estimate
    run: Estimate  # the same with the step of a long run
    measured: Measured | None = None
    num_events: int | None = None  # of the simulation; None: not simulated
    sharing: Sharing | None = None  # of the simulation with contention
    goodput: Goodput | None = None  # None: the scenario says nothing of checkpoints
    lives: tuple[Lived, ...] = ()  # runs with failures, simulated
    fed: Supply | None = None  # None: the scenario does not say what is read
    kept: Keeping | None = None  # None: likewise
    disturbed: Disturbed | None = None  # None: nothing is said to disturb it

    @property
    def measured_step_s(self) -> float | None:
        """The measured step time; None: not stated."""
        return self.measured.step_s if self.measured else None

    @property
    def step_error(self) -> float | None:
        """predicted / measured - 1; None: nothing measured."""
        return self.estimate.step_s / self.measured_step_s - 1 if self.measured_step_s else None


class Results(Struct, frozen=True):
    """All plans of a scenario by one back-end."""

    scenario: Scenario
    backend: str
    plans: tuple[Result, ...]


def predict(
    scenario: Scenario, backend: str = "estimate", *, contention: bool = False, progress: Callable[[str], None] | None = None
) -> Results:
    """The results of every plan that has all its axes, in the order of the scenario.

    Args:
        backend: "estimate", or "simulate" for a step time by events; memory and breakdown are the estimate's.
        contention: whether collectives that overlap share links; only events know what overlaps.
        progress: is told the name of each plan before it is simulated, or its steps are drawn.

    Raises:
        ParsimError: an unknown back-end, contention without events, or no plan has all its axes.
    """
    if backend not in BACKENDS:
        raise ParsimError(f"unknown backend '{backend}'", remedy=f"Known: {', '.join(BACKENDS)}.")
    if contention and backend != "simulate":
        raise ParsimError(f'contention needs events, and the backend is "{backend}"', remedy="Add --backend simulate.")
    check_plans(scenario)
    found = []
    for each in estimate_each(scenario, scenario.plans):
        if progress and (backend == "simulate" or scenario.disturbance is not None):
            progress(each.name)
        found.append(_result_of(scenario, each, backend, contention=contention))
    return Results(scenario, backend, tuple(found))


def _result_of(scenario: Scenario, found: Estimate, backend: str, *, contention: bool) -> Result:
    """One plan by a back-end, and what its run does with the step that it has there."""
    events: dict[str, Any] = {}
    if backend == "simulate":
        found, events = _by_events(scenario, found, contention)
    disturbed = disturbing.disturbed_of(scenario, found)
    run = in_a_run(scenario, found, disturbed)
    of_run: dict[str, Any] = {"disturbed": disturbed}
    if scenario.checkpoint is not None:
        from parsim.report import goodput

        of_run["goodput"] = goodput.found_for(scenario, run)
        of_run["lives"] = goodput.lived_by(scenario, run) if backend == "simulate" else ()
    if scenario.input is not None:
        from parsim.report import feeding

        of_run["fed"], of_run["kept"] = feeding.feed_of(scenario, found, run, backend)
    return Result(found, run, scenario.measured.get(found.name), **events, **of_run)


def check_plans(scenario: Scenario) -> None:
    """Refuse a scenario of which no plan has all its axes.

    Raises:
        ParsimError: there is none.
    """
    if not scenario.plans and not scenario.spaces:
        raise ParsimError(
            "no plan says how the work is split", remedy="Give one, e.g. --set plans.a.tensor_parallel=8, or ask parsim plan."
        )
    if not scenario.plans:
        raise ParsimError(
            f"every plan ({', '.join(scenario.spaces)}) leaves axes open",
            scenario.path,
            f"Fill them with: parsim plan {scenario.arguments}",
        )


def _by_events(scenario: Scenario, estimated: Estimate, contention: bool) -> tuple[Estimate, dict[str, Any]]:
    """The estimate with a step by events, and what the result has of these."""
    from parsim.simulator import simulate

    trace = simulate(scenario, estimated.name, contention=contention)
    sharing = Sharing(estimated.step_s, trace.lost_s(), trace.busy_s()) if contention else None
    return estimated.with_step(trace.step_s), {"num_events": trace.num_events, "sharing": sharing}


def document(results: Results) -> dict[str, Any]:
    """What results.json holds: SI base units, null where nothing is stated."""
    return {
        **head(results.scenario),
        **_notes(results.scenario),
        "about": about(results.scenario),
        "seed": results.scenario.seed,
        "backend": results.backend,
        "num_parameters": num_parameters(results.scenario.model),
        "num_trained_parameters": num_trained_parameters(results.scenario.model),
        "plans": [_plan_document(result, results.scenario) for result in results.plans],
    }


def head(scenario: Scenario) -> dict[str, Any]:
    """How a document begins."""
    return {"schema": _SCHEMA, "parsim_version": __version__, "scenario": scenario.name}


def about(scenario: Scenario) -> dict[str, str]:
    """What is trained, on what, and how much in a step."""
    cluster, batch = scenario.cluster, scenario.batch
    groups = cluster.groups or (NodeGroup(cluster.node, cluster.num_nodes),)
    devices = " + ".join(f"{each.num_devices} x {each.node.accelerator.name}" for each in groups)
    nodes = " + ".join(f"{each.num_nodes} x {each.node.name}" for each in groups)
    fabric = f", {cluster.fabric.name}" if cluster.fabric and cluster.num_nodes > 1 else ""
    sites = f" in {cluster.num_sites} sites" if cluster.num_sites > 1 else ""
    start, end = (getattr(batch, name) for name in ENDS)
    source = f" with sources of {batch.source}" if scenario.model.has_encoder else ""
    wide = f", the first {start} and last {end} layers in bf16" if start + end else ""
    return {
        "model": scenario.model.name,
        "devices": f"{devices} ({nodes}{fabric}{sites})",
        "stack": scenario.stack.name,
        "batch": f"{_rows(batch)} of {batch.sequence_length} tokens{source} in {batch.dtype}{wide}",
    }


def _rows(batch: Batch) -> str:
    """How many rows a step has, what they are and hold, and what of the data is cut off."""
    if not batch.packing:
        return units.count(batch.global_batch, "sequence")
    share = f"{batch.num_tokens / (batch.global_batch * batch.sequence_length):.1%} real tokens"
    each = len(batch.real_documents) // batch.global_batch
    held = f"{units.count(each, 'document')} each, " if batch.packing == PACKED else ""
    return f"{units.count(batch.global_batch, f'{batch.packing} row')} ({held}{share}{_cuts_of(batch)})"


def _cuts_of(batch: Batch) -> str:
    """What of the data's lengths is longer than a row; "" where nothing is."""
    lost = [length - batch.sequence_length for length in batch.lengths if length > batch.sequence_length]
    of = f"of {units.count(len(lost), 'document')} longer than a row"
    return f"; {sum(lost):,} of the data's {sum(batch.lengths):,} tokens cut, {of}" if lost else ""


def _notes(scenario: Scenario) -> dict[str, list[str]]:
    """What was set or assumed beside the scenario's file, and what it leaves open, where anything was."""
    said = {"notes": list(scenario.notes), "assumed": [*map(str, scenario.assumed)]}
    return {key: texts for key, texts in said.items() if texts}


def cannot_run(scenario: Scenario, plan: Plan) -> str:
    """Why the scenario's stack cannot run a plan, with one that can; "" where it can."""
    return "; ".join(reasons(plan, scenario.model, scenario.stack))


def remarks(scenario: Scenario, plan: Plan) -> list[str]:
    """What the figures of a plan do not say by themselves: a sentence each."""
    stack, kept = scenario.stack, "keeps gathered parameters for all micro-batches of a pipeline, unless reshard_after_forward = true"
    by_default = plan.reshard_after_forward is None and keeps_parameters(plan, stack)
    stale = "gradients meet weights that others have updated since, so losses are not those of workers in step"
    is_stale = plan.is_served and plan.staleness_bound != 0
    apart = "steps of replicas that train apart are not drawn, so that what disturbs them is not counted"
    is_apart = scenario.disturbance is not None and plan.gradient_sync == LOCAL_SGD
    said = {f"{stack.name} {kept}": by_default, stale: is_stale, apart: is_apart}
    return [*in_vain(plan, stack), *(sentence for sentence, holds in said.items() if holds)]


def with_other_stack(scenario: Scenario, plan: Plan) -> tuple[str, float] | None:
    """A stack that differs much from the default one of GPUs, and the seconds of a plan's step under it; None on devices with another
    default, or where the plan is not legal.
    """
    if scenario.stack.name != DEFAULT_STACK:
        return None
    other = replace(scenario, stack=read("stacks", _OTHER_STACK)).sound()
    return None if other.faults(plan) else (other.stack.name, int(Priced(other, Plans.of([plan])).steps()[0]) / PS_PER_S)


def _plan_document(result: Result, scenario: Scenario) -> dict[str, Any]:
    predicted = result.estimate
    return {
        **{name: getattr(predicted, name) for name in ("name", "step_s", *RATES, *_SIZES, "fits")},
        **sure.document(scenario, predicted),
        "breakdown_s": dict(predicted.breakdown_s),
        "critical_rank": predicted.critical_rank,
        "peak_rank": predicted.peak_rank,
        "memory_bytes": [dict(parts) for parts in predicted.memory_bytes],
        "host_memory_bytes": dict(predicted.host_memory_bytes),
        "measured_step_s": result.measured_step_s,
        "measured_peak_bytes": result.measured.peak_bytes if result.measured else None,
        "measured_source": result.measured.source if result.measured else None,
        "step_error": result.step_error,
        "plan": plan_document(predicted.plan),
        "num_micro_batches": predicted.num_micro_batches,
        "layers_per_stage": list(predicted.layers),
        "stack_cannot": cannot_run(scenario, predicted.plan) or None,
        "remarks": "; ".join(remarks(scenario, predicted.plan)) or None,
        "num_events": result.num_events,
        **whole.document(scenario, predicted, result.run),
        **_document_of_run(result),
        **({"disturbance": disturbing.document(result.disturbed)} if result.disturbed else {}),
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as results.json has it: under the names of a scenario file, but with pairs for the dimensions."""
    return {**plan.to_dict(), "dimensions": [list(each) for each in plan.dimensions]}


def table(results: Results) -> list[dict[str, object]]:
    """What results.csv holds: a row a plan, memory of the most loaded rank."""
    rows = []
    for result in results.plans:
        found = _plan_document(result, results.scenario)
        row: dict[str, object] = {"scenario": results.scenario.name, "backend": results.backend, "plan": found["name"]}
        row |= flat(found["plan"])
        row |= result.estimate.ends()
        row |= {key: value for key, value in found.items() if key != "name" and not isinstance(value, dict | list)}
        row |= {f"{name}_s": seconds for name, seconds in found["breakdown_s"].items()}
        row |= {f"{name}_bytes": size for name, size in found["memory_bytes"][found["peak_rank"]].items()}
        row |= found["whole_training"] or {}
        row |= {f"run_{name}": seconds for name, seconds in found.get("run", {}).items()}
        row |= _columns_of_run(result)
        rows.append(row)
    return rows


def _columns_of_run(result: Result) -> dict[str, object]:
    """What CSV has of a run, where the scenario states any of it."""
    if not (result.fed or result.goodput or result.disturbed):
        return {}
    from parsim.goodput.rows import of_disturbed, of_feed
    from parsim.report import goodput

    return {**of_feed(result.fed, result.kept), **goodput.row(result.goodput, result.lives), **of_disturbed(result.disturbed)}


def _document_of_run(result: Result) -> dict[str, Any]:
    sharing = {"sharing": result.sharing.document()} if result.sharing else {}
    if not (result.fed or result.goodput):
        return sharing
    from parsim.report import feeding, goodput

    return {**goodput.document(result.goodput, result.lives), **sharing, **feeding.document(result.fed, result.kept)}


def ranking_document(scenario: Scenario, ranking: Ranking) -> dict[str, Any]:
    """The ranking as JSON has it: best plan first, SI base units."""
    share, near = sure.near_first(scenario, ranking.rows) if ranking.rows else (None, [])
    return {
        **head(scenario),
        **_notes(scenario),
        "num_parameters": num_parameters(scenario.model),
        "num_trained_parameters": num_trained_parameters(scenario.model),
        "num_legal": ranking.num_legal,
        "num_over_memory": ranking.num_over_memory,
        "num_over_host": ranking.num_over_host,
        "num_fit": ranking.num_fit,
        "num_combinations": ranking.num_combinations,
        "nothing_legal": ranking.nothing_legal or None,
        "objective": ranking.objective,
        "limits": [{"limit": each.limit, "plans": each.count, "whole": each.whole} for each in ranking.cuts],
        "rejected": [{"rule": each.rule, "combinations": each.count, "example": each.example} for each in ranking.rejected],
        "num_alike": ranking.alike,
        "sure_beyond": share,
        "contention": _contention_document(ranking),
        "plans": [
            {
                **{"place": place, "name": each.name or None, "of_space": each.name not in ranking.outside},
                "plan": plan_document(each.plan),
                **{name: getattr(each, name) for name in _RANKED},
                **sure.document(scenario, each),
                "breakdown_s": dict(each.breakdown_s),
                "slower_by_s": ranking.slower_by(place - 1),
                "may_be_first": place == 1 or place in near,
                "shares_links": ranking.shares[place - 1],
                **({"alone_step_s": ranking.contention.alone_s[place - 1]} if ranking.contention else {}),
                "stack_cannot": cannot_run(scenario, each.plan) or None,
                **_run_document(as_planned(scenario), each),
            }
            for place, each in enumerate(ranking.rows, 1)
        ],
    }


def _run_document(scenario: Scenario, found: Estimate) -> dict[str, Any]:
    """The whole training and the goodput of a plan."""
    run = in_a_run(scenario, found)
    told = whole.document(scenario, found, run)
    if scenario.checkpoint is None:
        return told
    from parsim.report import goodput

    return {**told, **goodput.document(goodput.found_for(scenario, run), ())}


def _contention_document(ranking: Ranking) -> dict[str, Any] | None:
    """What re-ranked the plans by simulated contention; None where nothing did."""
    found = ranking.contention
    return (
        {"re_ranked_by": "simulated contention", "not_simulated": list(ranking.not_simulated), "is_best": found.is_best} if found else None
    )


def _goodput_columns(plan: Mapping[str, Any]) -> dict[str, object]:
    if "goodput" not in plan:
        return {}
    from parsim.report import goodput

    return goodput.ranking_columns(plan)


def ranking_table(document: Mapping[str, Any]) -> list[dict[str, object]]:
    """The document of a ranking as CSV has it: a row a plan."""
    kept = (*_RANKED, "stack_cannot", "step_energy_j")
    more = ("alone_step_s",) if document["contention"] else ()
    plans = document["plans"]
    wholes = [(each["whole_training"] or {}) | _goodput_columns(each) for each in plans]
    figures = [{key: each[key] for key in (*kept, *more)} | whole for each, whole in zip(plans, wholes, strict=True)]
    return [
        {**{key: each[key] for key in ("place", "name", "of_space")}, **flat(each["plan"]), **row}
        for each, row in zip(document["plans"], figures, strict=True)
    ]
