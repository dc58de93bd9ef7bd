"""What collectives that overlap on links cost: the tables of `parsim run --contention`, and the line of `parsim explain`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parsim import units
from parsim.cost.workload import Workload
from parsim.report.console import percent, show_table
from parsim.report.results import Result, Results
from parsim.simulator.program import Program
from parsim.simulator.run import run
from parsim.simulator.trace import Trace

_MOST_EVENTS = 500_000  # some seconds: what a question about one task may take


def show_sharing(results: Results) -> None:
    """Each plan's step with and without sharing, then what each link's flows lost to which others."""
    show_table([_step_row(result) for result in results.plans], left=("plan",), title="step, links shared by what overlaps on them")
    rows = [row for result in results.plans for row in _link_rows(result)]
    if rows:
        show_table(rows, left=("plan", "link", "stream", "shares it with"), title="lost to sharing, all stages together")


def _step_row(result: Result) -> dict[str, str]:
    assert result.sharing is not None
    alone_s, shared_s = result.sharing.alone_step_s, result.estimate.step_s
    return {
        "plan": result.estimate.name,
        "alone": units.format(alone_s, "s", digits=4),
        "shared": units.format(shared_s, "s", digits=4),
        "longer by": f"{units.format(max(shared_s - alone_s, 0.0), 's')}, {percent(shared_s / alone_s - 1.0)}",
        "flows lost": units.format(sum(result.sharing.lost_s.values()), "s"),
    }


def _link_rows(result: Result) -> Iterator[dict[str, str]]:
    assert result.sharing is not None
    for (link, stream, other), lost_s in result.sharing.lost_s.items():
        busy_s = result.sharing.busy_s[link]
        yield {
            "plan": result.estimate.name,
            "link": link,
            "stream": stream,
            "shares it with": other,
            "lost": units.format(lost_s, "s"),
            "link busy": percent(busy_s / result.estimate.step_s),
        }


@dataclass(slots=True)
class Shared:
    """A plan's step with contention, simulated when it is first asked for."""

    workload: Workload
    trace: Trace | None = None

    def note(self, task: str) -> str:
        """What the flows of a task lost, on which link, to whom; all stages and micro_batches together."""
        if self.trace is None:
            if Program(self.workload).num_events(streams=True) > _MOST_EVENTS:
                return "not simulated here, of too many events; ask parsim run --backend simulate --contention"
            self.trace = run(self.workload, contention=True)
        lost = self.trace.lost_s(task)
        if not lost:
            return "nothing: no other flow left it less of a link"
        parts = [f"{units.format(each, 's')} on {link} to {other}" for (link, _, other), each in lost.items()]
        return f"{', '.join(parts)}; in the whole step, all stages together"
