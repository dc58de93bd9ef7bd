"""CPU seconds of everyday commands, of two checkouts in turns:  python tests/benchmarks/bench_commands.py BEFORE_DIR [AFTER_DIR]

User and system time together, as the kernel counts them for each process; medians, and the median of the ratios of neighbours in time.
Each checkout has its own bytecode, written by a first run that does not count, as an installed package has it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from clean import table

HERE = Path(__file__).resolve().parents[2]
SCENARIO = HERE / "scenarios" / "tiny.yaml"
COMMANDS = {  # with what the issue asked of each: the share of the CPU time before
    f"check {SCENARIO}": 0.4,
    f"run {SCENARIO}": 0.45,
    f"run {SCENARIO} --json": 0.25,
    "list nodes": None,
    "--help": None,
}


def cpu_s(tree: Path, command: str, folder: Path) -> float:
    """User and system seconds of a command, run where its files do not matter."""
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "kernels"))), "PYTHONPYCACHEPREFIX": str(folder / tree.name)}
    environment = {**os.environ, **paths}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "parsim.cli", *command.split()], cwd=folder, env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: parsim {command} ended with {done.returncode}\n{done.stderr.decode()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, metavar="BEFORE_DIR")
    parser.add_argument("after", type=Path, nargs="?", default=HERE, metavar="AFTER_DIR")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    trees, rows = (asked.before.resolve(), asked.after.resolve()), []
    with tempfile.TemporaryDirectory() as name:
        for command, limit in COMMANDS.items():
            turns = [[cpu_s(tree, command, Path(name)) for tree in trees] for _ in range(asked.rounds + 1)][1:]
            before, after = (median(each) for each in zip(*turns, strict=True))
            ratio = median(after / before for before, after in turns)
            shown = command.replace(f"{HERE}/", "")
            rows.append([shown, f"{before:.2f}", f"{after:.2f}", f"{ratio:.2f}", "" if limit is None else f"{limit:.2f}"])
    print(table(["parsim", "before, CPU s", "after", "ratio", "at most"], rows))


if __name__ == "__main__":
    main()
