"""One suite over all transports: `ranks(target, num_ranks, *args)` gives what each rank returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transport_targets as targets

from parsim_kernels import launch

Ranks = Callable[..., list[Any]]


@pytest.fixture(params=["lockstep", "shared_memory", "mpi"])
def ranks(request: pytest.FixtureRequest, tmp_path: Path) -> Ranks:
    transport = request.param
    if transport == "mpi" and not targets.has_mpi():
        pytest.skip("no mpi4py, or no mpiexec")
    if transport == "shared_memory" and not targets.HAS_PROCESSES:
        pytest.skip("shared memory is for Linux on x86-64")

    def run(target: Callable[..., Any], num_ranks: int, *args: Any, **options: Any) -> list[Any]:
        if transport == "mpi":
            return targets.under_mpi(target, num_ranks, tmp_path, args, **options)
        return launch(target, num_ranks, transport, args, deadline_s=targets.DEADLINE_S, **options)

    run.transport = transport  # type: ignore[attr-defined]
    return run
