"""Compares the laws of collectives with a table of public measurements, class by class: `python tests/compare/collectives.py TABLE.csv`.

A class is a node, or a node's fabric, and an operation.  Each row is predicted by the catalog alone; errors are predicted / measured - 1.
A class holds where its median error is at most 6 %, the 90th percentile 20 % and the bias (median signed error) 2 %, or each is within
1.3 times the scatter that repeats of the same size on the same hardware have among themselves.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster import Cluster, Fabric, Node
from parsim.cluster.network import collective_s, p2p_s
from parsim.scenario.rows import read

MEASURED: Final = Path(__file__).resolve().parents[3] / "shared" / "hardware" / "measured_collectives.csv"  # beside the repository
OPERATIONS: Final = {each: each for each in ("all_reduce", "all_gather", "reduce_scatter")} | {"alltoall": "all_to_all", "sendrecv": "p2p"}
FEWEST: Final = 20  # rows of a class that is judged
MOST: Final = {"median": 0.06, "p90": 0.20, "bias": 0.02}
SCATTERS: Final = 1.3
# Runs that are no sweep of the hardware as it is meant to run, by the start of their source's name.
BROKEN: Final = {
    "aic-l40s": "1.4 GB/s at 8 GPUs: a box without peer-to-peer",
    "nccl-tests#309b": "virtual machines; a quarter of the bare metal's rate",
    "azhc-thresholds": "pass limits, not runs",
    "oci-gb300": "across racks 0.24 of what other racks reach",
}
TUNED: Final = "more net channels"  # in `algo`: a setting, not what NCCL takes by itself
# hardware of the table: its node; where it has several, by the start of the source.
NODES: Final = {
    **{"A100-SXM": "dgx-a100-80gb", "H100-SXM": "hgx-h100-80gb", "H200": "hgx-h200", "B200": "hgx-b200", "B300": "hgx-b300"},
    **{"GB200": "gb200-nvl72", "GB300": "gb300-nvl72", "MI300X": "mi300x-8", "MI355X": "mi355x-8", "V100-SXM": "dgx-1v-32gb"},
    **{"RTX-PRO-6000": "pcie5-8x-rtx-pro-6000", "L40S": "pcie4-8x-l40s", "GH200": "hgx-h100-96gb"},
    **{"aws-p4de": "p4de-24xlarge", "oke-b4": "oci-bm-gpu4", "aic-gb200": "gb200-tray", "aic-gb300": "gb300-tray"},
}
FABRICS: Final = {
    **{"aws-p4de": "efa-v1", "oke-b4": "roce-100", "nv-slides": "", "stas-b200-efa": "efa-v4-8rail", "gke-a4": "roce-400"},
    **{"vultr-b200": "ib-ndr-8rail", "oci-b300": "ib-xdr-8rail", "cw-gb200": "ib-ndr-72rail", "oci-gb200": "ib-ndr-72rail"},
    **{"oci-gb300": "ib-ndr-72rail", "cscs-gh200": "slingshot-11", "crazyguitar-p5": "efa-v2-8rail", "aws-p5": "efa-v2-8rail"},
    **{"gcp-a3mega": "gcp-a3mega", "oke-mi300x": "roce-400", "oci-mi300x": "roce-400", "vultr-mi355x": "roce-400"},
    **{"oci-mi355x": "roce-400", "stas-p5en": "efa-v3-8rail", "azure-h100": "ib-ndr-8rail", "cw-h100": "ib-ndr-8rail"},
    **{"nv-gtc24": "ib-ndr-8rail", "arxiv2411": "ib-ndr-8rail", "nccl-tests#309": "ib-ndr-8rail", "llmjp": "ib-ndr-8rail"},
}


class Run(Struct, frozen=True):
    """A measured collective and what the catalog predicts for it."""

    place: str  # the node, or the fabric where the group leaves the node
    operation: str
    repeat: tuple[str, ...]  # alike for runs that should take the same time
    source: str
    num_ranks: int
    payload_bytes: float
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted_s / self.measured_s - 1.0


def main() -> int:
    """0: the table was printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=MEASURED)
    print("\n".join(lines(runs(parser.parse_args().table))))
    return 0


