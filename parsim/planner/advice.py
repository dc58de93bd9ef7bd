"""`advise`: which micro-batch, global batch and learning rate go with a plan.  Nothing of it is ever applied to a scenario.

Sources: McCandlish et al. 2018 (arXiv:1812.06162), sections 2.2 and 2.3, for batches; Goyal et al. 2017 (arXiv:1706.02677), section 2.1,
for SGD's linear rule and for a warm-up of as many sequences; Krizhevsky 2014 (arXiv:1404.5997), section 5, and Malladi et al. 2022
(arXiv:2205.10343) for Adam's root rule; Ma and Yarats 2021 (arXiv:1910.04209) for the shortest warm-up of Adam.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.arguments import check_arguments, misfits
from parsim.errors import PlanError
from parsim.estimator.estimate import estimate_legal
from parsim.estimator.result import Estimate
from parsim.parallel.fault import divisors
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import Plan
from parsim.plain import Plain

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# How far global batches are tried on either side of the scenario's: powers of two.
_REACH: Final = 5


class Reference(Struct, frozen=True):
    """A run that went well: its global batch [sequences], its peak learning rate, and its warm-up [steps]."""

    global_batch: int
    learning_rate: float
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run has.

        Raises:
            PlanError: a figure is of another type, or not positive.
        """
        if wrong := [*misfits(self)]:
            raise PlanError("\n".join(wrong), "Reference")
        if self.global_batch < 1 or not 0 < self.learning_rate < float("inf") or self.warmup_steps < 0:
            what = f"learning rate {self.learning_rate:g} at a global batch of {self.global_batch}, {self.warmup_steps} steps of warm-up"
            raise PlanError(f"no run has {what}", remedy="A reference has a positive batch and learning rate, and no negative warm-up.")


class BatchAdvice(Struct, frozen=True):
    """A global batch: what a step takes, and what a run to the same loss would, beside one at the scenario's global batch."""

    estimate: Estimate
    global_batch: int
    num_steps: float | None  # times those of the scenario's batch; None: no noise scale is known
    num_sequences: float | None
    time: float | None
    learning_rate: float | None  # None: no run to scale from
    warmup_steps: int | None

    def record(self) -> dict[str, object]:
        """A row; what is `relative` is over that of the scenario's batch."""
        found = self.estimate
        tokens = round(found.tokens_per_s * found.step_s)
        figures = {name: getattr(found, name) for name in ("step_s", "tokens_per_s", "mfu", "peak_bytes", "fits")}
        relative = {f"relative_{name}": getattr(self, name) for name in ("num_steps", "num_sequences", "time")}
        rates = {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps}
        return {"global_batch": self.global_batch, "tokens": tokens, **figures, **found.ends(), **relative, **rates}


class Advice(Plain, frozen=True):
    """What is advised for a plan."""

    plan: Plan
    micro_batches: tuple[Estimate, ...]  # the plan with each that is legal, smallest first
    batches: tuple[BatchAdvice, ...]  # smallest first, the scenario's among them
    noise_scale: float | None  # sequences

    @property
    def largest_micro_batch(self) -> int | None:
        """The largest that fits; None where none does."""
        return max((each.plan.micro_batch for each in self.micro_batches if each.fits), default=None)

    @property
    def fastest_micro_batch(self) -> int | None:
        """The one with the shortest step of those that fit, the smaller of equals; None where none does."""
        found = min((each for each in self.micro_batches if each.fits), key=lambda each: each.step_s, default=None)
        return found.plan.micro_batch if found else None

    def records(self) -> list[dict[str, object]]:
        """A row a global batch."""
        return [each.record() for each in self.batches]


