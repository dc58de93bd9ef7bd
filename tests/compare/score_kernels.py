"""How near the laws of kernels come to measured ones, by accelerator and dtype: `python tests/compare/score_kernels.py KERNELS.csv`.

A row of the table is one kernel that had the device to itself (op, hardware, dtype, m, n, k, time_us ...); it is priced without the share
that training sustains.  Rows measured inside a training stack are priced with it (`TRAINING`).
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsim.cluster import Accelerator
from parsim.cluster.efficiency import elementwise_s, gemm_s, kept_bytes
from parsim.cost.gemms import ACCUMULATION_FACTOR
from parsim.scenario.rows import read

DEVICES: Final[Mapping[str, str]] = {
    **{"A100-SXM": "a100-sxm4-80gb", "A100-PCIe": "a100-pcie-80gb", "H100-SXM": "h100-sxm5-80gb", "H200": "h200", "B200": "b200"},
    **{"B300": "b300", "GB200": "gb200", "GB300": "gb300", "L40S": "l40s", "RTX-PRO-6000": "rtx-pro-6000"},
}
DTYPES: Final[Mapping[str, str]] = {"bfloat16": "bf16", "fp8": "fp8"}
ITEMSIZE_BYTES: Final[Mapping[str, int]] = {"bf16": 2, "fp8": 1}
TRAINING: Final = "simumax"  # MooreThreads/SimuMax measured through Transformer Engine, in the layouts of forward and backward


class Score(NamedTuple):
    """Errors of one group of rows, predicted / measured - 1, and which of them had operands and result in the L2."""

    errors: NDArray[np.float64]
    in_l2: NDArray[np.bool_]

    def __str__(self) -> str:
        return f"{len(self.errors):6d} {_figures(self.errors)}  {_figures(self.errors[~self.in_l2])}  {_figures(self.errors[self.in_l2])}"


def gemm_scores(path: Path) -> dict[tuple[str, str, bool], Score]:
    """The score of each accelerator, dtype, and whether the rows were measured in training."""
    groups = defaultdict(list)
    for row in _rows(path):
        groups[DEVICES[row["hardware"]], DTYPES[row["dtype"]], row["source_id"].startswith(TRAINING)].append(row)
    return {
        (name, dtype, trains): _score(read("accelerators", name), dtype, trains, rows) for (name, dtype, trains), rows in groups.items()
    }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["op"] == "gemm" and row["hardware"] in DEVICES and row["dtype"] in DTYPES and row["time_us"]:
                yield row


def _score(device: Accelerator, dtype: str, trains: bool, rows: list[dict[str, str]]) -> Score:
    m, n, k, time_us = np.array([[float(row[column]) for column in ("m", "n", "k", "time_us")] for row in rows]).T
    adds = np.where([("accumulate=True" in row["notes"]) for row in rows], ACCUMULATION_FACTOR, 1.0)
    predicted = adds * isolated_s(device, dtype, m, n, k, sustained=None if trains else 1.0)
    moved = ITEMSIZE_BYTES[dtype] * (m * k + k * n) + 2 * m * n
    return Score(predicted * 1e6 / time_us - 1, moved <= device.l2_bytes)


def isolated_s(device: Accelerator, dtype: str, m: Any, n: Any, k: Any, sustained: float | None = 1.0) -> Any:
    """Seconds of m x k times k x n; in fp8 with what casts the activations, which the tables hold: a maximum and a scaling of m x k."""
    itemsize = ITEMSIZE_BYTES[dtype]
    moved, weights = itemsize * (m * k + k * n) + 2 * m * n, itemsize * k * n
    seconds = gemm_s(device, 2 * m * n * k, moved, dtype, shape=(m, n, k), weight_bytes=weights, sustained=sustained)
    if dtype != "fp8":
        return np.asarray(seconds)
    casts = (elementwise_s(device, np.maximum(moved - kept_bytes(device), 0)) for moved in (2 * m * k, 3 * m * k))
    return np.asarray(seconds) + sum(casts)


def _figures(errors: NDArray[np.float64]) -> str:
    if not len(errors):
        return f"{'':20s}"
    size = np.abs(errors)
    return f"{np.median(size):6.1%} {np.quantile(size, 0.9):6.1%} {np.median(errors):+6.1%}"


def main(path: str) -> None:
    """Prints the table: rows, then median, 90th percentile and bias of all, of those beyond the L2, and of those within it."""
    scores = gemm_scores(Path(path))
    sys.stdout.write(f"{'GEMM':34s}  rows {'all':20s}  {'beyond the L2':20s}  {'within it':20s}\n")
    for (name, dtype, trains), score in sorted(scores.items()):
        sys.stdout.write(f"{name:16s}{dtype:5s}{'in training' if trains else '':11s}{score}\n")
    for dtype in ITEMSIZE_BYTES:
        parts = [score for (_, of, _), score in scores.items() if of == dtype]
        sys.stdout.write(f"{'all':16s}{dtype:16s}{Score(*(np.concatenate(each) for each in zip(*parts, strict=True)))}\n")


if __name__ == "__main__":
    main(sys.argv[1])
