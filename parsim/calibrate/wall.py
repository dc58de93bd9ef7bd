"""Predicted step times against the clock: real steps of processes on this machine, clean ones only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.calibrate.gate import Gate, pace_s
from parsim.calibrate.machine import num_cores
from parsim.calibrate.models import DTYPE, PRECISION
from parsim.calibrate.samples import ENOUGH, Samples, Seen, at_full_pace, worst
from parsim.cluster.cluster import Cluster, Node
from parsim.cost.cost_model import CostModel
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate_legal
from parsim.executor.job import RunRequest
from parsim.executor.worker import work
from parsim_kernels import Channel, TransportError, launch

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_NS_PER_S: Final = 1e9
_WARM: Final = 2  # steps that do not count: names are resolved and memory is touched; nor does the last, which keeps gradients
_STEPS: Final = (10, 400)  # the fewest and most
_PATIENCE: Final = 60.0  # seconds beyond what the steps should take
_LONGEST: Final = 1800.0  # seconds that the first steps may take, of which nobody knows yet how long they are
RULE: Final = (
    f"measured: {PRECISION}, a process a rank, one BLAS thread each; predicted: dtype {DTYPE} on this machine, no communication beside "
    "compute (the ranks wait for it)"
)


class StepTime(Struct, frozen=True):
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


def time_plans(
    scenario: Scenario, node: Node, seconds: float = 5.0, *, progress: Callable[[str], None] | None = None
) -> Iterator[StepTime]:
    """Every plan of a scenario on this machine, each for about so many seconds.

    Raises:
        ParsimError: the node has no peak for what is computed in, a worker died, or processes cannot share memory here.
    """
    here = on(scenario, node)
    samples: dict[str, Samples] = {}
    for name, plan in here.plans.items():
        if plan.num_devices <= num_cores():
            if progress:
                progress(name)
            samples[name] = sample_steps(here, name, seconds)
    kept = at_full_pace(samples, lambda name: here.plans[name].num_devices, node.accelerator.paces_s)
    for name, plan in here.plans.items():
        if name in samples:
            yield verdict(name, here, kept[name])
        else:
            yield StepTime(name, plan.num_devices, skipped=f"{plan.num_devices} ranks, but {num_cores()} cores")


def on(scenario: Scenario, node: Node) -> Scenario:
    """The scenario on the cores of this machine, as numpy executes it."""
    stack = replace(scenario.stack, tensor_overlap=False, gradient_overlap=False)
    plans = {name: replace(plan, precision=None) for name, plan in scenario.plans.items()}
    return replace(scenario, cluster=Cluster(node), batch=replace(scenario.batch, dtype=DTYPE), stack=stack, plans=plans)


def verdict(plan: str, here: Scenario, samples: Samples) -> StepTime:
    """What the samples of a plan say of its prediction."""
    kept, dropped, ranks, seconds = (
        len(samples.seconds),
        samples.num_dropped,
        here.plans[plan].num_devices,
        estimate_legal(here, here.plan(plan), plan).step_s,
    )
    if samples.enough:
        return StepTime(plan, ranks, seconds, samples.typical_s, kept, dropped)
    why = f"{dropped - samples.num_slow} waited for a core, {samples.num_slow} met a core at less than its full pace"
    return StepTime(plan, ranks, seconds, None, kept, dropped, f"{kept} of {kept + dropped} samples are clean, {ENOUGH} are needed ({why})")


def sample_steps(here: Scenario, plan: str, seconds: float) -> Samples:
    """Steps of a plan, for about so many seconds: as long as the slowest rank's, and clean where every rank's is.

    Raises:
        ParsimError: a worker died, or processes cannot share memory here.
    """
    fewest, most = _STEPS
    found = _launch(here, plan, fewest, _LONGEST)
    step_s = float(np.median([wall_s for wall_s, _, _ in found]))
    more = min(int(seconds / step_s), most) - fewest
    if more > 0:
        found += _launch(here, plan, more, _PATIENCE + 20.0 * more * step_s)
    samples = Samples()
    for sample in found:
        samples.add(*sample)
    return samples


def _launch(here: Scenario, plan: str, num_steps: int, deadline_s: float) -> list[Seen]:
    """So many steps of processes, each with what the worst of its ranks saw."""
    model, itemsize = CostModel(here.cluster, here.stack, here.batch), dict(here.itemsize_bytes)
    steps, split = _WARM + num_steps + 1, here.plans[plan]
    run = RunRequest(here.model, model, split, itemsize, here.seed, steps, training=here.training, precision=PRECISION, clocks=False)
    try:
        ranks = launch(_steps, split.num_devices, "shared_memory", (run,), deadline_s=deadline_s)
    except TransportError as error:
        raise ParsimError(f"plan '{plan}': the run ended: {error}") from error
    return [worst(seen) for seen in zip(*(steps[_WARM:-1] for steps in ranks), strict=True)]


def _steps(channel: Channel, run: RunRequest) -> list[Seen]:
    """What this rank saw of each step; a target for `launch`."""
    gate, paces, waits = Gate(), list[float](), list[int]()

    def begins() -> None:
        paces.append(pace_s())
        waits.append(gate.wait_ns())

    def ends() -> None:
        waits.append(gate.wait_ns())
        paces.append(pace_s())

    report = work(channel, run, begins, ends)
    gate.close()
    waited = [(end - start) / _NS_PER_S for start, end in zip(waits[::2], waits[1::2], strict=True)]
    slower = [max(both) for both in zip(paces[::2], paces[1::2], strict=True)]
    return list(zip(report.wall_s, waited, slower, strict=True))
