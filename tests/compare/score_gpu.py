"""How near the laws of an accelerator come to kernels that `bench_gpu.py` measured: `python score_gpu.py h200 tests/witnesses/h200.csv`.

A row is one kernel that had the device to itself in short samples, so it is priced without the share that training sustains: gemm is
m x k by k x n (fp8: one scale a tensor); attention is causal, m its sequence and k its head_dim; copy and add are of m elements of bf16.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median

from parsim.cluster import Accelerator
from parsim.cluster.efficiency import attention_s, elementwise_s, gemm_s
from parsim.cluster.flash import flash_kernel
from parsim.scenario.rows import read

_ITEMSIZE_BYTES = {"bf16": 2, "fp8": 1}
_MOVED = {"copy": 2, "add": 3}  # elements read and written for each of the result


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def errors_by_law(device: Accelerator, rows: Iterable[Mapping[str, str]]) -> dict[str, list[float]]:
    """Predicted / measured - 1 of each row, by law."""
    found = defaultdict[str, list[float]](list)
    for row in rows:
        found[f"{row['kernel']} {row['dtype']}"].append(predicted_s(device, row) / (float(row["us"]) * 1e-6) - 1)
    return dict(found)


def report(name: str, rows: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """A line a law of an accelerator of the catalog."""
    for law, errors in errors_by_law(read("accelerators", name), rows).items():
        yield f"{law:24} {len(errors):4d} rows  median {median(map(abs, errors)):6.1%}  bias {median(errors):+6.1%}"


def predicted_s(device: Accelerator, row: Mapping[str, str]) -> float:
    """Seconds of a row by the laws of a device."""
    if row["kernel"] in _MOVED:
        return float(elementwise_s(device, 2 * _MOVED[row["kernel"]] * int(row["m"])))
    return _gemm_s(device, row) if row["kernel"] == "gemm" else _attention_s(device, row)


def _gemm_s(device: Accelerator, row: Mapping[str, str]) -> float:
    m, n, k = (int(row[side]) for side in "mnk")
    itemsize = _ITEMSIZE_BYTES[row["dtype"]]
    moved, weight = itemsize * (m * k + n * k) + 2 * m * n, itemsize * n * k
    return float(gemm_s(device, 2 * m * n * k, moved, row["dtype"], shape=(m, n, k), weight_bytes=weight, sustained=1.0))


def _attention_s(device: Accelerator, row: Mapping[str, str]) -> float:
    kernel, _, direction = row["kernel"].rpartition("_")
    length, width, batch, heads, kv_heads = (int(row[name]) for name in ("m", "k", "batch", "heads", "kv_heads"))
    back, of = direction == "backward", flash_kernel(kernel, device.catalog_row)
    assert of is not None, f"{kernel} does not run on {device.name}"
    work, moved = 4 * width * heads * batch * length * (length + 1) / 2, 2 * batch * length * width * 2 * (heads + kv_heads)
    times_flops, times_bytes, rate = (2.5, 2, of.backward) if back else (1, 1, of.forward)
    blocks = batch * heads * length / 128
    seconds = attention_s(device, times_flops * work, times_bytes * moved, blocks, width, "bf16", is_gradient=back, sustained=rate)
    return float(seconds)


if __name__ == "__main__":
    print(*report(sys.argv[1], rows_of(Path(sys.argv[2]))), sep="\n")
