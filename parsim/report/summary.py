"""The tables of `parsim run` and `parsim plan` on a terminal.  What they say is computed elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from parsim import units
from parsim.estimator.result import Estimate
from parsim.model.parameters import num_parameters
from parsim.parallel.dimensions import DIMENSIONS, axis_of
from parsim.parallel.plan import EXPERT_KEYS, KEYS, Plan
from parsim.report.console import percent, say, show_table
from parsim.report.results import LayerRow, Results, cannot_run, remarks, with_other_stack
from parsim.report.whole import show_whole
from parsim.scenario import Scenario

if TYPE_CHECKING:
    from parsim.planner import Front, Ranking

_LEFT = ("plan", "recompute", "segment", "pass")
# What the columns of a plan say already; another axis has a column where ranked plans differ in it.
_SAID: Final = (
    *("data_parallel", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "sequence_parallel", "micro_batch", "recompute"),
    *("recompute_every", "zero_stage", "zero_group", "reshard_after_forward", "offload_optimizer", "dimensions", *EXPERT_KEYS),
)
_OWN_COLUMN: Final = tuple(name for name in KEYS if name not in _SAID)


_MARK: Final = "*"  # of a plan that the stack cannot run


def headline(scenario: Scenario) -> str:
    """The scenario in a line: model, devices, software."""
    cluster = scenario.cluster
    boxes = f"{cluster.num_nodes} x {cluster.node.name}" + (f", {cluster.fabric.name}" if cluster.fabric and cluster.num_nodes > 1 else "")
    devices = f"{cluster.num_devices} x {cluster.node.accelerator.name} ({boxes})"
    return f"{scenario.model.name} on {devices}, {scenario.stack.name}{' by default' if scenario.default_stack else ''}"


def size(scenario: Scenario) -> str:
    """Parameters and batch in a line."""
    batch = scenario.batch
    work = f"{batch.global_batch} sequences of {batch.sequence_length} tokens in {batch.dtype}"
    return f"{num_parameters(scenario.model):,} parameters, {work}"


def say_what(scenario: Scenario, first: Estimate | None = None, name: str = "") -> None:
    """Say what was set or assumed, and what is predicted; of a stack that nobody chose, what another would change."""
    if scenario.notes:
        say("; ".join(scenario.notes))
    other = with_other_stack(scenario, first.plan) if first and scenario.default_stack else None
    compared = ""
    if first and other:
        mine, others = (units.format(each.step_s, "s") for each in (first, other[1]))
        compared = f" ({name} takes {mine}, with stack: {other[0]} {others})"
    say(f"{headline(scenario)}{compared}")
    say(size(scenario))


def _close(said: Mapping[str, str], scenario: Scenario, *, on_hosts: bool) -> None:
    """Why the stack cannot run plans that are marked, and what is not checked."""
    for name, why in said.items():
        if why:
            say(f"{_MARK} {name}: {why}")
    node = scenario.cluster.node
    if on_hosts and node.host_memory_bytes is None:
        say(f'host memory not checked: nobody says what the host of node "{node.name}" holds; give its host_memory_capacity')


def show_results(results: Results) -> None:
    """The results of all plans: what each is and reaches, where its time goes, and what its memory holds."""
    scenario, first = results.scenario, results.plans[0].estimate
    say_what(scenario, first, first.name)
    plans = [each.estimate.plan for each in results.plans]
    said = {each.estimate.name: cannot_run(scenario, each.estimate.plan) for each in results.plans}
    rows, times, memories, hosts, measured = [], [], [], [], []
    for result in results.plans:
        predicted = result.estimate
        plan = {"plan": f"{predicted.name}{_MARK if said[predicted.name] else ''}"}
        rows.append({**plan, **_axes(predicted, plans), **_figures(predicted), "fits": "yes" if predicted.fits else "no"})
        if result.measured_step_s is not None and result.step_error is not None:
            seconds = {"predicted": predicted.step_s, "measured": result.measured_step_s}
            shown = {key: units.format(each, "s", digits=4) for key, each in seconds.items()}
            measured.append({**plan, **shown, "error": percent(result.step_error, signed=True)})
        parts, memory = predicted.breakdown_s, predicted.memory_bytes[predicted.peak_rank]
        whole = sum(parts.values())  # the estimate's step, also where another back-end says how long it takes
        shares = {name.removeprefix("exposed_"): _share(seconds / whole) for name, seconds in parts.items()}
        times.append({**plan, "stage": str(predicted.critical_rank), **_broken(shares)})
        sizes = {name: _gib(held) for name, held in memory.items()}
        memories.append({**plan, "stage": str(predicted.peak_rank), **_broken(sizes)})
        if predicted.host_memory_bytes:
            holds = "?" if predicted.host_capacity_bytes is None else _gib(predicted.host_capacity_bytes)
            sizes = {name: _gib(held) for name, held in predicted.host_memory_bytes.items()}
            hosts.append({**plan, **sizes, "all": _gib(predicted.host_peak_bytes), "holds": holds})
    say("")
    show_table(rows, left=_LEFT)
    if measured:
        show_table(measured, left=_LEFT, title="step time")
    show_table(times, left=_LEFT, title="time, % of the step on the busiest stage")
    show_table(memories, left=_LEFT, title="memory, GiB on the most loaded stage")
    if hosts:
        show_table(hosts, left=_LEFT, title="memory, GiB on the fullest host")
    show_whole(scenario, {each.estimate.name: each.estimate for each in results.plans}, "plan")
    _close(said, scenario, on_hosts=bool(hosts))
    remarked: dict[str, list[str]] = {}
    for each in results.plans:
        for sentence in remarks(scenario, each.estimate.plan):
            remarked.setdefault(sentence, []).append(each.estimate.name)
    for sentence, names in remarked.items():
        say(f"{', '.join(names)}: {sentence}")


def _broken(row: Mapping[str, str]) -> dict[str, str]:
    """The row with its long names in two lines, so that a table is 80 columns wide."""
    return {_in_two(name): text for name, text in row.items()}


def _in_two(name: str) -> str:
    half = (len(name) + 1) // 2
    return name.replace("_", "_\n") if "_" in name else f"{name[:half]}-\n{name[half:]}" if len(name) > 8 else name


def _share(share: float) -> str:
    return percent(share).removesuffix(" %")


def _axes(estimate: Estimate, plans: Sequence[Plan]) -> dict[str, str]:
    """The axes of a plan, with a column for each that one of `plans` has."""
    plan, has_chunks = estimate.plan, any(each.virtual_pipeline > 1 for each in plans)
    others = {axis: "-" for each in plans for axis in _others(each)} | _others(plan)
    tp, pp, dp = map(axis_of, ("tensor_parallel", "pipeline_parallel", "data_parallel"))
    return {
        tp: f"{plan.tensor_parallel}{' sp' if plan.sequence_parallel else ''}",
        pp: str(plan.pipeline_parallel),
        **({"vpp": str(plan.virtual_pipeline)} if has_chunks else {}),
        dp: f"{plan.data_parallel}{_zero(plan)}",
        **others,
        "mbs": f"{plan.micro_batch}x{estimate.num_micro_batches}",
        "recompute": _recompute(plan),
    }


def _more_axes(plan: Plan, plans: Sequence[Plan]) -> dict[str, str]:
    """The axes without a usual column in which `plans` differ, so that rows that differ never read the same."""
    return {axis: _text(getattr(plan, axis)) for axis in _OWN_COLUMN if any(getattr(each, axis) != getattr(plan, axis) for each in plans)}


def _others(plan: Plan) -> dict[str, str]:
    """Degrees above 1 of experts' dimensions, and of those without a key of their own, by axis; one that is on or off, by its name."""
    stated = tuple((name, getattr(plan, name)) for name in EXPERT_KEYS if getattr(plan, name) > 1) + plan.dimensions
    known = {name: DIMENSIONS.get(name) for name, _ in stated}
    return {name if known[name].nesting is None else known[name].axis: str(degree) for name, degree in stated}


