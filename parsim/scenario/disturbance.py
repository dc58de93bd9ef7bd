"""What disturbs a step: jitter of kernels and links, devices and links that are slow, stragglers that come and go.

Factors of time without a unit: 1.1 takes a tenth longer.  What is drawn from these is said in `parsim.disturbance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

# Of each distribution the largest coefficient of variation at which its factors make sense: exponential and uniform ones reach 0 there,
# and of normal ones a draw in 30,000 is below 0 (it counts as 0).
MOST_CV: Final[Mapping[str, float]] = {"normal": 0.25, "lognormal": 10.0, "gamma": 10.0, "exponential": 1.0, "uniform": 3.0**-0.5}
LEAST_CV: Final = 1e-9  # above 0: a picosecond in a millisecond; far below it floats end
DISTRIBUTIONS: Final = tuple(MOST_CV)
PASS, STEP = SPANS = ("pass", "step")  # how long a draw holds


class Jitter(Struct, frozen=True):
    """Factors of time around a mean of 1."""

    distribution: str
    cv: float  # the coefficient of variation: the standard deviation, over a mean of 1
    per: str = PASS


class Stragglers(Struct, frozen=True):
    """Devices that are slow in some steps: each in each step by itself."""

    probability: float  # that a device is, in a step
    factor: float  # of the time of its kernels then


class Disturbance(Struct, frozen=True):
    """All of it; what is left out disturbs nothing.

    >>> Disturbance(slow_devices={9: 1.5}, slow_nodes={1: 1.2}).device_factor(9, devices_per_node=8)
    1.7999999999999998
    """

    kernels: Jitter | None = None
    links: Jitter | None = None
    stragglers: Stragglers | None = None
    slow_devices: Mapping[int, float] = field(default_factory=dict)  # factor of the time of kernels, by number of the device
    slow_nodes: Mapping[int, float] = field(default_factory=dict)  # the same of all devices of a node
    slow_links: Mapping[int, float] = field(default_factory=dict)  # the share of their bandwidth that the NICs of a node reach
    imbalance: bool = True  # whether it is drawn which documents a micro_batch has, where the batch states lengths
    samples: int = 1000
    seed: int = 0

    def device_factor(self, device: int, devices_per_node: int) -> float:
        """How many times as long the kernels of a device take, in every step; both factors where its node is slow, too."""
        return self.slow_devices.get(device, 1.0) * self.slow_nodes.get(device // devices_per_node, 1.0)
