"""The tables of `parsim run` and `parsim plan` on a terminal.  What they say is computed elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from parsim import units
from parsim.estimator.cells import axes, defaults, figures, gib, other_axes, share
from parsim.estimator.parts import ALLOCATED, PARTS, QUANTITIES
from parsim.estimator.result import Estimate
from parsim.goodput.long_run import as_planned, in_a_run
from parsim.model.parameters import num_parameters, num_trained_parameters
from parsim.report.console import say, show_table
from parsim.report.layers import LayerRow
from parsim.report.results import Results, about, cannot_run, remarks, with_other_stack
from parsim.report.sure import near_first, show_intervals
from parsim.report.whole import show_whole
from parsim.scenario import Scenario
from parsim.scenario.left_open import in_words
from parsim.units import percent

if TYPE_CHECKING:
    from parsim.planner import Front, Ranking

_LEFT = ("plan", "recompute", "segment", "pass")


_MARK: Final = "*"  # of a plan that the stack cannot run


def headline(scenario: Scenario) -> str:
    """The scenario in a line: model, devices, software."""
    told = about(scenario)
    return f"{told['model']} on {told['devices']}, {told['stack']}{' by default' if scenario.default_stack else ''}"


def size(scenario: Scenario) -> str:
    """Parameters and batch in a line."""
    model = scenario.model
    trained = f", of which {num_trained_parameters(model):,} are trained" if model.architecture.tuned else ""
    return f"{num_parameters(model):,} parameters{trained}, {about(scenario)['batch']}"


def say_what(scenario: Scenario, first: Estimate | None = None, name: str = "") -> None:
    """Say what was set or assumed, and what is predicted; of a stack that nobody chose, what another would change."""
    if scenario.notes:
        say("; ".join(scenario.notes))
    other = with_other_stack(scenario, first.plan) if first and scenario.default_stack else None
    compared = ""
    if first and other:
        mine, others = (units.format(each, "s") for each in (first.step_s, other[1]))
        compared = f" ({name} takes {mine}, with stack: {other[0]} {others})"
    say(f"{headline(scenario)}{compared}")
    say(size(scenario))
    left_open = [each for each in scenario.assumed if each.name != "stack"]  # which the headline says
    if said := in_words(left_open, len(scenario.plans)):
        say(f"left open: {said}")


def _close(said: Mapping[str, str], scenario: Scenario, *, on_hosts: bool) -> None:
    """Why the stack cannot run plans that are marked, and what is not checked."""
    for name, why in said.items():
        if why:
            say(f"{_MARK} {name}: {why}")
    node = scenario.cluster.node
    if on_hosts and node.host_memory_bytes is None:
        say(f'host memory not checked: nobody says what the host of node "{node.name}" holds; give its host_memory_capacity')


def _parts_held(found: Iterable[Estimate]) -> set[str]:
    """Parts of memory of which some plan has any on its fullest device."""
    return {name for each in found for name, held in each.memory_bytes[each.peak_rank].items() if held}


def show_results(results: Results) -> None:
    """The results of all plans: what each is and reaches, where its time goes, and what its memory holds."""
    scenario, first = results.scenario, results.plans[0].estimate
    say_what(scenario, first, first.name)
    plans = [each.estimate.plan for each in results.plans]
    said = {each.estimate.name: cannot_run(scenario, each.estimate.plan) for each in results.plans}
    rows, times, tensors, others, quantities, hosts, measured = [], [], [], [], [], [], []
    told = _parts_held(each.estimate for each in results.plans)
    for result in results.plans:
        predicted = result.estimate
        plan = {"plan": f"{predicted.name}{_MARK if said[predicted.name] else ''}"}
        rows.append({**plan, **axes(predicted, plans), **figures(predicted), "fits": predicted.fit})
        if result.measured_step_s is not None and result.step_error is not None:
            seconds = {"predicted": predicted.step_s, "measured": result.measured_step_s}
            shown = {key: units.format(each, "s", digits=4) for key, each in seconds.items()}
            measured.append({**plan, **shown, "error": percent(result.step_error, signed=True)})
        parts, memory = predicted.breakdown_s, predicted.memory_bytes[predicted.peak_rank]
        if result.fed:
            parts = {**parts, "input": result.fed.stall_s}
        whole = sum(parts.values())  # the estimate's step, also where another back-end says how long it takes
        shares = {name.removeprefix("exposed_"): share(seconds / whole) for name, seconds in parts.items()}
        times.append({**plan, "stage": str(predicted.critical_rank), **_broken(shares)})
        sizes = {name: gib(held) for name, held in memory.items() if name in told}
        on_stage = {**plan, "stage": str(predicted.peak_rank)}
        tensors.append(on_stage | _broken({name: each for name, each in sizes.items() if name in PARTS[ALLOCATED]}))
        others.append(on_stage | _broken({name: each for name, each in sizes.items() if name not in PARTS[ALLOCATED]}))
        totals = {each: gib(getattr(predicted, f"{each}_bytes")) for each in QUANTITIES}
        quantities.append({**plan, **totals, "holds": gib(predicted.capacity_bytes)})
        if predicted.host_memory_bytes:
            holds = "?" if predicted.host_capacity_bytes is None else gib(predicted.host_capacity_bytes)
            sizes = {name: gib(held) for name, held in predicted.host_memory_bytes.items()}
            hosts.append({**plan, **sizes, "all": gib(predicted.host_peak_bytes), "holds": holds})
    say("")
    show_table(rows, left=_LEFT)
    _say_precisions(each.estimate for each in results.plans)
    if measured:
        show_table(measured, left=_LEFT, title="step time")
    show_table(times, left=_LEFT, title="time, % of the step on the busiest stage")
    show_table(tensors, left=_LEFT, title="memory, GiB on the most loaded stage: tensors")
    if told - {*PARTS[ALLOCATED]}:
        show_table(others, left=_LEFT, title="memory, GiB of that stage: what is no tensor")
    show_table(quantities, left=_LEFT, title="memory, GiB of that stage: tensors, allocator, device, which is to hold it")
    if hosts:
        show_table(hosts, left=_LEFT, title="memory, GiB on the fullest host")
    found = {each.estimate.name: each.estimate for each in results.plans}
    show_intervals(scenario, found, "plan")
    show_whole(scenario, {each.estimate.name: (each.estimate, each.run) for each in results.plans}, "plan")
    _show_runs(results)
    _close(said, scenario, on_hosts=bool(hosts))
    remarked: dict[str, list[str]] = {}
    for each in results.plans:
        for sentence in remarks(scenario, each.estimate.plan):
            remarked.setdefault(sentence, []).append(each.estimate.name)
    for sentence, names in remarked.items():
        say(f"{', '.join(names)}: {sentence}")


def _show_runs(results: Results) -> None:
    """What feeds plans and what they keep, where the scenario says it."""
    scenario = results.scenario
    if scenario.input is not None:
        from parsim.report.feeding import show_feed

        show_feed(scenario, [each.fed for each in results.plans if each.fed], [each.kept for each in results.plans if each.kept])
    if kept := {each.estimate.name: (each.goodput, each.lives) for each in results.plans if each.goodput}:
        from parsim.report.goodput import show_goodput

        show_goodput(scenario, kept)


def _broken(row: Mapping[str, str]) -> dict[str, str]:
    """The row with its long names in two lines, so that a table is 80 columns wide."""
    return {_in_two(name): text for name, text in row.items()}


def _in_two(name: str) -> str:
    half = (len(name) + 1) // 2
    return name.replace("_", "_\n") if "_" in name else f"{name[:half]}-\n{name[half:]}" if len(name) > 8 else name


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
        longer = f"{units.format(shared_s - sharing.alone_step_s, 's')}, {percent(shared_s / sharing.alone_step_s - 1.0)}"
        times = {"alone": units.format(sharing.alone_step_s, "s", digits=4), "shared": units.format(shared_s, "s", digits=4)}
        steps.append({"plan": name, **times, "longer by": longer, "flows lost": units.format(sum(sharing.lost_s.values()), "s")})
        for (link, stream, other), lost_s in sharing.lost_s.items():
            figures = {"lost": units.format(lost_s, "s"), "link busy": percent(sharing.busy_s[link] / shared_s)}
            losses.append({"plan": name, "link": link, "stream": stream, "shares it with": other, **figures})
    show_table(steps, left=("plan",), title="step, links and devices shared by what overlaps on them")
    if any(each.sharing and each.estimate.step_s < each.sharing.alone_step_s for each in results.plans):
        say("shorter: kernels met fewer collectives than the estimate charges, which goes by the order of issue and not by time")
    if losses:
        show_table(losses, left=("plan", "link", "stream", "shares it with"), title="lost to sharing, all stages together")


def show_ranking(scenario: Scenario, ranking: Ranking) -> None:
    """The ranked plans of the planner."""
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
        steps = enumerate(ranking.contention.alone_s, 1)
        simulated = [f"{place} (parsim run: {units.format(each, 's', digits=4)})" for place, each in steps if each is not None]
        say(f"re-ranked by simulated contention of {', '.join(simulated)}" if simulated else "no step was simulated with contention")
    said = {str(place): cannot_run(scenario, each.plan) for place, each in enumerate(ranking.rows, 1)}
    _show_plans(ranking.rows, [{**row, "#": f"{row['#']}{_MARK if said[row['#']] else ''}"} for row in ranking.cells()])
    _show_why(ranking)
    if ranking.objective != "energy":
        _say_near(scenario, ranking.rows)
    _show_contention(ranking)
    numbered = {str(place): each for place, each in enumerate(ranking.rows, 1)}
    show_intervals(scenario, numbered, "#")
    planned = as_planned(scenario)
    in_run = {place: (each, in_a_run(planned, each)) for place, each in numbered.items()}
    show_whole(planned, in_run, "#", energy=ranking.objective == "energy")
    if planned.checkpoint is not None:
        from parsim.goodput.predict import goodput_of
        from parsim.report.goodput import show_goodput

        show_goodput(planned, {place: (goodput_of(planned, run), ()) for place, (_, run) in in_run.items()}, "#")
    for each in said_of_ranking(scenario):
        say(each)
    _close(said, scenario, on_hosts=any(each.host_memory_bytes for each in ranking.rows))


def said_of_ranking(scenario: Scenario) -> list[str]:
    """What the planner leaves out of a run that the scenario states, a sentence each."""
    left_out = "what disturbs steps is not counted here, of thousands of plans: parsim run counts it"
    jitter = "plans are ranked by the mean times of their input; the tables count how these vary"
    varies = scenario.input is not None and bool(scenario.input.jitter)
    return [*([left_out] if scenario.disturbance is not None else []), *([jitter] if varies else []), *_not_tried(scenario)]


def _not_tried(scenario: Scenario) -> list[str]:
    """What `auto` of an axis leaves out that a space asks for, a sentence each."""
    from parsim.planner.accord import AUTO, not_tried

    open_axes = dict.fromkeys(axis for space in scenario.spaces.values() for axis, values in space.axes.items() if values == (AUTO,))
    found = ((axis, *not_tried(axis, scenario)) for axis in open_axes)
    return [f"{axis} = auto tries {tried} alone: for {others} give a list" for axis, tried, others in found if others]


def _show_plans(found: Sequence[Estimate], rows: Sequence[Mapping[str, str]]) -> None:
    say("")
    plans = [each.plan for each in found]
    show_table(rows, left=(*_LEFT, *other_axes(plans[0], plans)))
    if others := defaults(plans):
        say(f"-: {others}")
    _say_precisions(found)


def _say_precisions(found: Iterable[Estimate]) -> None:
    """What plans of several precisions do not share."""
    if len({each.precision for each in found}) > 1:
        say("precision changes numerics: losses of these plans differ; MFU is of the peak of each precision")


def _over(ranking: Ranking) -> str:
    """How many exceed which memory."""
    on_host = f", {ranking.num_over_host:,} that of the host" if ranking.num_over_host else ""
    return f"{ranking.num_over_memory - ranking.num_over_host:,} exceed the memory of the device{on_host}"


def show_front(scenario: Scenario, front: Front, num_nodes: Sequence[int] = ()) -> None:
    """The plans of a front, fastest first, on clusters of so many nodes; the headline has the one of the fastest."""
    counts = sorted({*num_nodes})
    nodes = front.rows[0].plan.num_devices // scenario.cluster.node.devices_per_node if front.rows and counts else max(counts, default=0)
    sized = replace(scenario, cluster=replace(scenario.cluster, num_nodes=nodes)) if nodes else scenario
    say_what(sized, front.rows[0] if front.rows else None, "the fastest plan")
    several = f" on {_places(counts)} nodes" if len(counts) > 1 else ""
    beaten = f"; no other beats these {len(front.rows)} in step time{', devices' * bool(several)} and memory" if front.rows else ""
    say(f"{front.num_legal:,} legal plans{several}, {front.num_fit:,} fit{beaten}")
    if front.rows:
        _show_plans(front.rows, front.cells())


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


def _say_near(scenario: Scenario, found: Sequence[Estimate]) -> None:
    """Which plans may be as fast as the first for all that predictions can tell."""
    share, near = near_first(scenario, found)
    if near:
        whose = f"the first {near[-1]}" if len(near) + 1 == near[-1] else f"1, {_places(near)}"
        say(f"up to {percent(share)} slower may prove as fast (pairs of measured sweeps): {whose}")


def _show_contention(ranking: Ranking) -> None:
    """What the ranking leaves out of links that collectives share."""
    left_out, found = ranking.not_simulated, ranking.contention
    if found is None:
        if left_out:
            say(f"collectives of {_places(left_out)} share links, which no step here counts, of too many events:")
            say("--contention simulates and re-ranks")
        return
    alone = [place for place, shares in enumerate(ranking.shares, 1) if shares is False]
    unknown = [place for place, shares in enumerate(ranking.shares, 1) if shares is None]
    if alone:
        say(f"collectives of {_places(alone)} share no links: their estimates stand")
    if left_out:
        say(f"not simulated, of too many events, and so last: {_places(left_out)}")
    if unknown and 1 not in unknown:
        say(f"not simulated, since no better than the first even by their estimates: {_places(unknown)}")
    elif unknown:
        say(f"not simulated, of too many events, so that it is not known whether they share links: {_places(unknown)}")
    if not found.is_best and 1 not in (*left_out, *unknown):
        say(f"a plan that was not simulated may take less than the first: --top {2 * len(ranking.rows)} simulates more")


def _places(places: Iterable[int]) -> str:
    return ", ".join(map(str, places))


def part_words(part: str) -> str:
    """What a sentence calls a part of the step."""
    return part.replace("exposed_", "exposed ").replace("_", " ")
