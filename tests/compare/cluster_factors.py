"""How far bandwidth and latency of published clusters lie from the catalog: `python tests/compare/cluster_factors.py [TABLE.csv]`.

Of each source of the table of collectives, and each wire that its sweeps feel, both factors are fitted, hardly shrunk.  What it prints
are the deviations of calibrate/wires.py: of a size about its sweep, and of a cluster about the catalog.  The catalog saw most of these
sources, so that a cluster of one's own lies farther from it.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from collectives import BROKEN, FABRICS, MEASURED, NODES, OPERATIONS, TUNED, _begun  # type: ignore[import-not-found]

from parsim.calibrate.collective_log import TimedCollective
from parsim.calibrate.factor_fit import Knob, Point, fit_jointly
from parsim.calibrate.own_rows import RowBase
from parsim.calibrate.wires import WIRES, WireKnobs, by_nodes, seconds_of, settle, state_all, wire_of
from parsim.confidence.shrink import Deviations
from parsim.scenario.rows import read

_WIDE: Final = Deviations(row=0.06, source=0.0, stack=1.0)
_FEWEST: Final = 6  # points of a sweep


def main() -> int:
    """0: the table was printed."""
    logs, rows = [], []
    for (node, fabric, source, name), timed in sorted(sweeps(Path(sys.argv[1]) if sys.argv[1:] else MEASURED).items()):
        if len(timed) < _FEWEST:
            continue
        wire = next(each for each in WIRES if each.name == name)
        found, residual = factors_of(wire, node, fabric, timed)
        logs.append(found)
        rows.append(residual)
        print(f"{source:28}{node:24}{fabric:16}{name:42}{len(timed):5}{np.exp(found[0]):7.2f}{np.exp(found[1]):7.2f}{residual:7.1%}")
    both = np.array(logs)
    typical, most = np.median(np.abs(both), axis=0), np.max(np.abs(both), axis=0)
    print(
        f"{len(logs)} sweeps: bandwidth {typical[0]:.3f} (at most {most[0]:.2f}), latency {typical[1]:.3f} (at most {most[1]:.2f})", end=""
    )
    print(f" about the catalog in the median; a size {np.median(rows):.3f} about its sweep")
    return 0


def sweeps(table: Path) -> Mapping[tuple[str, str, str, str], list[TimedCollective]]:
    """The timed rows on hardware of the catalog, by node, fabric ("" in a node), source and wire."""
    found: dict[tuple[str, str, str, str], list[TimedCollective]] = defaultdict(list)
    with table.open(newline="", encoding="utf-8") as file:
        for node, fabric, source, each in filter(None, map(_timed, csv.DictReader(file))):
            found[node, fabric, source, wire_of(each).name].append(each)
    return found


def _timed(row: Mapping[str, str]) -> tuple[str, str, str, TimedCollective] | None:
    source = row["source_id"]
    node = _begun(NODES, source) or NODES.get(row["hardware"], "")
    if not node or not row["time_us"] or row["collective"] not in OPERATIONS or _begun(BROKEN, source) or TUNED in row["algo"]:
        return None
    ranks, hosts = int(row["n_gpus"]), int(row["n_nodes"])
    if source == "cscs-gh200" or ranks % hosts:
        return None
    timed = TimedCollective(OPERATIONS[row["collective"]], ranks, hosts, int(row["message_bytes"]), float(row["time_us"]) * 1e-6, source, 0)
    (timed,) = by_nodes(read("nodes", node), [timed])
    fabric = _begun(FABRICS, source) if timed.num_nodes > 1 else ""
    return None if (timed.num_nodes > 1) != bool(fabric) or ranks % timed.num_nodes else (node, fabric, source, timed)


def factors_of(wire: WireKnobs, node: str, fabric: str, timed: list[TimedCollective]) -> tuple[list[float], float]:
    """Logarithms of both factors, hardly shrunk, and the deviation of sizes about them."""
    nodes = RowBase.of("nodes", node)
    base = RowBase.of("fabrics", fabric) if fabric else nodes
    full = state_all(base.full, base.build({}))

    def predict(scales: Mapping[str, float]) -> np.ndarray:
        built = base.build(settle(full, wire.change(full, scales)))
        return seconds_of(nodes.build({}) if fabric else built, built if fabric else None, timed)

    points = [Point("", str(each.payload_bytes), each.seconds) for each in timed]
    knobs = [Knob(each.name, _WIDE, each.most) for each in wire.knobs(full, base.build({}))]
    fit = fit_jointly(points, predict, knobs)
    return [float(np.log(each.shrunk)) for each in fit.factors.values()], 1.4826 * fit.after


if __name__ == "__main__":
    raise SystemExit(main())
