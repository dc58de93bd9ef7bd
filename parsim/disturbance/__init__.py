"""The step of a plan as a distribution: jitter, stragglers, slow devices and links, and documents of several lengths.

What one draw is.  A device draws a factor for its kernels in each pass of a micro_batch, and in each end of a step (`per: step`: once a
step): noise of clocks, memory and hosts changes within milliseconds, which is what a pass takes, and a kernel's own noise averages out over
the thousands of them in a pass.  Its links draw one likewise, for what a pass waits for them and for the message that it hands on.  Whether
a device straggles is drawn once a step, since what makes it slow (a clock that throttles, a host that collects garbage) lasts longer than a
pass.  Draws of devices, passes and steps are independent.

Who waits for whom.  Devices whose groups have a collective inside passes (tensor, context and expert parallelism, parameters that ZeRO
gathers) wait for one another in each layer, so a pass takes the factor of the slowest of them.  Such lots of devices are pipelines of their
own until the end of the step, where a collective starts when the last of its members is there.  All of them are drawn.
"""

from __future__ import annotations

from parsim.disturbance.monte_carlo import disturb
from parsim.disturbance.result import Cause, Disturbed, SlowDevice

__all__ = ["Cause", "Disturbed", "SlowDevice", "disturb"]
