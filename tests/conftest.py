"""What all tests rest on: hypothesis judges examples by what they show, never by how long a busy machine takes over them."""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Programs that tests start find bytecode, as those of an installed package do: compiling parsim takes longer than most of them run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# One thread of BLAS for matrices of a few numbers, here and in programs that tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What stands now stays to the end, and little of what tests make is a cycle: looking for some was a sixteenth of all time."""
    gc.freeze()
    gc.set_threshold(50_000)
