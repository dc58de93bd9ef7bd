"""Rows of tables of measurements, for tests of `validate`."""

from __future__ import annotations

import csv

from parsim.validate import validate
from parsim.validate.case import scenario_of
from parsim.validate.table import read as read_table

SMALL = {
    "id": "small",
    "source_family": "papers",
    "num_layers": "4",
    "hidden_size": "1024",
    "num_heads": "16",
    "vocab_size": "51200",
    "sequence_length": "512",
    "accelerator": "a100-sxm4-80gb",
    "num_devices": "16",
    "tensor_parallel": "2",
    "pipeline_parallel": "2",
    "micro_batch": "2",
    "global_batch": "32",
    "dtype": "fp16",
    "recompute": "full",
    "step_s": "1",
}


def table(tmp_path, *rows, name="cases.csv"):
    path = tmp_path / name
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def only(tmp_path, **changes):
    (row,) = validate(table(tmp_path, {**SMALL, **changes})).rows
    return row


def described(tmp_path, **changes):
    (row,) = read_table(table(tmp_path, {**SMALL, **changes}), ())
    return scenario_of(row, "cases.csv")
