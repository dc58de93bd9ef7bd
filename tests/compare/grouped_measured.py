"""Laws of grouped GEMMs, fitted to what projects measured of their own kernels: `python tests/compare/grouped_measured.py DIR [FILE]`.

DIR is tokamax/data/autotuning of openxla/tokamax: of each kind of TPU the fastest tiles of each shape, with their times, by the kernel that
MaxText runs, forward, for the gradient of the inputs, and for that of the weights.  FILE is benchmark/baselines/grouped_gemm.json of
AMD-AGI/Primus-Turbo: forwards on an MI300X.  An efficiency and a share of the bandwidth are fitted for each device; the rest is as in the
catalog.  Each half of the shapes is scored by the fit to the other half, too.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from parsim.cluster.accelerator import Accelerator, GroupedLaw
from parsim.cluster.efficiency import grouped_gemm_s, masked_share
from parsim.cluster.scalars import Floats
from parsim.scenario.rows import read

# Directory -> catalog row, and how many of the devices that JAX sees, or that the kernel uses, make one of the row.
DEVICES: Final = {"tpu7x": ("tpu-v7x", 2), "tpu_v5": ("tpu-v5p", 2), "tpu_v5_lite": ("tpu-v5e", 1)}
TABLE: Final = "pallas_mosaic_tpu_ragged_dot.json"
FEWEST_ROWS: Final = 1024  # of all experts: fewer are decoding
LEAST_S: Final = 2e-4  # of those whose times are printed in hundredths of a millisecond
EFFICIENCIES: Final = np.arange(0.36, 1.0, 0.02)
BANDWIDTHS: Final = np.arange(0.4, 1.01, 0.05)
PASSES: Final = {"[[1], [1]]": "forward", "[[1], [2]]": "inputs", "[[0], [0]]": "weights"}


class Case(NamedTuple):
    """A grouped GEMM: experts, rows of all, and both widths of a weight."""

    passes: str
    experts: int
    rows: int
    widths: tuple[int, int]
    seconds: float


def of_tokamax(path: Path) -> Iterator[Case]:
    """Those of a table in bf16 that write no residuals, each shape and pass once, at its fastest."""
    found: dict[tuple[str, int, int, tuple[int, int]], float] = {}
    for text, tiles in json.loads(path.read_text(encoding="utf-8")).items():
        asked = json.loads(text)
        if asked["return_residuals"] or not all(str(asked[side]).startswith("bf16") for side in ("lhs", "rhs")):
            continue
        left, right = ([int(each) for each in asked[side][5:-1].split(",")] for side in ("lhs", "rhs"))
        groups = asked["group_sizes"]
        experts = groups["num_groups"] if isinstance(groups, dict) else len(groups)
        times = [median(tile["evaluation_times_ms"]) for tile in tiles.values() if tile["evaluation_times_ms"]]
        if left[0] >= FEWEST_ROWS and times:
            passes = PASSES[str(asked["ragged_dot_dimension_numbers"]["dot_dimension_numbers"][0])]
            key = passes, experts, left[0], (right[-2] if len(right) > 2 else left[1], right[-1])
            found[key] = min(min(times) / 1e3, found.get(key, np.inf))
    yield from (Case(*key, seconds) for key, seconds in found.items())


def of_primus_turbo(path: Path) -> Iterator[Case]:
    """Those of several experts that take long enough to be told."""
    for each in json.loads(path.read_text(encoding="utf-8"))["configs"]:
        experts, rows, n, k = (int(re.findall(rf"\b{side}=(\d+)", each["label"])[0]) for side in "BMNK")
        seconds = 2 * experts * rows * n * k / each["tflops"] / 1e12
        if experts > 1 and seconds > LEAST_S:
            yield Case("forward", experts, experts * rows, (k, n), seconds)


def predicted_s(own: Sequence[Case], device: Accelerator, law: GroupedLaw) -> Floats:
    """Seconds by a law."""
    rows, experts, k, n = (np.array(each, dtype=np.float64) for each in zip(*((c.rows, c.experts, *c.widths) for c in own), strict=True))
    of_one, weights = rows / experts, 2 * experts * k * n
    sides = {"forward": (of_one, n, k), "inputs": (of_one, k, n), "weights": (k, n, of_one)}
    left, right, inner = (np.array([sides[case.passes][side][at] for at, case in enumerate(own)]) for side in range(3))
    seconds = grouped_gemm_s(
        device,
        2 * rows * k * n,
        2 * rows * (k + n) + weights,
        "bf16",
        law=law,
        shape=(left, right, inner),
        weight_bytes=weights,
        rows=of_one,
        aligned=np.minimum(masked_share(law, k), masked_share(law, n)),
        sustained=1.0,
    )
    return np.asarray(seconds)


def fitted(own: Sequence[Case], device: Accelerator, law: GroupedLaw) -> GroupedLaw:
    """The law with the efficiency and the share of bandwidth that leave the least sum of absolute logarithms."""
    grid = [
        replace(law, plain=replace(law.plain, efficiency=float(e), memory_efficiency=float(m)))
        for e, m in itertools.product(EFFICIENCIES, BANDWIDTHS)
    ]
    return min(grid, key=lambda each: float(np.sum(np.abs(errors(own, device, each)))))


def errors(own: Sequence[Case], device: Accelerator, law: GroupedLaw) -> Floats:
    """Logarithms of predicted over measured."""
    return np.asarray(np.log(predicted_s(own, device, law) / [case.seconds for case in own]))


def law_of(row: str) -> tuple[Accelerator, GroupedLaw]:
    """A row of the catalog and its law."""
    device = read("accelerators", row)
    return device, device.grouped_gemm


def part_of(row: str, parts: int) -> tuple[Accelerator, GroupedLaw]:
    """One of so many cores that make a row, each of which JAX sees as a device, or of which the kernel uses one."""
    device, law = law_of(row)
    peaks = {dtype: peak / parts for dtype, peak in device.peak_flops_per_s.items()}
    bandwidth = device.hbm_bandwidth_bytes_per_s / (parts if law.cores > 1 else 1)
    part = replace(device, peak_flops_per_s=peaks, hbm_bandwidth_bytes_per_s=bandwidth, num_multiprocessors=1)
    return part, replace(law, cores=1)


def show(row: str, own: Sequence[Case], device: Accelerator, law: GroupedLaw) -> None:
    """Print the fit of a device, and the errors of the catalog's law, of the fit, and of halves by the other half."""
    best = fitted(own, device, law)
    halves = own[::2], own[1::2]
    apart = np.concatenate([errors(half, device, fitted(other, device, law)) for half, other in (halves, halves[::-1])])
    print(f"{row}: {len(own)} shapes; efficiency {best.plain.efficiency:.2f}, memory {best.plain.memory_efficiency:.2f}")
    for title, found in (("catalog", errors(own, device, law)), ("fitted", errors(own, device, best)), ("other half", apart)):
        shown = "  {:10} median {:.1f} %, p90 {:.1f} % ".format(title, *(100 * np.quantile(np.abs(found), share) for share in (0.5, 0.9)))
        for passes in PASSES.values() if title != "other half" else ():
            if any(of_pass := [case.passes == passes for case in own]):
                shown += f" {passes} {100 * np.median(found[of_pass]):+.1f}"
        print(shown)


def main() -> None:
    """Print them all."""
    for name, (row, parts) in DEVICES.items():
        show(row, [*of_tokamax(Path(sys.argv[1]) / name / TABLE)], *part_of(row, parts))
    if len(sys.argv) > 2:
        show("mi300x", [*of_primus_turbo(Path(sys.argv[2]))], *law_of("mi300x"))


if __name__ == "__main__":
    main()
