"""Predicted against published memory: peaks by metric and family, and whether plans that ran or ran out of memory are told apart.

python tests/compare/compare_memory.py DIRECTORY [--strict] [--rows FAMILY]: the directory holds steps.csv, memory_2026.csv and
memory_limits.csv; `--rows` lists each row of a family with the parts of the rank that the row reports.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from parsim.errors import ParsimError
from parsim.validate.case import missing_cells, missing_features, scenario_of
from parsim.validate.compare import reported_memory, statistics
from parsim.validate.table import TableRow, read

GIB = 2**30
TABLES = ("steps.csv", "memory_2026.csv")
LABELS = "memory_limits.csv"


class Peak(Struct, frozen=True):
    """One row: the parts of the rank that it reports, and the capacity of the device."""

    row: TableRow
    parts: Mapping[str, int]
    capacity: int

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return sum(self.parts.values()) / self.row.measures["peak_memory_bytes"] - 1


def peaks(path: Path, *, labels: bool = False) -> Iterator[Peak]:
    """The rows of a table that can be predicted and that say what is asked for."""
    for row in read(path):
        if not (row.says("fits") if labels else "peak_memory_bytes" in row.measures):
            continue
        if row.faults or missing_features(row) or missing_cells(row):
            continue
        try:
            scenario = scenario_of(row, str(path))
            yield Peak(row, reported_memory(scenario, row), scenario.cluster.node.accelerator.hbm_capacity_bytes)
        except ParsimError:
            continue


def show_peaks(found: list[Peak]) -> None:
    """Statistics by metric and family."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in found:
        metric = each.row.says("memory_metric")
        groups[metric, each.row.says("source_family")].append(each.error)
        groups[metric, "(all)"].append(each.error)
    for (metric, family), errors in sorted(groups.items()):
        s = {name: value or 0.0 for name, value in statistics(errors).items()}
        shown = " ".join(f"{name} {100 * s[name]:6.1f}" for name in ("median_abs", "p90_abs", "max_abs", "bias"))
        print(f"{metric:10} {family:16} n {s['n']:3} {shown}")


def show_labels(found: list[Peak]) -> None:
    """How many labels of each kind are right, by family."""
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for each in found:
        fits, label = sum(each.parts.values()) <= each.capacity, each.row.says("fits")
        right[label, each.row.says("source_family")].append(fits == (label == "yes"))
        right[label, "(all)"].append(fits == (label == "yes"))
    for (label, family), each in sorted(right.items()):
        print(f"fits {label:3} {family:16} {sum(each):3} of {len(each):3} right, {100 * sum(each) / len(each):5.1f} %")


def show_rows(found: list[Peak], family: str) -> None:
    """Each row of a family."""
    columns = ("num_layers", "hidden_size", "sequence_length", "data_parallel", "tensor_parallel", "pipeline_parallel")
    for each in sorted(found, key=lambda each: each.row.says("id")):
        if each.row.says("source_family") == family:
            row = each.row
            shape = "/".join(row.says(column) or "-" for column in (*columns, "zero_stage", "micro_batch", "recompute", "attention"))
            parts = " ".join(f"{name[:5]} {size / GIB:.2f}" for name, size in each.parts.items() if size > GIB / 100)
            measured = row.measures.get("peak_memory_bytes", 0) / GIB
            total = sum(each.parts.values()) / GIB
            print(f"{row.says('id'):16} {row.says('fits'):3} {measured:6.2f} {total:6.2f} {shape} | {parts}")


def main() -> None:
    """Prints the statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--rows", default="")
    options = parser.parse_args()
    found = [each for name in TABLES for each in peaks(options.directory / name)]
    if options.strict:
        found = [each for each in found if each.row.says("strict") == "yes"]
    labels = list(peaks(options.directory / LABELS, labels=True))
    if options.rows:
        show_rows([*found, *labels], options.rows)
        return
    show_peaks(found)
    show_labels(labels)


if __name__ == "__main__":
    main()
