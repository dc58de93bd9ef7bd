"""What collectives that overlap on links cost: the tables of `parsim run --contention`, and the line of `parsim explain`."""

from __future__ import annotations

from dataclasses import dataclass

from parsim import units
from parsim.cost.workload import Workload
from parsim.report.console import percent, show_table
from parsim.report.results import Results
from parsim.simulator.program import Program
from parsim.simulator.run import run
from parsim.simulator.trace import Trace

_MOST_EVENTS = 500_000  # some seconds: what a question about one task may take


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
