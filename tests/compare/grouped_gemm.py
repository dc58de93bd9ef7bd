"""The exponent of grouped GEMMs, chosen by the tables of one device and scored on those of the other.

python tests/compare/grouped_gemm.py TABLE: a CSV file of kernels with columns op, hardware, batch, m, n, k, time_us and notes, as SimuMax
measured them with Transformer Engine.  A device's share of its GEMM law is that of its plain GEMMs in the same table.  Of a gradient of
weights the slower measurement adds to float32 sums, the other writes them; experts of few tokens take a launch each at least.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping
from statistics import median, quantiles
from typing import Final, NamedTuple

from parsim.cluster.accelerator import Accelerator
from parsim.cluster.efficiency import gemm_s
from parsim.cost.gemms import GROUPED_EXPONENT
from parsim.scenario.rows import read

DEVICES: Final = {"A100-PCIe": "a100-pcie-80gb", "B200": "b200"}
EXPONENTS: Final = (1.2, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 4.0)
LAUNCH_S: Final = read("stacks", "megatron-core").expert_launch_s
LEAST_FLOPS: Final = 5e10  # of a plain GEMM that says what a device sustains


class Case(NamedTuple):
    """A grouped GEMM: experts, rows of each and sides of a weight; bytes of an element of its gradient, 0 where it makes none."""

    device: str
    experts: int
    sides: tuple[int, int, int]
    passes: str
    added_bytes: int
    seconds: float


def cases(table: Iterable[Mapping[str, str]]) -> list[Case]:
    """The grouped GEMMs of the table."""
    found: dict[tuple[str, int, tuple[int, int, int], str], list[float]] = {}
    for row in table:
        if row["op"] == "grouped_gemm" and row["hardware"] in DEVICES:
            m, n, k = (int(row[side]) for side in "mnk")
            key = row["hardware"], int(row["batch"]), (m, n, k), row["notes"].removeprefix("stage=")
            found.setdefault(key, []).append(float(row["time_us"]) / 1e6)
    return [
        Case(*key, (8, 4)[place] if key[3] == "bwd_grad_w" else 0, seconds)
        for key, times in found.items()
        for place, seconds in enumerate(sorted(times, reverse=True))
    ]


def share(table: Iterable[Mapping[str, str]], device: str) -> float:
    """What plain GEMMs of the table sustain of the device's law."""
    accelerator, found = read("accelerators", DEVICES[device]), []
    for row in table:
        m, n, k = (int(row[side] or 0) for side in "mnk") if row["hardware"] == device and row["op"] == "gemm" else (0, 0, 0)
        if 2 * m * n * k >= LEAST_FLOPS and row["source_id"].startswith("simumax"):
            moved = 2 * (m * k + n * k + m * n)
            found.append(gemm_s(accelerator, 2 * m * n * k, moved, "bf16", shape=(m, n, k), weight_bytes=2 * n * k, sustained=1.0))
            found[-1] /= float(row["time_us"]) / 1e6
    return float(median(map(float, found)))


def predicted_s(case: Case, accelerator: Accelerator, sustained: float, exponent: float) -> float:
    """Seconds by the law of grouped GEMMs."""
    m, n, k = case.sides
    sides = {"bwd_grad_w": (n, k, m), "bwd_grad_act": (m, k, n)}.get(case.passes, (m, n, k))
    weight = case.experts * n * k * (case.added_bytes or 2)
    moved = weight + 2 * case.experts * (m * k + m * n)
    flops = 2 * case.experts * m * n * k
    how = {"shape": sides, "weight_bytes": weight, "sustained": sustained, "exponent": exponent}
    return max(float(gemm_s(accelerator, flops, moved, "bf16", **how)), case.experts * LAUNCH_S)  # type: ignore[arg-type]


def main() -> None:
    """Print the errors by exponent, of all and of either device, and of each by the exponent that suits the other."""
    with open(sys.argv[1], encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    every, of = cases(table), {}
    for device, row in DEVICES.items():
        accelerator, sustained = read("accelerators", row), share(table, device)
        print(f"{device}: plain GEMMs sustain {sustained:.3f} of the law")
        own = [case for case in every if case.device == device]
        of[device] = {q: [abs(predicted_s(case, accelerator, sustained, q) / case.seconds - 1) for case in own] for q in EXPONENTS}
    best = {device: min(EXPONENTS, key=lambda q: median(errors[q])) for device, errors in of.items()}
    for q in EXPONENTS:
        errors = [error for each in of.values() for error in each[q]]
        parts = "  ".join(f"{device} {100 * median(each[q]):5.1f}" for device, each in of.items())
        print(f"exponent {q}: median {100 * median(errors):5.1f} %, p90 {100 * quantiles(errors, n=10)[-1]:5.1f} %  ({parts})")
    for device, other in zip(DEVICES, reversed(DEVICES), strict=True):
        print(f"{device} by the exponent of {other}, {best[other]}: median {100 * median(of[device][best[other]]):.1f} %")
    print(f"in the code: {GROUPED_EXPONENT}")


if __name__ == "__main__":
    main()
