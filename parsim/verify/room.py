"""Whether this machine has the memory that a run of ranks would take: asked before anything of it is allocated."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec.structs import replace

from parsim import units
from parsim.cost.workload import Prices
from parsim.errors import CapacityError
from parsim.estimator.estimate import stages_of
from parsim.estimator.host import host_bytes
from parsim.estimator.lists import Measures
from parsim.estimator.memory import counted_peak_bytes, lasting_bytes
from parsim.estimator.passes import Stages
from parsim.model.dims import INDEX, MASK
from parsim.parallel.plan import Plan
from parsim_kernels import available_bytes, shared_bytes

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_ELEMENT_BYTES: Final = {"float64": 8, "float32": 4}
_OF_THEIR_OWN: Final = (MASK, INDEX)  # roles whose elements numpy stores as they are charged
_PROCESS_BYTES: Final = 40_000_000  # of a worker, beside what it shares with those that were forked with it
_AT_WORK: Final = 1.7  # times what is counted: what kernels need inside themselves, and what the allocator keeps; measured 1.6 to 1.8
_RESULTS: Final = 2 * 3  # copies of weights and of gradients that a process returns: its own, on their way, and where they arrive
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OF_FILES: Final = ("active_file", "inactive_file")


def check_room(scenario: Scenario, plan: Plan, name: str, *, precision: str, transport: str) -> None:
    """Refuse a run that would take more memory than is free here; one of mpiexec's processes may lie anywhere.

    Raises:
        CapacityError: it would.
    """
    free = min(free_bytes(), default=None)
    if transport == "mpi" or free is None or (needed := run_bytes(scenario, plan, precision, transport)) <= free:
        return
    told = [units.format(each, "bytes") for each in (needed, free)]
    raise CapacityError(
        f"executing {name} on {plan.num_devices:,} ranks would take about {told[0]} of memory, and {told[1]} are free here",
        scenario.path,
        "Take fewer devices, or smaller batch.global_batch, micro_batch or sequence_length; `parsim verify` executes a small likeness.",
    )


def run_bytes(scenario: Scenario, plan: Plan, precision: str, transport: str) -> int:
    """What all ranks of a run hold at their peaks in numbers of this precision, with what they send and return."""
    stages = _as_executed(stages_of(scenario, plan), _ELEMENT_BYTES[precision])
    peaks, host, own = counted_peak_bytes(stages)[:, 0], host_bytes(stages)[:, 0], stages.workload.shape.own
    weights = (own @ lasting_bytes(stages)["parameters"])[:, 0]
    held = int(np.sum(peaks + host, dtype=object)) + int(np.sum(weights, dtype=object)) * (_RESULTS if transport == "shared_memory" else 2)
    num_processes = plan.num_devices + (plan.parameter_servers if plan.is_served else 0)
    between = shared_bytes(num_processes) + num_processes * _PROCESS_BYTES if transport == "shared_memory" else 0
    return int(_AT_WORK * held * (plan.num_devices // len(peaks))) + between


def _as_executed(stages: Stages, element_bytes: int) -> Stages:
    """The same where each element takes what numpy stores it in."""
    workload = stages.workload
    stored = {role: each if role in _OF_THEIR_OWN else element_bytes for role, each in workload.sizes.itemsize_bytes.items()}
    sizes = replace(workload.sizes, itemsize_bytes=stored)
    own = replace(workload, sizes=sizes, prices=Prices(sizes, workload.model))
    return Stages.of(own, Measures(own.prices))


def free_bytes() -> Iterator[int]:
    """What each of the limits on this process leaves of memory: that of the machine, of its control groups, of its addresses."""
    if (machine := available_bytes()) is not None:
        yield machine
    with contextlib.suppress(OSError):
        own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/")
        inside = _CGROUPS / own.lstrip("/")
        for folder in (each for each in (inside, *inside.parents) if each.is_relative_to(_CGROUPS)):
            with contextlib.suppress(OSError, ValueError):  # "max"
                held = int((folder / "memory.current").read_text()) - _reclaimable_bytes(folder / "memory.stat")
                yield max(0, int((folder / "memory.max").read_text()) - held)
    if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        yield most


def _reclaimable_bytes(stat: Path) -> int:
    """Pages of files that a control group is charged for, which the kernel gives up before it refuses memory."""
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in stat.read_text().splitlines())
        return sum(int(count) for name, count in pairs if name in _OF_FILES)
    return 0
