"""CPU seconds of `parsim plan`, whole process, of two checkouts in turns:  python tests/benchmarks/bench_planner.py BEFORE_DIR [AFTER_DIR]

GPT-3 175B on 1,024 A100 (14,028 legal plans), and a 1T model on 102,400; `--million` adds a space of 1.3 million plans, this tree alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from clean import table

HERE = Path(__file__).resolve().parents[2]
AXES = "tensor_parallel: auto, pipeline_parallel: auto, virtual_pipeline: auto, sequence_parallel: [false, true], micro_batch: auto"
AGAIN = "recompute: [none, selective, full]"
WIDE = "zero_stage: [0, 1, 2, 3], zero_group: auto, recompute_every: auto, rank_order: auto, reshard_after_forward: [false, true]"
SCENARIO = """
model: {model}
cluster: {{node: dgx-a100-80gb, num_nodes: {nodes}, fabric: ib-hdr-8rail}}
batch: {{global_batch: {batch}, sequence_length: 2048, dtype: bf16}}
stack: megatron-2022
plans: {{search: {{{axes}}}}}
"""
SPACES = {
    "175B on 1,024": SCENARIO.format(model="gpt3-175b", nodes=128, batch=1536, axes=f"{AXES}, {AGAIN}, zero_stage: [0, 1]"),
    "1T on 102,400": SCENARIO.format(model="megatron-1t", nodes=12_800, batch=12_800, axes=f"{AXES}, {AGAIN}, zero_stage: [0, 1]"),
}
MILLION = SCENARIO.format(model="gpt3-175b", nodes=128, batch=1536, axes=f"{AXES}, {AGAIN}, {WIDE}")


def cpu_s(tree: Path, scenario: str) -> tuple[float, str]:
    """User and system seconds of a whole process, and the line that counts its plans."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "kernels")))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(scenario)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "parsim.cli", "plan", str(path)], cwd=folder, env=environment, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    line = next(line for line in done.stdout.splitlines() if "legal plans" in line)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, line


def main() -> None:
    """Run each space on both trees and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=HERE)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--only-after", action="store_true", help="leave the earlier checkout out: it may take hours on the second space")
    asked = parser.parse_args()
    rows = []
    for name, scenario in SPACES.items():
        after, counts = cpu_s(asked.after.resolve(), scenario)
        before = None if asked.only_after else cpu_s(asked.before.resolve(), scenario)[0]
        rows.append(
            [name, counts, "" if before is None else f"{before:.1f}", f"{after:.2f}", "" if before is None else f"1/{before / after:.0f}"]
        )
    if asked.million:
        after, counts = cpu_s(asked.after.resolve(), MILLION)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        rows.append(["a million", counts, "", f"{after:.1f}", f"{peak:.2f} GiB at most"])
    print(table(["space", "plans", "before, CPU s", "after", "ratio"], rows))


if __name__ == "__main__":
    main()
