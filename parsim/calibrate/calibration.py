"""`calibrate`: sample, fit, and put together the row of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parsim import catalog
from parsim.calibrate import models
from parsim.calibrate.fit import beside, best_rates, fit_kernels, gather, poor_kernels, with_surroundings
from parsim.calibrate.links import OPERATION, Exchange, best_rate, fit_links, join_ranks, sample_links
from parsim.calibrate.machine import accelerator_row, node_row, num_cores
from parsim.calibrate.samples import LawFit, Samples, at_full_pace, least_pace_s, poor_names
from parsim.calibrate.walk import Walk, sample_kernels
from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.cluster import Cluster
from parsim.cluster.link import CollectiveLaw
from parsim.errors import ParsimError
from parsim.executor.job import RunRequest
from parsim.scenario.rows import read
from parsim_kernels import TransportError, launch

Progress = Callable[[str, float], None]  # what is sampled, and the share that is done
SECONDS: Final = 40.0
_SHARES: Final = (0.4, 0.4, 0.2)  # of the time: one core at work, all, links between them
_TRIES: Final = 3
_ANY_NODE: Final = "one-cpu-generic"  # the calibration's steps are executed; nobody asks for their price
_PATIENCE: Final = 60.0  # seconds beyond the time asked for, after which the workers are taken for dead


@dataclass(frozen=True, slots=True)
class Calibration:
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
    alone = _sample_walks(runs, 1, alone_s, seconds, "one core", progress)
    busy = _sample_walks(runs, cores, busy_s, seconds, "all cores", progress) if busy_s else []
    exchanges, kept = dict[Exchange, Samples](), dict[Exchange, Samples]()
    for ranks in sorted({2, cores}) if links_s else []:
        for _ in range(_TRIES):  # an exchange needs several quiet cores at once
            join_ranks(_launch(sample_links, ranks, (links_s,), seconds, f"{ranks} cores that talk", progress), exchanges)
            kept = at_full_pace(exchanges, lambda exchange: exchange.num_ranks)
            if not poor_names(kept, OPERATION):
                break
    return fit_machine(alone, busy, kept)


def _sample_walks(
    runs: Sequence[RunRequest], num_ranks: int, share_s: float, seconds: float, what: str, progress: Progress | None
) -> list[Walk]:
    """What was seen at full pace by ranks that train at the same time, each a walk a model; again while too much of it was slow."""
    found: list[Walk] = []
    for _ in range(_TRIES):
        ranks: list[list[Walk]] = _launch(sample_kernels, num_ranks, (runs, share_s), seconds, what, progress)
        walks = [walk for walks in ranks for walk in walks]
        for have, more in zip(found, walks, strict=False):
            have.join(more)
        found = found or walks
        kept = [walk.at_pace(_least_pace_s(found)) for walk in found]
        if not poor_kernels(kept):
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


def _launch(
    target: Callable[..., Any], num_ranks: int, args: tuple[Any, ...], seconds: float, what: str, progress: Progress | None
) -> list[Any]:
    report = (lambda done: progress(what, done)) if progress else None
    try:
        return launch(target, num_ranks, "shared_memory", args, deadline_s=2 * seconds + _PATIENCE, progress=report)
    except TransportError as error:
        if isinstance(error.__cause__, ParsimError):
            raise error.__cause__ from error
        raise ParsimError(f"the workers that take samples ended: {error}") from error
