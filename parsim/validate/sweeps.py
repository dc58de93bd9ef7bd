"""Measured sweeps: what the plan that is ranked first costs beyond the best, and how like the measured the predicted order is."""

from __future__ import annotations

from typing import Final

MANY: Final = 8  # rows of a sweep
# A sweep is rows equal in these.
SWEEP: Final = (
    *("source_family", "model_name", "num_layers", "hidden_size", "num_heads", "vocab_size", "accelerator", "num_devices"),
    *("sequence_length", "global_batch", "dtype"),
)
