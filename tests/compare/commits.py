"""Compares what two commits predict and execute: `python tests/compare/commits.py BEFORE_DIR AFTER_DIR [--measurements CSV]`.

A refactor moves no figure.  Both trees read the same scenario files, drawn from a seed and judged legal by the tree before; each figure
is compared with ==, `parsim validate` byte for byte.  Exit 0 where nothing differs, else 1 with a list.  With --cache the figures of the
tree before are kept, so that a second comparison runs the tree after alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

# Names of axes and parts that a later commit calls otherwise: before -> after.  Where both trees use one of them, it is no difference.
NAMES: Final = {"rp": "dp_replicate", "exposed_rp": "exposed_dp_replicate"}
HERE: Final = Path(__file__).resolve().parent
WITNESSES: Final = HERE.parent / "witnesses" / "table5.csv"
MEASUREMENTS: Final = HERE.parents[2] / "shared" / "measurements" / "steps.csv"  # beside the repository, where it exists
NUM_PROCESSES: Final = 2
FILES_A_RUN: Final = 8
MOST_SHOWN: Final = 40

Json = Any


def main() -> int:
    """The exit status: 0 where the trees agree."""
    asked = _arguments()
    cache = _cached(asked)
    with tempfile.TemporaryDirectory() as folder:
        files = _written(Path(folder), cache["scenarios"])
        tables = {name: _file(Path(folder) / name, text) for name, text in cache["tables"].items()}
        if "said" not in cache:
            cache["said"] = _said(asked.before, files, tables)
            if asked.cache:
                asked.cache.write_text(json.dumps(cache))
        after = _said(asked.after, files, tables)
    _tell(cache)
    found = [*differences(renamed(cache["said"]), renamed(after))]
    for line in found[:MOST_SHOWN]:
        print(line)
    print(f"{len(found)} figures differ" if found else "nothing differs")
    return 1 if found else 0


def renamed(value: Json) -> Json:
    """The value with the keys of NAMES as the later commit has them."""
    if isinstance(value, dict):
        return {NAMES.get(key, key): renamed(each) for key, each in value.items()}
    return [renamed(each) for each in value] if isinstance(value, list) else value


def differences(before: Json, after: Json, place: str = "") -> Iterator[str]:
    """A line for each figure that differs, or that one of the two lacks.

    >>> [*differences({"a": [1, 2.0], "b": 3}, {"a": [1, 2.5], "c": 3})]
    ['a.1: 2.0 -> 2.5', 'b: 3 -> nothing', 'c: nothing -> 3']
    """
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            yield from differences(before.get(key, ...), after.get(key, ...), f"{place}.{key}" if place else str(key))
    elif before is ... or after is ... or before != after:
        yield f"{place}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Json) -> str:
    return "nothing" if value is ... else repr(value) if len(repr(value)) < 200 else f"{repr(value)[:200]}..."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, metavar="BEFORE_DIR")
    parser.add_argument("after", type=Path, metavar="AFTER_DIR")
    parser.add_argument("--measurements", type=Path, default=MEASUREMENTS if MEASUREMENTS.exists() else None, metavar="CSV")
    parser.add_argument("--cache", type=Path, metavar="FILE", help="figures of BEFORE_DIR: read where the file is, else written")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--plans", type=int, default=500, help="plans of shipped models")
    parser.add_argument("--executed", type=int, default=120, help="plans of tiny models, which are executed as well")
    return parser.parse_args()


def _cached(asked: argparse.Namespace) -> dict[str, Json]:
    """Scenarios and tables, with what the tree before says of them where the cache has it for the same question.

    Raises:
        SystemExit: the cache answers another question.
    """
    tables = {path.name: path.read_text() for path in (WITNESSES, asked.measurements) if path}
    question = [asked.seed, asked.plans, asked.executed, _commit(asked.before)]
    if asked.cache and asked.cache.exists():
        cache: dict[str, Json] = json.loads(asked.cache.read_text())
        if (cache["question"], cache["tables"]) != (question, tables):
            raise SystemExit(f"{asked.cache} holds another seed, number of plans, commit or table of measurements: remove it")
        return cache
    drawing = [sys.executable, str(HERE / "compare_draw.py"), *map(str, question[:3])]
    drawn = subprocess.run(drawing, env=_environment(asked.before), capture_output=True, text=True, check=True)
    return {"question": question, "tables": tables, "scenarios": json.loads(drawn.stdout)}


def _commit(tree: Path) -> str:
    return subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{tree.resolve()}{os.pathsep}{tree.resolve() / 'kernels'}", "OMP_NUM_THREADS": "1"}


def _written(folder: Path, scenarios: dict[str, list[Json]]) -> list[Path]:
    """Scenario files; JSON is YAML."""
    return [
        _file(folder / f"{size}-{number}.yaml", json.dumps(each, indent=1))
        for size, mappings in scenarios.items()
        for number, each in enumerate(mappings)
    ]


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _said(tree: Path, files: list[Path], tables: dict[str, Path]) -> dict[str, Json]:
    """What a tree says: of each table the exit status and the text of `parsim validate`, and the plans of each file."""
    start, environment = time.monotonic(), _environment(tree)
    validate = [[sys.executable, "-m", "parsim.cli", "validate", "--json", str(path)] for path in tables.values()]
    work = [
        [sys.executable, str(HERE / "compare_work.py"), *map(str, files[n : n + FILES_A_RUN])] for n in range(0, len(files), FILES_A_RUN)
    ]
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        runs = [*pool.map(lambda command: _run(command, environment), [*validate, *work])]
    texts, lines = runs[: len(validate)], [line for run in runs[len(validate) :] for line in run.stdout.splitlines()]
    print(f"{tree}: {time.monotonic() - start:.0f} s")
    return {
        "validate": {name: [run.returncode, run.stdout] for name, run in zip(tables, texts, strict=True)},
        "plans": dict(json.loads(line) for line in lines),
    }


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A finished process; what it said on stderr is shown where it failed."""
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        print(f"{' '.join(command[1:4])} ... ended with {run.returncode}: {run.stderr[-2000:]}")
    return run


def _tell(cache: dict[str, Json]) -> None:
    """What was compared."""
    for name, (status, text) in cache["said"]["validate"].items():
        print(f"validate {name}: exit {status}, {len(text):,} characters")
    said = [figures for plans in cache["said"]["plans"].values() for figures in plans.values()]
    backends = Counter(backend for figures in said for backend in figures)
    errors = Counter(figures[backend]["error"] for figures in said for backend in figures if "error" in figures[backend])
    print(f"{len(said)} plans: {dict(backends)}; {sum('simulate' not in each for each in said)} too long to simulate")
    for error, count in errors.items():
        print(f"  {count} x {error.splitlines()[0]}")
    plans = [plan for files in cache["scenarios"].values() for mapping in files for plan in mapping["plans"].values()]
    for key in ("schedule", "zero_stage", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "recompute", "optimizer"):
        print(f"  {key}: {dict(sorted(Counter(str(plan[key]) for plan in plans).items()))}")
    for key in ("zero_group", "layers_per_stage", "recompute_ops", "offload_optimizer", "sequence_parallel"):
        print(f"  with {key}: {sum(bool(plan.get(key)) for plan in plans)}")
    print(f"  reshard_after_forward false: {sum(not plan['reshard_after_forward'] for plan in plans)}")


if __name__ == "__main__":
    raise SystemExit(main())
