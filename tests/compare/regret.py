"""What the first-ranked plan of each measured sweep costs beyond the best:  python tests/compare/regret.py STEPS.csv

A sweep is rows equal in model shape, devices, sequence and global batch, 8 or more of which are predicted.  Of plans that are predicted
equal, the slowest counts as chosen.  BigScience's V100 rows stand apart: equal plans differ there by 80 %.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

APART = "bigscience_v100"
SAME = (
    "source_family",
    "model_name",
    "num_layers",
    "hidden_size",
    "num_heads",
    "vocab_size",
    "accelerator",
    "num_devices",
    "sequence_length",
)
SAME += ("global_batch", "dtype")
FEWEST = 8


def regret(pairs: list[tuple[float, float]]) -> float:
    """Of (predicted, measured) seconds.

    >>> round(regret([(1.0, 2.0), (1.1, 1.6)]), 6)
    0.25
    """
    first = min(predicted for predicted, _ in pairs)
    chosen = max(measured for predicted, measured in pairs if predicted == first)
    return chosen / min(measured for _, measured in pairs) - 1


def main() -> None:
    """Predict every row and print a line a sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    asked = parser.parse_args()
    with asked.table.open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    done = subprocess.run([sys.executable, "-m", "parsim.cli", "validate", str(asked.table), "--json"], capture_output=True, check=True)
    sweeps: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in json.loads(done.stdout)["rows"]:
        if row["step_error"] is not None:
            sweeps[tuple(rows[row["id"]][key] for key in SAME)].append((row["predicted_step_s"], row["measured_step_s"]))
    found = [(key, len(pairs), regret(pairs)) for key, pairs in sweeps.items() if len(pairs) >= FEWEST]
    for key, count, each in found:
        print(f"{each:6.1%}  of {count:3} plans: {key[0]}, {key[1]}, {key[7]} x {key[6]}, sequence {key[8]}, global batch {key[9]}")
    print(f"{mean(each for key, _, each in found if key[0] != APART):6.1%}  mean, {APART} apart")


if __name__ == "__main__":
    main()
