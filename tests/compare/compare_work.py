"""What one tree says of scenario files, as JSON on stdout: run by commits.py in each tree, through the public API alone.

A plan that a back-end refuses, or an API that is gone, stands as the error's text: it is compared like a figure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import parsim

MOST_LAYER_PASSES: Final = 5_700  # layers x micro_batches of a simulated plan: some 150,000 events
NUM_STEPS: Final = 3  # that a small plan trains


def said_of(path: Path) -> dict[str, Any]:
    """The figures of every plan of a file, by plan, then by back-end; instead the faults of a file that the tree refuses."""
    try:
        scenario = parsim.load(path)
    except parsim.ParsimError as error:
        return {"refused": {"load": {"error": str(error).replace(str(path), path.name)}}}
    figures = _small if path.name.startswith("small") else _large
    return {name: figures(scenario, name) for name in scenario.plans}


def _large(scenario: Any, name: str) -> dict[str, Any]:
    found = {"estimate": _tried(_estimated, scenario, name)}
    passes = scenario.model.num_layers * scenario.plan(name).num_micro_batches(scenario.batch)
    if passes <= MOST_LAYER_PASSES:
        found["simulate"] = _tried(_simulated, scenario, name)
        found["contention"] = _tried(_simulated, scenario, name, contention=True)
    return found


def _small(scenario: Any, name: str) -> dict[str, Any]:
    return {**_large(scenario, name), "execute": _tried(_executed, scenario, name)}


def _tried(work: Callable[..., dict[str, Any]], *args: Any, **options: Any) -> dict[str, Any]:
    try:
        return work(*args, **options)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _estimated(scenario: Any, name: str) -> dict[str, Any]:
    said = parsim.estimate(scenario, name)
    return {
        "step_ps": round(said.step_s * 1e12),
        "mfu": float(said.mfu),
        "hfu": float(said.hfu),
        "peak_bytes": int(said.peak_bytes),
        "breakdown_s": {key: float(value) for key, value in said.breakdown_s.items()},
        "critical_rank": int(said.critical_rank),
        "memory_bytes": [_ints(parts) for parts in said.memory_bytes],
        "flops": list(map(int, said.flops)),
        "hbm_bytes": list(map(int, said.hbm_bytes)),
        "sent_bytes": [_ints(axes) for axes in said.sent_bytes],
        "layers": list(map(int, said.layers)),
        "num_micro_batches": int(said.num_micro_batches),
    }


def _simulated(scenario: Any, name: str, *, contention: bool = False) -> dict[str, Any]:
    said = parsim.simulate(scenario, name, contention=contention)
    return {"step_ps": int(said.step_ps), "peak_bytes": list(map(int, said.peak_bytes)), "flops": list(map(int, said.flops))}


def _executed(scenario: Any, name: str) -> dict[str, Any]:
    said = parsim.execute(scenario, name, num_steps=NUM_STEPS)
    return {
        "end_ps": int(said.end_ps),
        "losses": list(map(float, said.losses)),
        "flops": [int(ledger.flops) for ledger in said.ledgers],
        "sent_bytes": [_ints(ledger.sent_bytes) for ledger in said.ledgers],
        "peak_bytes": [int(ledger.peak_bytes) for ledger in said.ledgers],
    }


def _ints(counts: Any) -> dict[str, int]:
    return {str(key): int(value) for key, value in counts.items()}


if __name__ == "__main__":
    for file in sys.argv[1:]:
        json.dump([Path(file).name, said_of(Path(file))], sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()
