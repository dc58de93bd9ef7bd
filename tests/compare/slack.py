"""How the allocator's slack of stacks was chosen, and errors with sources left out:  python tests/compare/slack.py DIRECTORY

DIRECTORY holds the tables of measurements.  Of stacks that share one slack, what is least in the mean of the medians of families, each
left out in turn; of labels, what tells most `no` right of those that tell 95 % of `yes`, each (model, sequence_length) left out in turn.
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

STEPS = 0.05  # of slack, from 0 to 0.6
SHARED = ("torchtitan", "threads", "bigscience_a100", "bigscience_v100", "oneflow")  # families whose stacks have one slack
LEAST_YES = 0.95
SLACKS = np.arange(0, 0.6 + STEPS / 2, STEPS)
STATED = 0.15  # in stacks.yaml
Array = NDArray[np.float64]


def peaks(row: TableRow, quantity: str) -> tuple[Array, float, int] | None:
    """Peak bytes of the fullest rank with each slack, the slack that its stack has, and what the device holds; None where unknown."""
    if row.faults or missing_features(row) or missing_cells(row):
        return None
    try:
        scenario = scenario_of(row, "")
    except ParsimError:
        return None
    slack = scenario.stack.allocator_slack
    ranks = rank_memory(stages_of(scenario, scenario.plan(PLAN))).of_plan(0)
    held = np.array([sum(parts[name] for name in PARTS[quantity]) for parts in ranks], dtype=np.float64)
    working = np.array([parts["activations"] + parts["transients"] for parts in ranks])
    return np.max(held + (SLACKS[:, None] - slack) * working, axis=1), slack, scenario.cluster.node.accelerator.hbm_capacity_bytes


def chosen(groups: NDArray[Any], badness: Callable[[NDArray[Any]], Array]) -> dict[str, int]:
    """Index of the slack that is chosen on all rows, by "", and on those without each group."""
    masks = {"": np.ones(len(groups), dtype=bool), **{name: groups != name for name in sorted(set(groups))}}
    return {name: int(np.argmin(badness(mask))) for name, mask in masks.items()}


def shared(rows: list[TableRow]) -> None:
    """Errors of the families that share one slack, where no allocated bytes are reported."""
    told = [row for row in rows if row.says("source_family") in SHARED and "peak_memory_bytes" in row.measures]
    found = [(row, peaks(row, quantity_of(row))) for row in told if "fragments" in PARTS[quantity_of(row)]]
    known = [(row, each[0]) for row, each in found if each and each[1] == STATED]
    groups = np.array([row.says("source_family") for row, _ in known])
    errors = np.abs(np.array([peak / row.measures["peak_memory_bytes"] - 1 for row, peak in known])).T

    def badness(mask: NDArray[Any]) -> Array:
        medians = [np.median(errors[:, mask & (groups == name)], axis=1) for name in sorted(set(groups[mask]))]
        return np.asarray(np.mean(medians, axis=0))

    index = chosen(groups, badness)
    left_out = np.concatenate([errors[index[name]][groups == name] for name in index if name])
    print(f"one slack: {SLACKS[index['']]:.2f} on {len(known)} rows, median error {np.median(errors[index['']]):.1%}")
    for name in (name for name in index if name):
        own = errors[:, groups == name]
        print(f"  without {name}, {own.shape[1]} rows: {SLACKS[index[name]]:.2f}, there {np.median(own[index[name]]):.1%}")
    print(f"  left out, all rows: median {np.median(left_out):.1%}")


def labels(rows: list[TableRow], family: str) -> None:
    """Labels of a family that are told right."""
    found = [(row, peaks(row, DEVICE)) for row in rows if row.says("source_family") == family and row.says(FITS) in SAID]
    known = [(row, each) for row, each in found if each]
    groups = np.array([f"{row.says('model_name')} {row.says('sequence_length')}" for row, _ in known])
    fits = np.array([row.says(FITS) == "yes" for row, _ in known])
    right = np.array([(each[0] <= each[2]) == yes for (_, each), yes in zip(known, fits, strict=True)]).T

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
    shared([row for _, row in read_all([directory / name for name in ("steps.csv", "steps_2026.csv", "memory_2026.csv")], [])])
    labels([row for _, row in read_all([directory / "memory_limits.csv"], [])], "aleph_alpha")


if __name__ == "__main__":
    main()
