"""`parsim compare`: which part makes one of two plans slower, beside their memory and the keys in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from parsim import units
from parsim.confidence.setting import kind_of
from parsim.errors import ParsimError, did_you_mean
from parsim.estimator.cells import span
from parsim.estimator.comparison import Comparison, Side
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan
from parsim.plain import flat
from parsim.report.console import Output, log_files, patience, say, show_table
from parsim.report.files import prepare
from parsim.report.results import about
from parsim.report.summary import part_words
from parsim.report.whatif import chosen_plans
from parsim.scenario.read_files import read_json
from parsim.scenario.source import Source
from parsim.units import PS_PER_S, percent

_PLACE: Final = Path("reports") / "compare"
_LEFT: Final = ("part", "key")


def compare_plans(asked: Sequence[str], sets: Sequence[str], output: Output, *, out: Path | None, formats: Sequence[str]) -> int:
    """The exit status of comparing FILE PLAN PLAN, or two of FILE:PLAN: 0.  A figure is drawn where there are `formats`.

    Raises:
        ParsimError: a file or a plan is wrong, or which of several plans is meant is not said.
        OSError: the figure cannot be written.
    """
    if len(asked) == 3:
        asked = [f"{asked[0]}:{plan}" for plan in asked[1:]]
    if len(asked) != 2:
        raise ParsimError("compare takes two plans", remedy="Name them as FILE PLAN PLAN, or as FILE:PLAN FILE:PLAN.")
    directory = prepare(out or _PLACE) if formats else None
    with patience("estimating both"):
        comparison = _under_own_names([_side(each, sets) for each in asked], asked)
    output.show(_document(comparison), comparison.records(), lambda: _show(comparison))
    if directory:
        from parsim.report.waterfall import save

        log_files(directory, save(comparison, directory, formats))
    return 0


def _under_own_names(sides: Sequence[Side], asked: Sequence[str]) -> Comparison:
    """The comparison; sides of one name are told apart by their files, or by number."""
    names = [side.name for side in sides]
    if names[0] == names[1]:
        names = [Path(each).name for each in asked]
    if names[0] == names[1]:
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return Comparison(*(replace(side, name=name) for side, name in zip(sides, names, strict=True)))


def _side(asked: str, sets: Sequence[str]) -> Side:
    """One plan of a scenario, or of the results that `parsim run` wrote."""
    path, _, name = (asked, "", "") if Path(asked).exists() else asked.rpartition(":")
    if not path:
        raise ParsimError(f"no such file: {asked}", remedy="A plan is named as FILE:PLAN.")
    document = _results(Path(path)) if path.endswith(".json") else None
    if document is not None:
        if sets:
            raise ParsimError("these are results, which --set does not change", path, "Compare plans of scenario files.")
        return _side_of(_one_of({each["name"]: each for each in document["plans"]}, name, path), document.get("about", {}), asked)
    scenario = Source(Path(path), sets=sets).load()
    chosen = chosen_plans(scenario, [name] if name else [])
    if not chosen:
        raise ParsimError("no plan fits its device and host", asked)
    named, plan = chosen[0]
    side = Side.of(estimate(scenario, plan), named if name else f"{path}:{named}", about(scenario))
    return replace(side, kind=kind_of(scenario, plan))


def _results(path: Path) -> dict[str, Any] | None:
    """What results.json holds; None where the file is something else, a scenario perhaps."""
    try:
        document = read_json(path)
        return document if "parsim_version" in document and {each["name"] for each in document["plans"]} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _one_of(plans: Mapping[str, Any], name: str, path: str) -> Any:
    if name in plans or (not name and len(plans) == 1):
        return plans.get(name) or next(iter(plans.values()))
    what = f"unknown plan '{name}'{did_you_mean(name, plans)}" if name else "which of its plans?"
    raise ParsimError(what, path, f"Plans here: {', '.join(plans)}; say e.g. {path}:{next(iter(plans), 'NAME')}.")


def _side_of(plan: Mapping[str, Any], about: Mapping[str, str], asked: str) -> Side:
    try:
        memory, step_s = plan["memory_bytes"][plan["peak_rank"]], plan["step_s"]
        return Side(
            name=plan["name"],
            step_s=step_s,
            tokens=round(plan["tokens_per_s"] * step_s),
            breakdown_s=plan["breakdown_s"],
            memory_bytes=memory,
            plan=Plan.from_dict(plan["plan"]),
            about=about,
            kind=plan.get("intervals_rest_on", {}).get("class", ""),
            **{name: tuple(plan[name]) for name in ("step_interval_s", "peak_interval_bytes") if plan.get(name)},
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ParsimError(f"results without {error}: of another version?", asked, "Write them anew with parsim run.") from None


def _document(comparison: Comparison) -> dict[str, Any]:
    sides = (comparison.first, comparison.second)
    return {
        "plans": [_figures_of(side) for side in sides],
        "sure_beyond": comparison.sure_beyond,
        "longer_s": {part: ps / PS_PER_S for part, ps in comparison.longer_ps().items()},
        "memory_bytes": {part: list(pair) for part, pair in comparison.memory_bytes().items()},
        "otherwise": {key: list(pair) for key, pair in comparison.otherwise().items()},
        "keys": {key: list(pair) for key, pair in comparison.keys().items()},
    }


def _figures_of(side: Side) -> dict[str, Any]:
    sizes = {"name": side.name, "step_s": side.step_s, "peak_bytes": sum(side.memory_bytes.values())}
    return {**sizes, "step_interval_s": side.step_interval_s, "peak_interval_bytes": side.peak_interval_bytes}


def _show(comparison: Comparison) -> None:
    first, second = comparison.first, comparison.second
    names = (first.name, second.name)
    say(verdict(comparison))
    for what, pair in comparison.otherwise().items():
        say(f"they differ in the {what}: {pair[0]}; {pair[1]}")
    if first.tokens != second.tokens:
        say(f"their steps train on {first.tokens:,} and {second.tokens:,} tokens")
    parts = {part: (first.parts_ps().get(part, 0), second.parts_ps().get(part, 0)) for part in comparison.longer_ps()}
    rows = [_row(part_words(part), names, pair, "s", PS_PER_S) for part, pair in parts.items() if any(pair)]
    whole = _sum(parts)
    show_table([*rows, _row("step", names, whole, "s", PS_PER_S)], left=_LEFT, title="time on the busiest stage")
    _show_intervals(comparison)
    memory = comparison.memory_bytes()
    rows = [_row(part, names, pair, "GiB", 1) for part, pair in memory.items()]
    show_table([*rows, _row("peak", names, _sum(memory), "GiB", 1)], left=_LEFT, title="memory of the most loaded stage")
    keys = [{"key": key, **{name: str(value) for name, value in zip(names, pair, strict=True)}} for key, pair in _flat_keys(comparison)]
    if keys:
        show_table(keys, left=_LEFT, title="keys of the plans that differ")


def _show_intervals(comparison: Comparison) -> None:
    """Those of both, where they are known, and whether the order of the two is sure."""
    first, second = comparison.first, comparison.second
    for side in (first, second):
        if side.step_interval_s and side.peak_interval_bytes:
            say(f"{side.name}, 80 %: step {span(side.step_interval_s, 's')}, peak {span(side.peak_interval_bytes, 'GiB')}")
    if (share := comparison.sure_beyond) is not None:
        slower = max(first.step_s, second.step_s) / min(first.step_s, second.step_s) - 1
        found = "is sure in 9 of 10 cases" if slower > share else "is not sure"
        say(f"which is faster {found}: in 8 of 10 pairs of measured sweeps the errors of two plans differ by {percent(share)} or less")


def _flat_keys(comparison: Comparison) -> Iterator[tuple[str, tuple[object, object]]]:
    for key, (first, second) in comparison.keys().items():
        yield key, (flat({key: first})[key], flat({key: second})[key])


def _sum(pairs: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    firsts, seconds = zip(*pairs.values(), strict=True)
    return sum(firsts), sum(seconds)


def _row(part: str, names: tuple[str, str], pair: tuple[int, int], unit: str, scale: float) -> dict[str, str]:
    first, second = (units.format(each / scale, unit) for each in pair)
    more = units.format((pair[1] - pair[0]) / scale, unit)
    return {"part": part, names[0]: first, names[1]: second, "more": more if pair[1] <= pair[0] else f"+{more}"}


def verdict(comparison: Comparison) -> str:
    """Which plan is slower, by how much, and by what most."""
    first, second = comparison.first, comparison.second
    if first.step_s == second.step_s:
        return f"{first.name} and {second.name} take the same time"
    slow, fast = sorted((first, second), key=lambda side: -side.step_s)
    longer = {part: ps if slow is second else -ps for part, ps in comparison.longer_ps().items()}
    part = max(longer, key=longer.__getitem__)
    by = f"{units.format(slow.step_s - fast.step_s, 's')} ({percent(slow.step_s / fast.step_s - 1)})"
    return f"{slow.name} takes {by} longer than {fast.name}, most of all by {part_words(part)}"