def _zero(plan: Plan) -> str:
    group = f"/{plan.zero_group}" if plan.zero_group else ""
    zero = f" z{plan.zero_stage}{group}" if plan.zero_stage else ""
    parameters = "" if plan.reshard_after_forward is None else " let go" if plan.reshard_after_forward else " kept"
    return zero + parameters + (" host" if plan.offload_optimizer else "")


def _recompute(plan: Plan) -> str:
    """'full', 'selective + 1 op', '2 modules', '3 ops', and the share of layers where not each does."""
    counts = {"module": len(plan.recompute_modules), "op": len(plan.recompute_ops)}
    parts = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts.items() if count]
    whole = plan.recompute != "none" and not plan.recompute_modules  # which say what selective means
    again = " + ".join([*([plan.recompute] if whole or not parts else []), *parts])
    return again + (f" 1/{plan.recompute_every}" if plan.recompute_every > 1 else "")


def _figures(estimate: Estimate) -> dict[str, str]:
    return {
        "step": units.format(estimate.step_s, "s", digits=4),
        "token/s\n/device": _number(estimate.tokens_per_s_per_device, "token/s"),
        "MFU\n%": _share(estimate.mfu),
        f"GiB\n/{_gib(estimate.capacity_bytes)}": _gib(estimate.peak_bytes),
    }


