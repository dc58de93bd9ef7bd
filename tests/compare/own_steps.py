"""What a few measured steps of one's own are worth: `python tests/compare/own_steps.py TABLE...`, CSV files of measured steps.

A cluster is a source's family of rows on one accelerator, with experts or without.  Of each, some rows are drawn, the sustained factor is
found from them as `parsim calibrate --from` finds it, and the others are predicted by it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from parsim.calibrate.own_cluster import STEP_DEVIATIONS, sustained_of
from parsim.confidence.shrink import Deviations, Evidence, deviations_of, evidence, shrink
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate_legal
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s
from parsim.validate.table import TableRow, read

Key = tuple[str, str, str]  # family, accelerator, dense or experts
MOST: Final = 14  # rows of a cluster
FEWEST: Final = 8
PROBE: Final = 0.85
DRAWS: Final = 50


def main() -> int:
    """0: the table was printed."""
    found = {key: rows for path in sys.argv[1:] for key, rows in clusters(path).items() if len(rows) >= FEWEST}
    for kind in ("dense", "experts"):
        alike = [rows for key, rows in found.items() if key[2] == kind]
        print(f"{kind}: {len(alike)} clusters: {deviations_of(alike)}; in use: {STEP_DEVIATIONS}")
        for count in (1, 2, 4):
            before, after, errors = (np.array(each) for each in zip(*(left_over(rows, count) for rows in alike), strict=True))
            far = before > 0.05
            print(
                f"  {count} steps: median error of others {np.mean(errors):.3f}, bias of {far.sum()} clusters {before[far].mean():.3f} ",
                end="",
            )
            print(f"-> {after[far].mean():.3f}")
    return 0


def clusters(path: str, families: Collection[str] = ()) -> Mapping[Key, list[Evidence]]:
    """What rows of the table say of the sustained factor of their stack and accelerator, of some families or all."""
    alike: dict[Key, list[TableRow]] = defaultdict(list)
    for row in read(path):
        family = row.says("source_family")
        if row.faults or missing_features(row) or missing_cells(row) or row.says("workload") == "ci" or not measured_step_s(row):
            continue
        if not families or family in families:
            alike[family, row.says("accelerator"), "experts" if row.counts.get("num_experts") else "dense"].append(row)
    rng = np.random.default_rng(0)
    drawn = {key: [rows[n] for n in sorted(rng.choice(len(rows), min(MOST, len(rows)), replace=False))] for key, rows in alike.items()}
    return {key: [each for row in rows if (each := evidence_of(row, path))] for key, rows in drawn.items() if len(rows) >= FEWEST}


def evidence_of(row: TableRow, path: str) -> Evidence | None:
    """The row, predicted as it is and at another factor; None where it is not predicted."""
    try:
        scenario = scenario_of(row, path)
        name, default, _ = sustained_of(scenario.stack, scenario.cluster.node.accelerator)
        slower = replace(scenario.stack, sustained_factor={**scenario.stack.sustained_factor, name: default * PROBE})
        seconds = [estimate_legal(each, each.plan(PLAN)).step_s for each in (scenario, replace(scenario, stack=slower))]
    except ParsimError:
        return None
    return evidence("own", "", measured_step_s(row) or 0.0, *seconds, PROBE)


def left_over(rows: Sequence[Evidence], count: int, deviations: Deviations = STEP_DEVIATIONS) -> tuple[float, float, float]:
    """Of rows left out, in the mean of draws: the size of their median signed error before and after, and their median error after."""
    rng, found = np.random.default_rng(1), []
    for _ in range(DRAWS):
        drawn = set(rng.choice(len(rows), count, replace=False).tolist())
        log = np.log(shrink([rows[n] for n in sorted(drawn)], deviations).factor)
        others = [row for n, row in enumerate(rows) if n not in drawn]
        before, after = (np.expm1([-row.log_ratio - row.elasticity * each for row in others]) for each in (0.0, log))
        found.append((abs(np.median(before)), abs(np.median(after)), np.median(np.abs(after))))
    return tuple(np.mean(found, axis=0).tolist())  # type: ignore[return-value]


if __name__ == "__main__":
    raise SystemExit(main())
