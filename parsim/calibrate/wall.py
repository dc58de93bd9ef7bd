"""Predicted step times against the clock: real steps of processes on this machine, clean ones only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from parsim.calibrate.gate import Gate
from parsim.calibrate.machine import num_cores
from parsim.calibrate.models import DTYPE, PRECISION
from parsim.calibrate.samples import ENOUGH, Samples
from parsim.cluster.cluster import Cluster, Node
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.executor.worker import Run, work
from parsim.step.timing import Market
from parsim_kernels import Channel, TransportError, launch

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_NS_PER_S: Final = 1e9
_WARM: Final = 2  # steps that do not count: weights are drawn in the first, and memory is touched
_STEPS: Final = (10, 400)  # the fewest and most
_PATIENCE: Final = 60.0  # seconds beyond what the steps should take
RULE: Final = (
    f"measured: {PRECISION}, a process a rank, one BLAS thread each; predicted: dtype {DTYPE} on this machine, no communication beside "
    "compute (the ranks wait for it)"
)


@dataclass(frozen=True, slots=True)
class Timed:
    """One plan's step: predicted and measured [s], clean and dropped samples; where nothing is measured, why."""

    plan: str
    num_ranks: int
    predicted_s: float | None = None
    measured_s: float | None = None
    num_kept: int = 0
    num_dropped: int = 0
    skipped: str = ""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        return None if self.measured_s is None or self.predicted_s is None else self.predicted_s / self.measured_s - 1.0


def timed(scenario: Scenario, node: Node, seconds: float = 5.0, *, progress: Callable[[str], None] | None = None) -> Iterator[Timed]:
    """Every plan of a scenario on this machine, each for about so many seconds.

    Raises:
        ParsimError: the node has no peak for what is computed in, a worker died, or processes cannot share memory here.
    """
    here = on(scenario, node)
    for name, plan in here.plans.items():
        if plan.num_devices > num_cores():
            yield Timed(name, plan.num_devices, skipped=f"{plan.num_devices} ranks, but {num_cores()} cores")
            continue
        if progress:
            progress(name)
        yield verdict(name, here, sampled(here, name, seconds))


def on(scenario: Scenario, node: Node) -> Scenario:
    """The scenario on the cores of this machine, as numpy executes it."""
    stack = replace(scenario.stack, tensor_overlap=False, gradient_overlap=False)
    return replace(scenario, cluster=Cluster(node), batch=replace(scenario.batch, dtype=DTYPE), stack=stack)


def predicted_s(here: Scenario, plan: str) -> float:
    """The predicted seconds of a step."""
    return float(estimate(here, plan).step_s)


def verdict(plan: str, here: Scenario, samples: Samples) -> Timed:
    """What the samples of a plan say of its prediction."""
    kept, dropped, ranks, seconds = len(samples.seconds), samples.num_dropped, here.plans[plan].num_devices, predicted_s(here, plan)
    if samples.enough:
        return Timed(plan, ranks, seconds, samples.typical_s, kept, dropped)
    return Timed(plan, ranks, seconds, None, kept, dropped, f"{kept} of {kept + dropped} samples are clean, {ENOUGH} are needed")


def sampled(here: Scenario, plan: str, seconds: float) -> Samples:
    """Steps of a plan, for about so many seconds: as long as the slowest rank's, and clean where every rank's is.

    Raises:
        ParsimError: a worker died, or processes cannot share memory here.
    """
    market, step_s, num_ranks = Market(here.cluster, here.stack, here.batch), predicted_s(here, plan), here.plans[plan].num_devices
    num_steps = _WARM + min(max(int(seconds / step_s), _STEPS[0]), _STEPS[1])
    run = Run(
        here.model,
        market,
        here.plans[plan],
        dict(here.itemsize_bytes),
        here.seed,
        num_steps,
        training=here.training,
        precision=PRECISION,
        clocks=False,
    )
    try:
        ranks = launch(_steps, num_ranks, "shared_memory", (run,), deadline_s=_PATIENCE + 20.0 * num_steps * step_s)
    except TransportError as error:
        raise ParsimError(f"plan '{plan}': the run ended: {error}") from error
    samples = Samples()
    for seen in list(zip(*ranks, strict=True))[_WARM:]:
        samples.add(max(wall for wall, _ in seen), max(wait for _, wait in seen))
    return samples


def _steps(channel: Channel, run: Run) -> list[tuple[float, float]]:
    """The wall time of each step on this rank, and how long it waited for a core meanwhile [s]; a target for `launch`."""
    gate, waits = Gate(), list[int]()
    report = work(channel, run, watch=lambda: waits.append(gate.wait_ns()))
    gate.close()
    waited = [(end - start) / _NS_PER_S for start, end in zip(waits[::2], waits[1::2], strict=False)]
    return list(zip(report.wall_s, waited, strict=True))