def lines(found: Iterable[Run]) -> Iterator[str]:
    """The table, a class a line; classes of fewer than FEWEST runs are left out."""
    yield f"{'class':44}{'n':>5}{'median':>8}{'p90':>7}{'bias':>7}  {'scatter: median, p90, bias':>27}"
    for (place, operation), each in sorted(classes(found).items()):
        if len(each) >= FEWEST:
            errors, own = statistics(each), scatter(each)
            ours = f"{errors['median']:8.1%}{errors['p90']:7.1%}{errors['bias']:7.1%}"
            verdict = "" if holds(each) else "  <--"
            yield f"{place + ' ' + operation:44}{len(each):5}{ours}  {own['median']:13.1%}{own['p90']:7.1%}{own['bias']:7.1%}{verdict}"


def classes(found: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """The runs by place and operation."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for each in found:
        groups[each.place, each.operation].append(each)
    return groups


def statistics(found: Iterable[Run]) -> dict[str, float]:
    """The three figures that a class is judged by."""
    return _figures([each.error for each in found])


def scatter(found: Iterable[Run]) -> dict[str, float]:
    """The same figures of each run against the median of its repeats; 0 where nothing was repeated."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for each in found:
        groups[each.repeat].append(each.measured_s)
    return _figures([float(np.median(times)) / each - 1.0 for times in groups.values() if len(times) > 1 for each in times])


def holds(found: list[Run]) -> bool:
    """Whether the class is as near as it is asked to be."""
    own = scatter(found)
    return all(abs(each) <= max(MOST[name], SCATTERS * abs(own[name])) for name, each in statistics(found).items())


def _figures(errors: list[float]) -> dict[str, float]:
    if not errors:
        return dict.fromkeys(MOST, 0.0)
    sizes = np.abs(errors)
    return {"median": float(np.median(sizes)), "p90": float(np.quantile(sizes, 0.9)), "bias": float(np.median(errors))}


def runs(table: Path) -> list[Run]:
    """The timed rows of the table on hardware of the catalog, less those of the experts' kernels, of BROKEN runs and of TUNED settings."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["time_us"] and row["collective"] in OPERATIONS]
    usual = (row for row in rows if not _begun(BROKEN, row["source_id"]) and TUNED not in row["algo"])
    return [run for row in usual if (run := _run(row)) is not None]


def _fabric_of(row: Mapping[str, str]) -> str:
    """The fabric between the nodes of a row: that of its source, or of the channels that the run had."""
    by_default = row["collective"] == "alltoall" and row["notes"].startswith("variant 1")  # of NCCL: two a peer
    return "ib-ndr-8rail-two-channels" if by_default and row["source_id"] == "vultr-b200" else _begun(FABRICS, row["source_id"])


def _run(row: Mapping[str, str]) -> Run | None:
    node_name = _begun(NODES, row["source_id"]) or NODES.get(row["hardware"], "")
    if not node_name:
        return None
    node: Node = read("nodes", node_name)
    if row["source_id"] == "cscs-gh200":  # four of its devices, and NICs, a node
        node = replace(node, devices_per_node=4, num_nics=4)
    ranks = int(row["n_gpus"])
    fabric_name = _fabric_of(row) if ranks > node.devices_per_node else "-"
    if not fabric_name:
        return None
    fabric: Fabric | None = None if fabric_name == "-" else read("fabrics", fabric_name)
    cluster = Cluster(node, -(-ranks // node.devices_per_node), fabric)
    operation, size = OPERATIONS[row["collective"]], float(row["message_bytes"])
    place = fabric_name if fabric else node_name
    repeat = (place, row["hardware"], operation, row["n_gpus"], row["message_bytes"])
    return Run(
        place=place,
        operation=operation,
        repeat=repeat,
        source=row["source_id"],
        num_ranks=ranks,
        payload_bytes=size,
        measured_s=float(row["time_us"]) * 1e-6,
        predicted_s=predicted_s(cluster, operation, size, ranks, int(row["n_nodes"])),
    )


def predicted_s(cluster: Cluster, operation: str, size: float, ranks: int, num_nodes: int) -> float:
    """Seconds by the laws; size as nccl-tests counts it.  Its sendrecv sends each rank's bytes to the next rank, all at once."""
    if operation == "p2p":
        return float(np.ravel(p2p_s(cluster, size, cluster.node.devices_per_node if num_nodes > 1 else 1))[0])
    turns = 2 if operation == "all_reduce" else 1
    return float(np.ravel(collective_s(cluster, operation, turns * (ranks - 1) / ranks * size, turns * (ranks - 1), ranks, 1))[0])


def _begun(names: Mapping[str, str], source: str) -> str:
    """What the longest key that the source's name begins with stands for."""
    keys = [each for each in names if source.startswith(each)]
    return names[max(keys, key=len)] if keys else ""


if __name__ == "__main__":
    raise SystemExit(main())
