"""How the allocator's slack of stacks was chosen, and errors with sources left out:  python tests/compare/slack.py DIRECTORY

DIRECTORY holds the tables of measurements.  Of stacks that share one slack, what is least in the mean of the medians of families, each left
out in turn; torchtitan's, whose segments expand, by one family, beside another that is left out; of labels, what tells most `no` right of
those that tell 95 % of `yes`, each (model, sequence_length) left out in turn.
Of equals, the least.  The values in stacks.yaml and fits.csv are what this prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsim.errors import ParsimError
from parsim.estimator.estimate import stages_of
from parsim.estimator.memory import rank_memory
from parsim.estimator.parts import DEVICE, PARTS
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.compare import quantity_of
from parsim.validate.labels import FITS, SAID
from parsim.validate.table import TableRow, read_all

SLACKS = np.arange(61) / 100
COARSE = SLACKS[::5]  # where a family has few rows
SHARED = ("bigscience_a100", "bigscience_v100", "oneflow")  # families whose stacks have one slack
ALONE, BESIDE = "torchtitan", "threads"  # of one stack
LEAST_YES = 0.95
Array = NDArray[np.float64]


def peaks(row: TableRow, quantity: str, slacks: Array = SLACKS) -> tuple[Array, int] | None:
    """Peak bytes of the fullest rank with each slack, and what the device holds; None where unknown, or where the stack has no slack."""
    if row.faults or missing_features(row) or missing_cells(row):
        return None
    try:
        scenario = scenario_of(row, "")
    except ParsimError:
        return None
    if not (slack := scenario.stack.allocator_slack):
        return None
    ranks = rank_memory(stages_of(scenario, scenario.plan(PLAN))).of_plan(0)
    held = np.array([sum(parts[name] for name in PARTS[quantity]) for parts in ranks], dtype=np.float64)
    working = np.array([parts["activations"] + parts["transients"] for parts in ranks])
    return np.max(held + (slacks[:, None] - slack) * working, axis=1), scenario.cluster.node.accelerator.hbm_capacity_bytes


def chosen(groups: NDArray[Any], badness: Callable[[NDArray[Any]], Array]) -> dict[str, int]:
    """Index of the slack that is chosen on all rows, by "", and on those without each group."""
    masks = {"": np.ones(len(groups), dtype=bool), **{name: groups != name for name in sorted(set(groups))}}
    return {name: int(np.argmin(badness(mask))) for name, mask in masks.items()}


def errors_of(rows: list[TableRow], families: tuple[str, ...]) -> tuple[NDArray[Any], Array]:
    """Families of rows that report more than allocated bytes, and the sizes of their errors, [slack, row]."""
    told = [row for row in rows if row.says("source_family") in families and "peak_memory_bytes" in row.measures]
    found = [(row, peaks(row, quantity_of(row), COARSE)) for row in told if "fragments" in PARTS[quantity_of(row)]]
    known = [(row, each[0]) for row, each in found if each]
    errors = np.array([peak / row.measures["peak_memory_bytes"] - 1 for row, peak in known])
    return np.array([row.says("source_family") for row, _ in known]), np.abs(errors).T


def shared(rows: list[TableRow]) -> None:
    """Errors of the families that share one slack."""
    groups, errors = errors_of(rows, SHARED)

    def badness(mask: NDArray[Any]) -> Array:
        medians = [np.median(errors[:, mask & (groups == name)], axis=1) for name in sorted(set(groups[mask]))]
        return np.asarray(np.mean(medians, axis=0))

    index = chosen(groups, badness)
    left_out = np.concatenate([errors[index[name]][groups == name] for name in index if name])
    print(f"one slack: {COARSE[index['']]:.2f} on {len(groups)} rows, median error {np.median(errors[index['']]):.1%}")
    for name in (name for name in index if name):
        own = errors[:, groups == name]
        print(f"  without {name}, {own.shape[1]} rows: {COARSE[index[name]]:.2f}, there {np.median(own[index[name]]):.1%}")
    print(f"  left out, all rows: median {np.median(left_out):.1%}")


def alone(rows: list[TableRow], family: str, beside: str) -> None:
    """What one family says, and the errors of another with it, and the other way round."""
    own, other = (np.median(errors_of(rows, (name,))[1], axis=1) for name in (family, beside))
    for name, fitted, left_out in ((family, own, other), (beside, other, own)):
        index = int(np.argmin(fitted))
        print(f"{name}: {COARSE[index]:.2f}, median error {fitted[index]:.1%}; the other with it {left_out[index]:.1%}")


def labels(rows: list[TableRow], family: str) -> None:
    """Labels of a family that are told right."""
    found = [(row, peaks(row, DEVICE)) for row in rows if row.says("source_family") == family and row.says(FITS) in SAID]
    known = [(row, each) for row, each in found if each]
    groups = np.array([f"{row.says('model_name')} {row.says('sequence_length')}" for row, _ in known])
    fits = np.array([row.says(FITS) == "yes" for row, _ in known])
    right = np.array([(each[0] <= each[1]) == yes for (_, each), yes in zip(known, fits, strict=True)]).T

    def badness(mask: NDArray[Any]) -> Array:
        yes, no = (right[:, mask & (fits == each)].mean(axis=1) for each in (True, False))
        return np.asarray(np.where(yes >= LEAST_YES, -no, 2 - yes))

    index = chosen(groups, badness)
    left_out = np.array([right[index[name]][place] for place, name in enumerate(groups)])
    for name, own in (("in sample", right[index[""]]), ("left out", left_out)):
        print(f"{family}, {name}: {own[~fits].sum()} of {(~fits).sum()} no, {own[fits].sum()} of {fits.sum()} yes, {own.mean():.1%}")
    print("  " + ", ".join(f"{name or 'all'} {SLACKS[each]:.2f}" for name, each in index.items()))


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    rows = [row for _, row in read_all([directory / name for name in ("steps.csv", "steps_2026.csv", "memory_2026.csv")], [])]
    shared(rows)
    alone(rows, ALONE, BESIDE)
    labels([row for _, row in read_all([directory / "memory_limits.csv"], [])], "aleph_alpha")


if __name__ == "__main__":
    main()
