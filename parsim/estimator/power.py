"""The energy of a device and of what surrounds it, from its design power, its step, and how long it is busy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", float, NDArray[np.float64])

# Of the design power (TDP): what a device draws while it runs no kernel.
# Source: an H200 idles at 80.3 W of 700 (api.serialalice.pt/alice-benchmark).
IDLE_SHARE: Final = 0.115
# Of the design power: what a device's part of its host draws, with fans, switches and NICs.
# Source: a node of 8 H100 draws up to 8.4 kW in training (Latif et al. 2024, arXiv:2412.08602), 8 x 700 W of which its devices.
HOST_SHARE: Final = 0.5
# Power usage effectiveness: what a data centre draws over what its machines do.
# Source: the mean of the Uptime Institute's survey of 2024; large ones of one provider reach 1.1.
PUE: Final = 1.56

ASSUMED: Final[Mapping[str, str]] = {
    "idle": f"{IDLE_SHARE:.1%} of the TDP (an H200's 80.3 of 700 W)",
    "host": f"{HOST_SHARE:.0%} of the TDP a device (8.4 kW of a node of 8 H100, arXiv:2412.08602)",
    "PUE": f"{PUE} (Uptime Institute, survey of 2024)",
}


def joules(tdp_w: float, seconds: T, busy_s: T, busy_w: float | None = None) -> T:
    """Joules of one device and its part of host and data centre: PUE ((idle + host) seconds + (drawn - idle) busy).

    A device draws its design power, or `busy_w` where it may draw no more, while it runs kernels, of whatever kind, and idles otherwise;
    its host draws the same all the time.

    >>> round(joules(700.0, 1.0, 1.0)), round(joules(700.0, 1.0, 0.0)), round(joules(700.0, 1.0, 1.0, 500.0))
    (1638, 672, 1326)
    """
    idle_w = IDLE_SHARE * tdp_w
    drawn_w = tdp_w if busy_w is None else busy_w
    return PUE * ((idle_w + HOST_SHARE * tdp_w) * seconds + (drawn_w - idle_w) * busy_s)
