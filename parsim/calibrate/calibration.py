"""`calibrate`: sample, fit laws of kernels and what a step costs beside them, and put together the row of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim import catalog, units
from parsim.calibrate import models
from parsim.calibrate.links import OPERATION, Exchange, best_rate, fit_links, join_ranks, sample_links
from parsim.calibrate.machine import accelerator_row, node_row, num_cores
from parsim.calibrate.samples import LawFit, Samples, at_full_pace, fit_laws, least_pace_s, merge, poor_names, relative_fit, to_digits
from parsim.calibrate.walk import MOST_STRETCH, TimedCall, Walk, sample_kernels
from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.cluster import Cluster
from parsim.cluster.link import CollectiveLaw
from parsim.cluster.scalars import Floats
from parsim.errors import ParsimError
from parsim.executor.job import RunRequest
from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.scenario.rows import read
from parsim_kernels import TransportError, launch

Progress = Callable[[str, float], None]  # what is sampled, and the share that is done
SECONDS: Final = 40.0
_SHARES: Final = (0.4, 0.4, 0.2)  # of the time: one core at work, all, links between them
_TRIES: Final = 3
_ALL_CORES, _MESSAGES = "kernels while all cores work", "messages between cores"  # where the time was over before
_ANY_NODE: Final = "one-cpu-generic"  # the calibration's steps are executed; nobody asks for their price
_PATIENCE: Final = 60.0  # seconds beyond the time asked for, after which the workers are taken for dead
# Bytes of a call at which caches of common processors end: half an L2, and shares of an L3.
KNEES: Final = tuple(float(units.parse(text, "bytes")) for text in ("0.5 MiB", "4 MiB", "16 MiB"))
_SHAPES_FOR_KNEES: Final = 12  # fewer shapes leave the knees out, which could only follow their noise
_ITEMSIZE: Final = FIXED_ITEMSIZE_BYTES[FLOAT32]
_LEAST_S: Final = 1e-17  # a FLOP or byte: below it, a coefficient is nothing
_KERNEL: Final = attrgetter("kernel")


class Calibration(Struct, frozen=True):
    """The laws of this machine and what they rest on; without a row where clean samples were too few."""

    kernels: tuple[LawFit[KernelLaw], ...]  # of a core that works alone
    busy_kernels: tuple[LawFit[KernelLaw], ...]  # while all cores work; none where there is one
    links: tuple[LawFit[CollectiveLaw], ...]
    lacking: tuple[str, ...] = ()  # what has too few clean samples
    row: Mapping[str, Any] = field(default_factory=dict)


def calibrate(seconds: float = SECONDS, *, progress: Progress | None = None) -> Calibration:
    """The calibration of this machine, from about so many seconds of samples in worker processes of one BLAS thread each.

    Raises:
        ParsimError: the kernel keeps no scheduler statistics, or processes cannot share memory here.
    """
    cores, dtypes = num_cores(), {name: read("dtypes", name) for name in catalog.names("dtypes")}
    runs = list(models.runs(Cluster(read("nodes", _ANY_NODE)), dtypes))
    alone_s, busy_s, links_s = (share * seconds for share in (_SHARES if cores > 1 else (1.0, 0.0, 0.0)))
    end_s = time.monotonic() + seconds  # no second try begins later
    alone = _sample_walks(runs, 1, alone_s, end_s, "one core", progress)
    if cores > 1 and _is_lost(alone, end_s):
        return Calibration((), (), (), (*poor_kernels(alone), _ALL_CORES, _MESSAGES))
    busy = _sample_walks(runs, cores, busy_s, end_s, "all cores", progress) if busy_s else []
    if _is_lost(busy, end_s):
        return Calibration((), (), (), (*dict.fromkeys((*poor_kernels(alone), *poor_kernels(busy))), _MESSAGES))
    exchanges, kept = dict[Exchange, Samples](), dict[Exchange, Samples]()
    for ranks in sorted({2, cores}) if links_s else []:
        for _ in range(_TRIES):  # an exchange needs several quiet cores at once
            join_ranks(_launch(sample_links, ranks, (links_s,), f"{ranks} cores that talk", progress), exchanges)
            kept = at_full_pace(exchanges, lambda exchange: exchange.num_ranks)
            if not poor_names(kept, OPERATION) or time.monotonic() > end_s:
                break
    return fit_machine(alone, busy, kept)


def _is_lost(walks: Sequence[Walk], end_s: float) -> bool:
    """Whether too little was sampled and the time is over: no row comes of whatever could still be measured."""
    return time.monotonic() > end_s and bool(poor_kernels(walks))


def _sample_walks(
    runs: Sequence[RunRequest], num_ranks: int, share_s: float, end_s: float, what: str, progress: Progress | None
) -> list[Walk]:
    """What was seen at full pace by ranks that train at the same time, each a walk a model; again while too much of it was slow."""
    found: list[Walk] = []
    for _ in range(_TRIES):
        ranks: list[list[Walk]] = _launch(sample_kernels, num_ranks, (runs, share_s), what, progress)
        walks = [walk for walks in ranks for walk in walks]
        for have, more in zip(found, walks, strict=False):
            merge(have.calls, more.calls)
            merge(have.between, more.between)
        found = found or walks
        kept = [walk.at_pace(_least_pace_s(found)) for walk in found]
        if not poor_kernels(kept) or time.monotonic() > end_s:
            break
    return kept


def _least_pace_s(walks: Iterable[Walk]) -> float:
    return least_pace_s(samples for walk in walks for samples in (*walk.calls.values(), *walk.between.values()))


def fit_machine(alone: Sequence[Walk], busy: Sequence[Walk], exchanges: Mapping[Exchange, Samples]) -> Calibration:
    """The laws of what was sampled: by a core alone, by all at once, and between them."""
    lacking = dict.fromkeys((*poor_kernels(alone), *poor_kernels(busy), *poor_names(exchanges, OPERATION)))
    if lacking:
        return Calibration((), (), (), tuple(lacking))
    kernels, busy_kernels = (with_surroundings(fit_kernels(gather(walks)), *beside(walks)) for walks in (alone, busy))
    between = fit_links(exchanges)
    paces_s = {cores: _least_pace_s(walks) for cores, walks in ((1, alone), (num_cores(), busy)) if walks}
    peak, bandwidth = best_rates(gather(alone))
    core = accelerator_row(kernels, busy_kernels, peak, bandwidth, paces_s)
    row = node_row(core, between, best_rate(exchanges) if exchanges else bandwidth)
    return Calibration(kernels, busy_kernels, between, (), row)


def _launch(target: Callable[..., Any], num_ranks: int, args: tuple[Any, ...], what: str, progress: Progress | None) -> list[Any]:
    """What `target(channel, *args)` returns on each rank; the last of `args` are the seconds that it takes."""
    report = (lambda done: progress(what, done)) if progress else None
    try:
        return launch(target, num_ranks, "shared_memory", args, deadline_s=MOST_STRETCH * args[-1] + _PATIENCE, progress=report)
    except TransportError as error:
        if isinstance(error.__cause__, ParsimError):
            raise error.__cause__ from error
        raise ParsimError(f"the workers that take samples ended: {error}") from error


def gather(walks: Iterable[Walk]) -> dict[TimedCall, Samples]:
    """The samples of all models together, sorted by kernel."""
    found: dict[TimedCall, Samples] = {}
    for walk in walks:
        merge(found, walk.calls)
    return dict(sorted(found.items(), key=lambda item: item[0].kernel))


def poor_kernels(walks: Sequence[Walk]) -> tuple[str, ...]:
    """The kernels of which no more than half of the shapes have enough clean samples; and the gaps between calls, where no model has."""
    poor = poor_names(gather(walks), _KERNEL)
    return poor if not walks or any(_has_gaps(walk) for walk in walks) else (*poor, "the gaps between calls")


def _has_gaps(walk: Walk) -> bool:
    return all(samples.enough for samples in walk.between.values())


def fit_kernels(samples: Mapping[TimedCall, Samples]) -> tuple[LawFit[KernelLaw], ...]:
    """The laws of all kernels that were sampled."""
    return fit_laws(samples, _KERNEL, _features, law_of)


def _features(calls: Sequence[TimedCall]) -> Floats:
    """Columns: 1, matrices, FLOPs, bytes, bytes written, and bytes beyond each knee."""
    rows = np.array([(1.0, call.num_matrices, call.flops, call.moved_bytes, call.written_bytes) for call in calls])
    beyond = np.maximum(rows[:, 3:4] - KNEES, 0.0) * (len(calls) >= _SHAPES_FOR_KNEES)
    return np.hstack([rows, beyond])


def best_rates(samples: Mapping[TimedCall, Samples]) -> tuple[float, float]:
    """The most FLOPs a second of any multiplication, and the most bytes a second of any kernel."""
    seconds = {call: each.typical_s for call, each in samples.items() if each.enough}
    peak = max(call.flops / each for call, each in seconds.items() if call.kernel.startswith("einsum"))
    return peak, max(call.moved_bytes / each for call, each in seconds.items())


def law_of(coefficients: Floats) -> KernelLaw:
    """The law with these seconds a call, matrix, FLOP, byte, byte written, and byte beyond each knee; to four digits."""
    call, matrix, *rest = (to_digits(float(each)) for each in coefficients)
    work, moved, written, *beyond = (to_digits(1.0 / each) if each > _LEAST_S else math.inf for each in rest)
    knees = tuple((knee, rate) for knee, rate in zip(KNEES, beyond, strict=True) if math.isfinite(rate))
    return KernelLaw(call, matrix, work, moved, written, knees)


def beside(walks: Iterable[Walk]) -> tuple[float, float]:
    """What a step costs beside its kernels: seconds a call, and seconds a byte of parameters.

    Between the calls buffers are freed and the program goes on; once a step gradients are cleared, and kept for whoever looks at them.
    """
    rows, seconds = [], []
    for walk in walks:
        if _has_gaps(walk):
            typical = {gap: max(samples.typical_s - walk.overhead_s, 0.0) for gap, samples in walk.between.items()}
            num_once = len(typical) - 1
            total_s = sum(typical.values()) + typical["calls"] * (walk.num_calls - num_once)
            rows.append([walk.num_calls, walk.parameter_bytes])
            seconds.append(total_s)
    if not rows:  # no other cores, so nobody ever slowed anybody
        return 0.0, 0.0
    call_s, byte_s = relative_fit(np.array(rows, dtype=np.float64), np.array(seconds))
    return float(call_s), float(byte_s)


def with_surroundings(fits: Iterable[LawFit[KernelLaw]], call_s: float, byte_s: float) -> tuple[LawFit[KernelLaw], ...]:
    """The laws with what lies beside the kernels: a part in every call, and what goes with the parameters in those of the optimizers."""
    wide = sorted(OPTIMIZERS.values(), key=lambda optimizer: optimizer.state_bytes(_ITEMSIZE))  # of one kernel the widest count
    moved = {optimizer.kernel: optimizer.moved_bytes(_ITEMSIZE, _ITEMSIZE) for optimizer in wide}
    done = []
    for fit in fits:
        law = replace(fit.law, call_s=to_digits(fit.law.call_s + call_s))
        if fit.name in moved and byte_s:
            law = replace(law, bytes_per_s=to_digits(1.0 / (1.0 / law.bytes_per_s + byte_s * _ITEMSIZE / moved[fit.name])))
        done.append(replace(fit, law=law))
    return tuple(done)
