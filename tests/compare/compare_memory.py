"""The parts of predicted memory of each row of a family:  python tests/compare/compare_memory.py FAMILY [TABLE...]

Of the rank that the row reports, beside what was measured, or whether it fitted.  `parsim validate --report` has the statistics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from parsim.validate import MeasuredCase, cases_of
from parsim.validate.compare import reported_memory
from parsim.validate.labels import FITS

GIB = 2**30
SHAPE = ("num_layers", "hidden_size", "sequence_length", "data_parallel", "tensor_parallel", "pipeline_parallel")
PLAN = ("zero_stage", "micro_batch", "recompute", "attention")


def line(case: MeasuredCase) -> str:
    """The row in GiB."""
    assert case.scenario is not None
    parts, row = reported_memory(case.scenario, case.row), case.row
    shape = "/".join(row.says(column) or "-" for column in (*SHAPE, *PLAN))
    sizes = " ".join(f"{name[:5]} {size / GIB:.2f}" for name, size in parts.items() if size > GIB / 100)
    measured, total = row.measures.get("peak_memory_bytes", 0) / GIB, sum(parts.values()) / GIB
    return f"{row.says('id'):16} {row.says(FITS):3} {measured:6.2f} {total:6.2f} {shape} | {sizes}"


def main() -> None:
    """Prints a line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("tables", type=Path, nargs="*")
    asked = parser.parse_args()
    cases = [case for case in cases_of(asked.tables, [f"source_family={asked.family}"]) if case.scenario]
    for case in sorted(cases, key=lambda each: each.row.says("id")):
        if case.row.says(FITS) or "peak_memory_bytes" in case.row.measures:
            print(line(case))


if __name__ == "__main__":
    main()
