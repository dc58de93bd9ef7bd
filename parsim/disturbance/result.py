"""What `disturb` finds: the steps of a plan as a distribution, what each cause takes by itself, and what one slow device costs."""

from __future__ import annotations

from msgspec import Struct

from parsim.plain import Plain


class Cause(Struct, frozen=True):
    """One cause by itself, with the draws that it has among all."""

    name: str  # as in `CAUSES`
    mean_s: float  # the mean step
    p99_s: float


class SlowDevice(Struct, frozen=True):
    """One device that is slow, and nothing else disturbed."""

    rank: int  # the pipeline rank that it is of
    factor: float  # how many times as long its kernels take
    step_s: float


class Disturbed(Plain, frozen=True):
    """The steps of a plan."""

    name: str  # of the plan
    step_s: float  # undisturbed: as it is estimated
    mean_s: float
    p50_s: float  # half of the steps take no longer
    p90_s: float
    p99_s: float
    steps_s: tuple[float, ...]  # as they were drawn
    causes: tuple[Cause, ...]
    slow_devices: tuple[SlowDevice, ...]

    def records(self) -> list[dict[str, object]]:
        """A row a step."""
        return [{"plan": self.name, "sample": number, "step_s": step_s} for number, step_s in enumerate(self.steps_s)]

    def costs(self) -> dict[str, float]:
        """What each cause takes by itself, and all together, as a share of the undisturbed step.

        >>> Disturbed("a", 2.0, 2.5, 2.5, 2.5, 2.5, (2.5,), (Cause("jitter of kernels", 2.25, 2.25),), ()).costs()
        {'jitter of kernels': 0.125, 'all': 0.25}
        """
        means = {**{each.name: each.mean_s for each in self.causes}, "all": self.mean_s}
        return {name: mean_s / self.step_s - 1.0 for name, mean_s in means.items()}
