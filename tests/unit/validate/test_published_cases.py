"""The cases that parsim ships are many, of many sources, of every class, and each says where it stands."""

from __future__ import annotations

from collections import Counter

from parsim.validate.compare import measured_step_s
from parsim.validate.published import tables
from parsim.validate.sweeps import MANY, SWEEP
from parsim.validate.table import read

ROWS = [row for table in tables() for row in read(table)]
STEPS = [row for row in ROWS if measured_step_s(row) and row.says("workload") != "ci"]  # whose times are not scored


def test_two_hundred_steps_of_twelve_sources_are_shipped_each_with_its_citation():
    assert len(STEPS) >= 200
    assert len({row.says("source_family") for row in STEPS}) >= 12
    assert all(len(row.says("source")) > 8 for row in ROWS)
    assert len({row.says("id") for row in ROWS}) == len(ROWS)
    assert not [fault for row in ROWS for fault in row.faults]


def test_no_family_has_more_than_thirty_steps():
    assert max(Counter(row.says("source_family") for row in STEPS).values()) <= 32


def test_every_class_is_among_them():
    assert sum(row.says("dtype") in ("fp8", "nvfp4") for row in STEPS) >= 30
    assert sum(row.counts.get("num_experts", 0) > 0 for row in STEPS) >= 30
    assert sum(row.counts.get("context_parallel", 1) > 1 for row in STEPS) >= 10
    assert len({row.says("accelerator") for row in STEPS}) >= 6
    assert sum("peak_memory_bytes" in row.measures for row in ROWS) >= 50
    labels = Counter(row.says("fits") for row in ROWS)
    assert labels["yes"] >= 20 and labels["no"] >= 20


def test_four_sweeps_are_whole():
    sweeps = Counter(tuple(row.says(column) for column in SWEEP) for row in STEPS)
    assert sum(each >= MANY for each in sweeps.values()) >= 4
