"""Back-end 2: events, in integer picoseconds; one rank a pipeline stage, as the others are alike.

An action is one event, since nothing else can delay what is in it; with contention, or where spans are asked for, simpy processes walk
every stream.  Folding data- and tensor-parallel ranks to one is exact here: members have the same tasks, durations and start, and all
enter every collective.  `parsim verify` proves it against the clocks of all ranks.  With contention, different collectives that overlap
share links (network.py): each stage's first copy is placed on its node, and stands for what its copies there send.
"""

from __future__ import annotations

from parsim.simulator.run import simulate
from parsim.simulator.trace import Span, Trace

__all__ = ["Span", "Trace", "simulate"]
