"""Many scenarios at once: what varies over which values, estimated in chunks by any executor, each result kept as soon as it is there."""

from __future__ import annotations

from parsim.sweeps.run import SweepProgress, SweepResult, SweepRow, sweep

__all__ = ["SweepProgress", "SweepResult", "SweepRow", "sweep"]