@check_arguments
def advise(scenario: Scenario, plan: Plan | str, *, noise_scale: float | None = None, reference: Reference | None = None) -> Advice:
    """What batch and learning rate go with a plan.

    Args:
        scenario: whose global batch other batches are compared with.
        plan: one of its plans, by name, or another.
        noise_scale: of the gradients at the loss of interest [sequences], as `parsim execute --noise-scale` measures it.
        reference: a run whose learning rate is scaled.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the noise scale is not positive.

    >>> import parsim
    >>> [each.global_batch for each in advise(parsim.load("scenarios/tiny.yaml"), "pipeline").batches]
    [2, 4, 8, 16, 32, 64, 128]
    """
    if noise_scale is not None and not 0 < noise_scale < float("inf"):
        raise PlanError(f"noise_scale = {noise_scale} is no number of sequences", remedy="Give a positive number.")
    chosen = scenario.legal_plan(plan)
    found = {each: estimate_legal(_with_batch(scenario, each), chosen) for each in _batches(scenario, chosen)}
    own = found[scenario.batch.global_batch]
    batches = tuple(_advice(scenario, each, global_batch, own, noise_scale, reference) for global_batch, each in found.items())
    return Advice(chosen, tuple(estimate_legal(scenario, each) for each in _micro_batches(scenario, chosen)), batches, noise_scale)


def relative_steps(global_batch: float, other: float, noise_scale: float) -> float:
    """Steps to a loss at one global batch over those at another.

    >>> relative_steps(200, 100, 100)
    0.75
    """
    return (1 + noise_scale / global_batch) / (1 + noise_scale / other)


def scaled_rate(global_batch: int, reference: Reference, power: float, noise_scale: float | None) -> float:
    """The learning rate of another batch: a power of it, that flattens out above the noise scale where one is known.

    >>> scaled_rate(400, Reference(100, 1e-3), 0.5, None)
    0.002
    """
    grown = global_batch / reference.global_batch
    if noise_scale is not None:
        grown = 1 / relative_steps(global_batch, reference.global_batch, noise_scale)
    return float(reference.learning_rate * grown**power)


def _micro_batches(scenario: Scenario, plan: Plan) -> list[Plan]:
    """The plan with each micro-batch that is legal."""
    every = (replace(plan, micro_batch=each) for each in divisors(scenario.batch.global_batch))
    return [each for each in every if not scenario.faults(each)]


def _batches(scenario: Scenario, plan: Plan) -> list[int]:
    own = scenario.batch.global_batch
    tried = {own * 2**power for power in range(_REACH + 1)} | {own // 2**power for power in range(_REACH + 1) if own % 2**power == 0}
    return [each for each in sorted(tried) if not _with_batch(scenario, each).faults(plan)]


def _with_batch(scenario: Scenario, global_batch: int) -> Scenario:
    return replace(scenario, batch=replace(scenario.batch, global_batch=global_batch))


def _advice(
    scenario: Scenario, found: Estimate, global_batch: int, own: Estimate, noise_scale: float | None, reference: Reference | None
) -> BatchAdvice:
    stated = scenario.batch.global_batch
    steps = None if noise_scale is None else relative_steps(global_batch, stated, noise_scale)
    sequences = None if steps is None else steps * global_batch / stated
    time = None if steps is None else steps * found.step_s / own.step_s
    power = OPTIMIZERS[found.plan.optimizer].rate_power
    rate = None if reference is None else scaled_rate(global_batch, reference, power, noise_scale)
    warmup = None if reference is None else _warmup(global_batch, reference, scenario.training.beta2 if power < 1 else 0)
    return BatchAdvice(found, global_batch, steps, sequences, time, rate, warmup)


def _warmup(global_batch: int, reference: Reference, beta2: float) -> int:
    """As many sequences as the reference's, over no fewer steps than a mean of squares needs, unless the reference has fewer.

    >>> _warmup(4096, Reference(512, 3e-4, 2000), 0.95), _warmup(4096, Reference(512, 3e-4, 2000), 0.999)
    (250, 2000)
    """
    least = min(ceil(2 / (1 - beta2)), reference.warmup_steps)
    return max(ceil(reference.warmup_steps * reference.global_batch / global_batch), least)