def _number(value: float, unit: str) -> str:
    return units.format(value, unit).partition(" ")[0]


def show_layers(rows: Sequence[LayerRow]) -> None:
    """The segments of one plan."""
    shown = []
    for row in rows:
        place = {"segment": "one layer" if row.segment == "layer" else row.segment, "pass": row.direction, "copies": str(row.copies)}
        counts = {"FLOPs": units.format(row.flops, "FLOP"), "HBM": units.format(row.hbm_bytes, "bytes")}
        counts |= {"sent": units.format(row.sent_bytes, "bytes"), "parameters": f"{row.num_parameters:,}"}
        times = {"compute": row.compute_s, "communicate": row.communicate_s, "seconds": row.seconds}
        shown.append({**place, **counts, **{name: units.format(seconds, "s") for name, seconds in times.items()}})
    show_table(shown, left=_LEFT, title=f"{rows[0].plan}: one device and micro-batch, copies on the busiest stage")


def show_sharing(results: Results) -> None:
    """Each plan's step with and without sharing, then what each link's flows lost to which others."""
    steps, losses = [], []
    for result in results.plans:
        name, shared_s, sharing = result.estimate.name, result.estimate.step_s, result.sharing
        assert sharing is not None
        longer = f"{units.format(max(shared_s - sharing.alone_step_s, 0.0), 's')}, {percent(shared_s / sharing.alone_step_s - 1.0)}"
        times = {"alone": units.format(sharing.alone_step_s, "s", digits=4), "shared": units.format(shared_s, "s", digits=4)}
        steps.append({"plan": name, **times, "longer by": longer, "flows lost": units.format(sum(sharing.lost_s.values()), "s")})
        for (link, stream, other), lost_s in sharing.lost_s.items():
            figures = {"lost": units.format(lost_s, "s"), "link busy": percent(sharing.busy_s[link] / shared_s)}
            losses.append({"plan": name, "link": link, "stream": stream, "shares it with": other, **figures})
    show_table(steps, left=("plan",), title="step, links shared by what overlaps on them")
    if losses:
        show_table(losses, left=("plan", "link", "stream", "shares it with"), title="lost to sharing, all stages together")


def _gib(num_bytes: float) -> str:
    """The GiB, without their unit."""
    least = units.parse("0.001 GiB", "bytes")
    return units.format(num_bytes, "GiB").partition(" ")[0] if num_bytes >= least or not num_bytes else "<0.001"


def short(plan: Plan) -> str:
    """A plan in a few letters.

    >>> short(Plan(tensor_parallel=8, data_parallel=2, recompute="full"))
    'tp8 pp1 dp2 mbs1 recompute full'
    >>> short(Plan(data_parallel=4, zero_stage=3, zero_group=2, recompute_ops=("norm1",), recompute_every=2))
    'tp1 pp1 dp4 z3/2 mbs1 recompute 1 op 1/2'
    """
    chunks = f" vpp{plan.virtual_pipeline}" if plan.virtual_pipeline > 1 else ""
    sequence = " sp" if plan.sequence_parallel else ""
    axes = f"tp{plan.tensor_parallel}{sequence} pp{plan.pipeline_parallel}{chunks} dp{plan.data_parallel}{_zero(plan)}"
    others = "".join(f" {axis}{degree}" for axis, degree in _others(plan).items())
    return f"{axes}{others} mbs{plan.micro_batch} recompute {_recompute(plan)}"


