"""What `parsim run` says of parameter servers: each plan of replicas beside the others, and the figure of all by number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from parsim import units
from parsim.asynchrony.bounds import PORTS, SENDS, SERVER, SLOWEST, TAKES, WORKERS
from parsim.estimator.cells import share
from parsim.parallel.plan import Plan
from parsim.planner.workers import WorkersRow, can_scale, counts_of, rows_of
from parsim.report.console import say, show_table
from parsim.report.figure import new_axes, save_figure
from parsim.report.summary import part_words
from parsim.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINDS: Final[Mapping[str, str]] = {
    WORKERS: "workers",
    SLOWEST: "slowest worker",
    SERVER: "server's memory",
    TAKES: "server takes",
    SENDS: "server sends",
    PORTS: "workers' ports",
}
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#332288", "#999933")
_MARKS: Final = "os^DvP*X"
# What may be busy, and its colour: Tol 2021, "light", of which no plan has one.
_BUSY: Final = {
    "workers": ("workers compute", "#77AADD"),
    "server": ("memory", "#EEDD88"),
    "server_takes": ("server takes", "#44BB99"),
    "server_sends": ("server sends", "#EE8866"),
}


def workers_rows(scenario: Scenario, *, curves: bool) -> list[WorkersRow]:
    """Plans of replicas of one device each, where some have parameter servers; `curves`: with fewer workers, too."""
    plans = {name: plan for name, plan in scenario.plans.items() if can_scale(plan)}
    if not any(plan.is_served for plan in plans.values()):
        return []
    return [row for name, plan in plans.items() for row in rows_of(scenario, name, counts_of(scenario, plan)[0 if curves else -1 :])]


def document(rows: Sequence[WorkersRow]) -> list[dict[str, object]]:
    """The rows as results.json has them."""
    return [row.to_dict() for row in rows]


def waits(plan: Plan) -> str:
    """For whom a worker waits.

    >>> waits(Plan(data_parallel=4, gradient_sync="parameter_server", staleness_bound=0, backup_workers=1))
    '3 of 4'
    """
    if not plan.is_served or plan.staleness_bound == 0:
        return f"{plan.data_parallel - plan.backup_workers} of {plan.data_parallel}" if plan.backup_workers else "all"
    return "nobody" if plan.staleness_bound is None else f"{plan.staleness_bound} ahead"


def show_workers(scenario: Scenario, rows: Sequence[WorkersRow]) -> None:
    """A line a plan, of all its workers."""
    last = {row.plan: row for row in rows}
    if not last:
        return
    shown = []
    for name, row in last.items():
        plan, run = scenario.plan(name), row.run
        stale = {"stale\nby": f"{run.mean_staleness:.1f}" if run else "0.0", "at\nmost": str(run.most_stale) if run else "0"}
        lost = run.num_dropped / max(1, run.num_applied + run.num_dropped) if run else 0.0
        shown.append(
            {
                "plan": name,
                "waits\nfor": waits(plan),
                "ser-\nvers": str(plan.parameter_servers) if run else "-",
                "step": units.format(row.usual_step_s, "s", digits=4),
                **({"disturbed": units.format(row.step_s, "s", digits=4)} if scenario.disturbance else {}),
                "sequen-\nces/s": f"{row.sequences_per_s:.4g}",
                **stale,
                "late\n%": share(lost),
                "what binds": BINDS.get(row.binds, part_words(row.binds)),
            }
        )
    workers = units.count(next(iter(last.values())).num_workers, "worker")
    show_table(
        shown, left=("plan", "waits\nfor", "what binds"), title=f"{workers}; stale by so many updates; late: gradients that are dropped"
    )
    if scenario.disturbance and (scenario.disturbance.links or scenario.disturbance.slow_links):
        say("disturbed: of parameter servers devices alone; what disturbs links is not counted")


def save_workers(rows: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    """The files written: servers.csv, and the figure."""
    listed = [record for row in rows for record in row.records()]
    return save_figure(directory / "servers", listed, lambda: draw(rows), formats)


def draw(rows: Sequence[WorkersRow]) -> Figure:
    """Throughput by workers, how stale gradients of the most workers are, and what is busy."""
    figure, throughput = new_axes(10.5, 6.6)
    figure.delaxes(throughput)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1.0))
    throughput, stale, busy = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    names = list(dict.fromkeys(row.plan for row in rows))
    looks = {name: {"color": _COLOURS[place % 8], "marker": _MARKS[place % 8]} for place, name in enumerate(names)}
    last = {row.plan: row for row in rows}
    _draw_throughput(throughput, rows, looks)
    _draw_staleness(stale, last, looks)
    _draw_busy(busy, last)
    return figure


def _draw_throughput(axes: Axes, rows: Sequence[WorkersRow], looks: Mapping[str, Mapping[str, str]]) -> None:
    for name, look in looks.items():
        own = [row for row in rows if row.plan == name]
        dashes = "-" if own[-1].run else "--"
        counts, reached = [row.num_workers for row in own], [row.sequences_per_s for row in own]
        axes.plot(counts, reached, dashes, label=name, markersize=5, **look)  # type: ignore[arg-type]
    counts = sorted({row.num_workers for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title("throughput; dashed: without servers")
    axes.set_xlabel("workers")
    axes.set_ylabel("sequences/s that are applied")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")


def _draw_staleness(axes: Axes, last: Mapping[str, WorkersRow], looks: Mapping[str, Mapping[str, str]]) -> None:
    most = 0
    for name, row in last.items():
        if row.run is None or not row.run.most_stale:
            continue
        whole, most = sum(count for _, count in row.run.staleness), max(most, row.run.most_stale)
        shares = dict(row.run.staleness)
        places = range(row.run.most_stale + 2)
        axes.plot(places, [100 * shares.get(place, 0) / whole for place in places], label=name, markersize=3, **looks[name])  # type: ignore[arg-type]
    exact = [name for name, row in last.items() if not row.run or not row.run.most_stale]
    axes.set_title(f"staleness with {next(iter(last.values())).num_workers} workers")
    axes.set_xlabel("updates between pull and application" + ("; none: " + ", ".join(exact) if len(exact) < 4 else "; none of others"))
    axes.set_ylabel("% of gradients")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(1, most) + 1)
    axes.grid(alpha=0.3)


def _draw_busy(axes: Axes, last: Mapping[str, WorkersRow]) -> None:
    """What of the time workers, servers and their ports are at work, a group of bars a plan."""
    runs = {name: row for name, row in last.items() if row.run is not None}
    height = 0.8 / len(_BUSY)
    for place, (part, (label, colour)) in enumerate(_BUSY.items()):
        at = [row - 0.4 + (place + 0.5) * height for row in range(len(runs))]
        axes.barh(at, [100 * row.run.busy[part] for row in runs.values() if row.run], height, label=label, color=colour)
    axes.set_yticks(range(len(runs)), [f"{name}\n{BINDS.get(row.binds, row.binds)}" for name, row in runs.items()], fontsize=7)
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_title("busy, and below each name what binds")
    axes.set_xlabel("% of the time")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=4, columnspacing=1.0, handlelength=1.2)
