"""`calibrate`: sample, fit, and put together the row of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parsim import catalog
from parsim.calibrate import fit, links, models
from parsim.calibrate.fit import KernelFit
from parsim.calibrate.links import LinkFit, Transferred
from parsim.calibrate.machine import node_row, num_cores
from parsim.calibrate.samples import Samples, at_full_pace, least_pace_s
from parsim.calibrate.walk import Walk, sample_kernels
from parsim.cluster.cluster import Cluster
from parsim.errors import ParsimError
from parsim.executor.worker import RunRequest
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

    kernels: tuple[KernelFit, ...]  # of a core that works alone
    busy_kernels: tuple[KernelFit, ...]  # while all cores work; none where there is one
    links: tuple[LinkFit, ...]
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
    alone = _walked(runs, 1, alone_s, seconds, "one core", progress)
    busy = _walked(runs, cores, busy_s, seconds, "all cores", progress) if busy_s else []
    exchanges, kept = dict[Transferred, Samples](), dict[Transferred, Samples]()
    for ranks in sorted({2, cores}) if links_s else []:
        for _ in range(_TRIES):  # an exchange needs several quiet cores at once
            links.gather(_launched(links.sample_links, ranks, (links_s,), seconds, f"{ranks} cores that talk", progress), exchanges)
            kept = at_full_pace(exchanges, lambda exchange: exchange.num_ranks)
            if not links.lacking(kept):
                break
    return fitted(alone, busy, kept)


def _walked(runs: Sequence[RunRequest], num_ranks: int, share_s: float, seconds: float, what: str, progress: Progress | None) -> list[Walk]:
    """What was seen at full pace by ranks that train at the same time, each a walk a model; again while too much of it was slow."""
    found: list[Walk] = []
    for _ in range(_TRIES):
        ranks: list[list[Walk]] = _launched(sample_kernels, num_ranks, (runs, share_s), seconds, what, progress)
        walks = [walk for walks in ranks for walk in walks]
        for have, more in zip(found, walks, strict=False):
            have.join(more)
        found = found or walks
        least_s = least_pace_s(samples for walk in found for samples in walk.samples())
        kept = [walk.at_pace(least_s) for walk in found]
        if not fit.lacking(kept):
            break
    return kept


def fitted(alone: Sequence[Walk], busy: Sequence[Walk], exchanges: Mapping[Transferred, Samples]) -> Calibration:
    """The laws of what was sampled: by a core alone, by all at once, and between them."""
    measured, while_busy = fit.gathered(alone), fit.gathered(busy)
    lacking = dict.fromkeys((*fit.lacking(alone), *fit.lacking(busy), *links.lacking(exchanges)))
    if lacking:
        return Calibration((), (), (), tuple(lacking))
    kernels = fit.with_surroundings(fit.fitted(measured), *fit.beside(alone))
    busy_kernels = fit.with_surroundings(fit.fitted(while_busy), *fit.beside(busy))
    between = links.fitted(exchanges)
    seen = {1: alone, num_cores(): busy} if busy else {1: alone}
    paces_s = {cores: least_pace_s(each for walk in walks for each in walk.samples()) for cores, walks in seen.items()}
    row = node_row(kernels, busy_kernels, between, fit.best_rates(measured), exchanges, paces_s)
    return Calibration(kernels, busy_kernels, between, (), row)


def _launched(
    target: Callable[..., Any], num_ranks: int, args: tuple[Any, ...], seconds: float, what: str, progress: Progress | None
) -> list[Any]:
    told = (lambda done: progress(what, done)) if progress else None
    try:
        return launch(target, num_ranks, "shared_memory", args, deadline_s=2 * seconds + _PATIENCE, progress=told)
    except TransportError as error:
        if isinstance(error.__cause__, ParsimError):
            raise error.__cause__ from error
        raise ParsimError(f"the workers that take samples ended: {error}") from error
