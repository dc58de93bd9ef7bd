"""The page of `parsim validate --report`, in Markdown: how accurate parsim is, by what, and how that was found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp
from statistics import fmean, median
from typing import Any, Final

from parsim import units
from parsim.report.figure import part_label
from parsim.units import percent
from parsim.validate.accuracy import Accuracy
from parsim.validate.classes import UNSTEADY, WARNED, class_of
from parsim.validate.compare import Figures
from parsim.validate.coverage import Coverage
from parsim.validate.parameters import Parameter
from parsim.validate.scores import GroupErrors, ScoredCase

BEGIN, END = "<!-- errors by class: begin -->", "<!-- errors by class: end -->"  # around what the project's README quotes
_CITED: Final = re.compile(r"\S+/\S+|.*?\([^)]*\)|\S+")  # owner/name; or a title with what stands in parentheses; or a word


def page(found: Accuracy, asked: str, figures: Sequence[str]) -> str:
    """The text; `asked`: the command that writes it; `figures`: names of the files that stand beside it."""
    pictures = {name.partition(".")[0]: name for name in reversed(figures) if not name.endswith(".csv")}
    parts = [
        _head(found, asked),
        _steps(found, pictures),
        _groups(found, pictures),
        _memory(found, pictures),
        _labels(found),
        _intervals(found),
        _sweeps(found, pictures),
        _noise(found),
        _parameters(found.parameters),
        _worst(found),
        _reasons(found),
        _sources(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def row_of(each: ScoredCase) -> dict[str, Any]:
    """A row as the CSV of the figure and JSON have it, in SI base units."""
    result, row = each.case.result, each.case.row
    return {
        "table": each.case.table,
        "id": result.id,
        "source_family": result.source_family,
        "class": class_of(row),
        **{name: row.says(name) for name in ("model_name", "accelerator", "num_devices", "memory_metric")},
        **{name: getattr(result, name) for name in ("measured_step_s", "predicted_step_s", "step_error")},
        **{f"{name}_error": getattr(each, name) for name in ("left_out", "utilisation", "factor")},
        **{name: getattr(result, name) for name in ("step_low_s", "step_high_s", "step_inside", "step_pool")},
        **{name: getattr(result, name) for name in ("measured_peak_bytes", "predicted_peak_bytes", "memory_error")},
        **{name: getattr(result, name) for name in ("peak_low_bytes", "peak_high_bytes", "peak_inside", "peak_pool", "skipped")},
        "assumed": " ".join(result.assumed),
    }


def table(rows: Sequence[Mapping[str, str]], left: int = 1) -> str:
    """A table of Markdown with the columns of the first row, of which `left` are aligned on the left.

    >>> print(table([{"a": "x", "b": "1"}]))
    | a | b |
    |---|--:|
    | x | 1 |
    """
    columns = list(rows[0])
    rule = ["---" if place < left else "--:" for place in range(len(columns))]
    cells = [[row[name].replace("|", "\\|") for name in columns] for row in rows]
    return "\n".join([_line(columns), f"|{'|'.join(rule)}|", *map(_line, cells)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(value: float | None, *, signed: bool = False) -> str:
    return "-" if value is None else percent(value, signed=signed)


def _picture(pictures: Mapping[str, str], name: str, about: str) -> str:
    """The figure, where it was drawn, with the file of what it draws."""
    return f"\n\n![{about}]({pictures[name]})\n\nData: [{name}.csv]({name}.csv)." if name in pictures else ""


def _head(found: Accuracy, asked: str) -> str:
    families = {each.case.result.source_family for each in found.rows}
    sources = f"{units.count(len(found.rows), 'row')} of {units.count(len(families), 'source family')}".replace("familys", "families")
    return (
        f"# How accurate parsim is\n\n`{asked}` wrote this page from {sources}. An error is predicted / measured - 1; "
        "median, p90 and max are of its absolute value, the bias is its signed median. All rows and figures: [results.json](results.json)."
    )


def _steps(found: Accuracy, pictures: Mapping[str, str]) -> str:
    rows = [each for each in found.steps if each.kind == "class"]
    if not rows:
        return "## Step time\n\nNo row has a measured step."
    about = (
        "Of `rows` with a measured step `n` are predicted; [the others](#not-predicted) lack something. "
        "*Left out*, as median / p90: every figure that was fitted to the source of a row is the default, or is fitted to others. "
        "*One utilisation* and *one factor* are simple predictors, fitted to these very rows: "
        "a constant utilisation of each accelerator's peak; every step as isolated kernels would take it, times one factor. "
        "Rows of context parallelism count there, and those of 8 and 4 bits or of experts in their own class, too."
    )
    picture = _picture(pictures, "steps", "Predicted against measured step time")
    return f"## Step time\n\n{BEGIN}\n{table([_errors(each) for each in rows])}\n{END}\n\n{about}{picture}"


def _errors(each: GroupErrors) -> dict[str, str]:
    ours = {name: each.ours[key] for name, key in (("median", "median_abs"), ("p90", "p90_abs"), ("max", "max_abs"))}
    return {
        each.kind: each.group,
        "rows": str(each.num_rows),
        "n": str(each.ours["n"]),
        **{name: _share(value) for name, value in ours.items()},
        "bias": _share(each.ours["bias"], signed=True),
        "left out": _two(each.left_out),
        "one utilisation": _two(each.utilisation),
        "one factor": _two(each.factor),
    }


def _two(figures: Figures) -> str:
    return f"{_share(figures['median_abs'])} / {_share(figures['p90_abs'])}" if figures["n"] else "-"


def _groups(found: Accuracy, pictures: Mapping[str, str]) -> str:
    kinds = {"source": "By source", "accelerator": "By accelerator", "devices": "By number of devices"}
    parts = []
    for kind, title in kinds.items():
        if rows := [_errors(each) for each in found.steps if each.kind == kind]:
            parts.append(f"### {title}\n\n{table(rows)}")
    return "\n\n".join(parts) + (_picture(pictures, "errors", "Errors of steps by group") if parts else "")


def _memory(found: Accuracy, pictures: Mapping[str, str]) -> str:
    if not found.memory:
        return "## Peak memory\n\nNo row has a measured peak."
    keep = ("metric", "source", "rows", "n", "median", "p90", "max", "bias")
    tables = []
    for kind in ("metric", "source"):
        rows = [_errors(each) for each in found.memory if each.kind == kind]
        tables.append(table([{name: row[name] for name in keep if name in row} for row in rows]))
    return (
        "## Peak memory\n\nOf the rank, and in the sense, that a source reports: `allocated` are live tensors, `reserved` what the "
        "framework's allocator holds, `device` all of the device.\n\n" + "\n\n".join(tables)
    ) + _picture(pictures, "memory", "Predicted against measured peak memory")


def _labels(found: Accuracy) -> str:
    if not found.labels:
        return ""
    rows = [
        {
            "source": each.source_family,
            "label": {"no": "out of memory", "yes": "fits"}[each.label],
            "judged": str(each.num_judged),
            "right": str(each.num_right),
            "share": _share(each.num_right / each.num_judged if each.num_judged else None),
            "not predicted": str(each.num_skipped),
        }
        for each in found.labels
    ]
    return f"## Fits, or runs out of memory\n\n{table(rows, left=2)}"


def _intervals(found: Accuracy) -> str:
    tables = [
        f"### Of {title}\n\n{table(_covered_rows(each), left=2)}"
        for title, each in (("steps", found.coverage["step"]), ("peak memory", found.coverage["memory"]))
        if each.all
    ]
    about = (
        "How many measured values lie in the 80 % interval of their prediction, which is made from the errors of other sources; "
        "the width is its upper over its lower end, the median. It rests on runs of the same stack, else of the same class, else on all."
    )
    return "\n\n".join([f"## How sure\n\n{about}", *tables]) if tables else ""


def _covered_rows(found: Coverage) -> list[dict[str, str]]:
    groups = [("", "all", found.all)]
    groups += [("class", name, each) for name, each in found.by_class.items()]
    groups += [("rests on", name, each) for name, each in found.by_pool.items()]
    return [
        {"by": by, "group": name, "n": str(each.num_rows), "inside": percent(each.inside), "width": f"x {exp(each.median_width):.2f}"}
        for by, name, each in groups
        if each
    ]


def _sweeps(found: Accuracy, pictures: Mapping[str, str]) -> str:
    if not found.sweeps:
        return ""
    rows = [
        {
            "sweep": f"{each.source_family}: {each.model_name}, {each.num_devices} x {each.accelerator}",
            "sequence, batch": f"{each.sequence_length}, {each.global_batch}",
            "rows": str(each.num_rows),
            "plans": str(len(each.plans)),
            "regret": _share(each.regret),
            "any plan": _share(each.random),
            "rank correlation": "-" if each.rank_correlation is None else f"{each.rank_correlation:.2f}",
        }
        for each in found.sweeps
    ]
    steady = [each for each in found.sweeps if each.source_family != WARNED]
    ranked = [each.rank_correlation for each in steady if each.rank_correlation is not None]
    means = f"Without {UNSTEADY}, mean regret {percent(fmean(each.regret for each in steady))}" if steady else ""
    medians = f", median rank correlation {median(ranked):.2f}" if ranked else ""
    return (
        "## Ranking of plans\n\nA sweep is 8 rows or more of one model, cluster, sequence and batch. Regret is what the plan that is "
        "predicted fastest really takes beyond the best measured one, of plans predicted equal the slowest; `any plan` is the mean of all. "
        "A plan's time is the median of its repeats; the correlation is Spearman's. "
        f"{means}{medians}{'.' if means else ''}\n\n{table(rows)}"
    ) + _picture(pictures, "sweeps", "What each plan of a sweep takes beyond the best")


def _noise(found: Accuracy) -> str:
    rows = [
        {
            "equal in": each.equal_in,
            "groups": str(each.num_groups),
            "rows": str(each.num_rows),
            "slowest above fastest, median": _share(each.median_spread),
            "max": _share(each.max_spread),
            "a row from the middle, median": _share(each.median_error),
        }
        for each in found.noise
        if each.num_groups
    ]
    about = "Measured steps of rows that nothing stated tells apart: no predictor comes nearer than this."
    return f"## Noise floor\n\n{about}\n\n{table(rows)}" if rows else ""


def _parameters(known: Sequence[Parameter]) -> str:
    steps = [each for each in known if each.of in ("steps", "labels")]
    rows = [
        {
            "figure": each.name.replace("_", "\\_"),
            "value": _value(each),
            "rests on": f"{'' if each.num_rows is None else f'{each.num_rows:,} '}{each.of} of {', '.join(each.sources)}",
            "scored on them": "yes" if each.scored else "no",
            "error": _share(each.error),
            "left out": _share(each.left_out_error) + (f" by {each.left_out_by}" if each.left_out_by else ""),
        }
        for each in steps
    ]
    others = [each for each in known if each not in steps]
    laws = [
        f"{units.count(sum(each.num_figures for each in others if each.of == of), 'figure')} in "
        f"{units.count(sum(each.of == of for each in others), 'law')} of {of}"
        for of in dict.fromkeys(each.of for each in others)
    ]
    about = (
        f"{sum(each.num_figures for each in known)} figures of the catalog and the code are fits: {'; '.join(laws)}, "
        "which saw no training step; and these, which did. "
        "Where a figure is scored on the rows that it rests on, its error is no evidence: *left out* above is."
    )
    return f"## What was fitted\n\n{about}\n\n{table(rows, left=4)}"


def _value(each: Parameter) -> str:
    values = list(each.value.values())
    return ", ".join(map(str, values)) if not isinstance(values[0], Mapping) else ", ".join(f"{k}: {v}" for k, v in values[0].items())


def _worst(found: Accuracy) -> str:
    if not found.worst:
        return ""
    rows = [
        {
            "row": f"{each.id} ({each.model_name})",
            "class": each.group,
            "devices": f"{each.num_devices} x {each.accelerator}",
            "made of": "; ".join(f"{part_label(part)} {percent(share)}" for part, share in each.parts.items()),
            "measured": units.format(each.measured_step_s, "s"),
            "predicted": units.format(each.predicted_step_s, "s"),
            "error": _share(each.error, signed=True),
        }
        for each in found.worst
    ]
    return f"## The worst rows\n\nWith the largest parts of the predicted step, its compute by family of kernels.\n\n{table(rows, left=4)}"


def _reasons(found: Accuracy) -> str:
    if not found.skipped:
        return "## Not predicted\n\nAll rows are predicted."
    rows = [{"reason": reason, "rows": str(count)} for reason, count in found.skipped.items()]
    return f"## Not predicted\n\n{found.num_skipped} of {found.num_rows} rows; a row may have several reasons.\n\n{table(rows)}"


def _sources(found: Accuracy) -> str:
    cited: dict[str, dict[str, None]] = {}
    for each in found.rows:
        cited.setdefault(each.case.result.source_family, {}).update(_citations(each.case.row.says("source")))
    lines = [f"* {family or 'not stated'}: {', '.join(sorted(names)) or 'no source stated'}" for family, names in sorted(cited.items())]
    return "## Sources\n\nEach row of a table cites the place.\n\n" + "\n".join(lines)


def _citations(source: str) -> Iterator[tuple[str, None]]:
    """What is cited, without the place in it."""
    if found := _CITED.match(source):
        yield found[0], None
