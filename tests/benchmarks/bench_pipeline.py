"""CPU seconds of estimate and simulate, of two checkouts in turns:  python tests/benchmarks/bench_pipeline.py BEFORE_DIR [AFTER_DIR]

GPT-3 175B under 1F1B, 64 stages of tp 8, 512 micro_batches.  Each sample is a fresh process, so that nothing is remembered; imports and
loading are apart: a small model goes the same way first.  Medians, and the median of the ratios of neighbours in time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from clean import table

HERE = Path(__file__).resolve().parents[2]
GOALS = {"estimate": 1 / 15, "simulate": 1 / 12}  # what the issue asked of each
ONE = """
import time
from msgspec.structs import replace
from parsim import Plan, estimate, load, simulate
small = load("scenarios/digits-mlp.yaml")
scenario = load("scenarios/table5-175b.yaml")
batch, cluster = replace(scenario.batch, global_batch=512), replace(scenario.cluster, num_nodes=64)
large = replace(scenario, batch=batch, cluster=cluster)
for read in (estimate, simulate):
    read(small, Plan(data_parallel=2))
for read in (estimate, simulate):
    begin = time.process_time()
    read(large, Plan(tensor_parallel=8, pipeline_parallel=64, micro_batch=1))
    print(time.process_time() - begin)
"""


def cpu_s(tree: Path) -> dict[str, float]:
    """CPU seconds of each reader in one process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "kernels")))}
    done = subprocess.run([sys.executable, "-c", ONE], cwd=tree, env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr.decode()}")
    return dict(zip(GOALS, map(float, done.stdout.split()), strict=True))


def main() -> None:
    """Sample both trees in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=HERE)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    seen = [(cpu_s(asked.before.resolve()), cpu_s(asked.after.resolve())) for _ in range(asked.rounds)]
    rows = []
    for name, goal in GOALS.items():
        before, after = (median(each[side][name] for each in seen) for side in (0, 1))
        share = median(later[name] / earlier[name] for earlier, later in seen)
        met = "met" if share <= goal else "not met"
        rows.append([name, f"{before:.3f}", f"{after:.3f}", f"1/{1 / share:.1f}", f"1/{1 / goal:.0f}", met])
    print(table(["CPU seconds", "before", "after", "ratio", "goal", ""], rows))


if __name__ == "__main__":
    main()