def show_ranking(scenario: Scenario, ranking: Ranking) -> None:
    """The ranked plans of the planner."""
    rows: list[dict[str, str]] = []
    best = ranking.rows[0] if ranking.rows else None
    say_what(scenario, best, "the best plan")
    plans = "plan" if ranking.num_legal == 1 else "plans"
    say(f"{ranking.num_legal:,} legal {plans}, {_over(ranking)}, {ranking.num_fit:,} fit")
    if ranking.nothing_legal:
        say(f"nothing in the space is legal ({ranking.nothing_legal}): these plans are those that the scenario names")
    if ranking.rejected:
        say(f"kept out of {ranking.num_combinations:,} combinations by:")
        say(", ".join(f"{each.rule} {each.count:,}" for each in sorted(ranking.rejected, key=lambda each: -each.count)))
    for cut in ranking.cuts:
        say(f"limit {cut.limit}: keeps out {'' if cut.whole else 'at least '}{cut.count:,} of these")
    if best is None:
        return
    if ranking.objective != "step_time":
        say(f"ranked by {ranking.objective}")
    if ranking.contention:
        say("the best re-ranked by simulated contention; alone: the step if each collective had its links to itself")
    shown = [each.plan for each in ranking.rows]
    named = any(each.name for each in ranking.rows)
    said = {str(place): cannot_run(scenario, each.plan) for place, each in enumerate(ranking.rows, 1)}
    for (place, why), each in zip(said.items(), ranking.rows, strict=True):
        behind = percent(each.tokens_per_s / best.tokens_per_s - 1, signed=True)
        name = {"plan": f"{each.name}{' (not of the space)' if each.name in ranking.outside else ''}"} if named else {}
        alone = {"alone": units.format(ranking.contention.alone_s[len(rows)], "s", digits=4)} if ranking.contention else {}
        name |= {**_axes(each, shown), **_more_axes(each.plan, shown)}
        row = {"#": f"{place}{_MARK if why else ''}", **name, **alone, **_figures(each)}
        rows.append(row | {"speed": behind if rows else "best"})
    say("")
    show_table(rows, left=(*_LEFT, *_OWN_COLUMN))
    _show_why(ranking)
    _show_contention(ranking)
    numbered = {str(place): each for place, each in enumerate(ranking.rows, 1)}
    show_whole(scenario, numbered, "#", energy=ranking.objective == "energy")
    _close(said, scenario, on_hosts=any(each.host_memory_bytes for each in ranking.rows))


def _device_time(estimate: Estimate) -> dict[str, str]:
    """The devices, and what a step costs in their time."""
    count = estimate.plan.num_devices
    return {"devices": str(count), "device time\n/step": units.format(count * estimate.step_s, "s", digits=4)}


def _over(ranking: Ranking) -> str:
    """How many exceed which memory."""
    on_host = f", {ranking.num_over_host:,} that of the host" if ranking.num_over_host else ""
    return f"{ranking.num_over_memory - ranking.num_over_host:,} exceed the memory of the device{on_host}"


def show_front(scenario: Scenario, front: Front) -> None:
    """The plans of a front, fastest first."""
    say_what(scenario, front.rows[0] if front.rows else None, "the fastest plan")
    beaten = f"; no other beats these {len(front.rows)} in step time and memory" if front.rows else ""
    say(f"{front.num_legal:,} legal plans, {front.num_fit:,} fit{beaten}")
    plans = [each.plan for each in front.rows]
    sized = len({each.num_devices for each in plans}) > 1
    rows: list[dict[str, str]] = []
    for each in front.rows:
        devices = _device_time(each) if sized else {}
        behind = {"speed": percent(each.tokens_per_s / front.rows[0].tokens_per_s - 1, signed=True) if rows else "best"}
        rows.append({**_axes(each, plans), **_more_axes(each.plan, plans), **devices, **_figures(each), **behind})
    if rows:
        say("")
        show_table(rows, left=(*_LEFT, *_OWN_COLUMN))


def _text(value: object) -> str:
    """A value of an axis in a cell."""
    return "-" if value in (None, ()) else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show_why(ranking: Ranking) -> None:
    """What makes each plan slower than the first, and which cannot be told from it."""
    for place in range(1, len(ranking.rows)):
        parts = list(ranking.slower_by(place).items())
        (most, cost), (least, gain) = parts[0], parts[-1]
        net = ranking.rows[place].step_s - ranking.rows[0].step_s
        if net > 0:
            gained = f", {units.format(-gain, 's')} less of {part_words(least)}" if gain < 0 else ""
            say(f"{place + 1:>2} takes {units.format(net, 's')} more: {units.format(cost, 's')} more of {part_words(most)}{gained}")
    if ranking.alike > 1:
        say(f"the first {ranking.alike:,} cannot be told apart: runs of one plan differ by {percent(ranking.NOISE)}")


def _show_contention(ranking: Ranking) -> None:
    """What the ranking leaves out of links that collectives share."""
    if (found := ranking.contention) is None:
        some = "" if all(ranking.may_share) else f" of {_places(place for place, may in enumerate(ranking.may_share, 1) if may)}"
        if any(ranking.may_share):
            say(f"collectives{some} may share links, which no step here counts:")
            say("--contention simulates and re-ranks")
        return
    if found.not_simulated:
        say(f"not simulated, of too many events, and so last: {_places(found.not_simulated)}")
    if not found.is_best:
        say(f"a plan that was not simulated may take less than the first: --top {2 * len(ranking.rows)} simulates more")


def _places(places: Iterable[int]) -> str:
    return ", ".join(map(str, places))


def part_words(part: str) -> str:
    """What a sentence calls a part of the step."""
    return part.replace("exposed_", "exposed ").replace("_", " ")
