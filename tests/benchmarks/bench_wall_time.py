"""Predicted against measured step times of models that nobody calibrated on: python -m pytest tests/benchmarks/bench_wall_time.py -s

The time of a step of one process, and of two (dp2, tp2, pp2), in float32.  Calibrates first (or reads the file in PARSIM_MACHINE).
Samples that waited for a core are dropped; a plan without enough clean ones is a SKIP, and says nothing.
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from msgspec import Struct

from parsim.calibrate.calibration import calibrate
from parsim.calibrate.machine import build_node, load_node, num_cores
from parsim.calibrate.samples import ENOUGH, Samples, at_full_pace
from parsim.calibrate.wall import RULE, StepTime, on, sample_steps, verdict
from parsim.cluster.cluster import Node
from parsim.scenario import Scenario, from_mapping

GOAL_MEDIAN, GOAL_P90, GOAL_ORDER = 0.05, 0.10, 0.10
SECONDS_A_PLAN = float(os.environ.get("PARSIM_SECONDS", "2"))  # of a round
ROUNDS, PLENTY = int(os.environ.get("PARSIM_ROUNDS", "3")), 12  # samples of a plan that has so many clean ones are enough


class Model(Struct, frozen=True):
    name: str
    row: dict[str, object]
    sequences: int  # of a micro_batch, one process
    sequence_length: int


def gpt(hidden: int, layers: int, heads: int, sequences: int, tokens: int, **other: object) -> Model:
    row = {"num_layers": layers, "hidden_size": hidden, "num_heads": heads, "vocab_size": 512, "max_positions": 256, "dropout": 0.0}
    return Model(f"gpt-{hidden}x{layers}", {**row, "name": f"gpt-{hidden}", "source": "of this study", **other}, sequences, tokens)


def bert(hidden: int, layers: int, heads: int, sequences: int, tokens: int) -> Model:
    encoder = {"causal": False, "norm_last": True, "num_token_types": 2, "head": "masked_token", "name": f"bert-{hidden}"}
    return Model(f"bert-{hidden}x{layers}", {**gpt(hidden, layers, heads, sequences, tokens).row, **encoder}, sequences, tokens)


def mlp(hidden: int, ffn: int, layers: int, rows: int) -> Model:
    row = {"family": "mlp", "num_layers": layers, "num_features": 64, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_labels": 10}
    return Model(f"mlp-{hidden}x{layers}", {**row, "name": f"mlp-{hidden}", "source": "of this study"}, rows, 1)


# None has the width of a model that `calibrate` trains, and none was looked at while its laws were chosen.
MODELS = (
    gpt(80, 3, 4, 3, 48),
    gpt(144, 2, 4, 4, 56),
    gpt(224, 2, 4, 2, 112),
    gpt(320, 2, 8, 2, 80),
    gpt(416, 2, 8, 2, 96),
    gpt(640, 2, 10, 1, 96),
    bert(112, 3, 4, 4, 40),
    bert(304, 2, 8, 2, 72),
    mlp(160, 640, 3, 80),
    mlp(384, 768, 2, 160),
    mlp(640, 1280, 2, 192),
)
PLANS = {
    "one": {},
    "dp2": {"data_parallel": 2},
    "tp2": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
}


def here(model: Model, name: str, node: Node) -> Scenario:
    """One plan of two micro_batches a process; pp2 cuts them in half, so that its stages overlap."""
    degrees = PLANS[name]
    ranks = int(np.prod([1, *degrees.values()]))
    pieces = 2 if name == "pp2" and model.sequences % 2 == 0 else 1
    sequences = 2 * model.sequences * degrees.get("data_parallel", 1)
    scenario = from_mapping(
        {
            "model": model.row,
            "cluster": {"node": {"base": "one-cpu-generic", "name": "cores", "devices_per_node": ranks, "source": "of this study"}},
            "batch": {"global_batch": sequences, "sequence_length": model.sequence_length, "dtype": "fp32"},
            "plans": {name: {**degrees, "micro_batch": model.sequences // pieces}},
        }
    )
    return on(scenario, node)


def machine() -> Node:
    if path := os.environ.get("PARSIM_MACHINE"):
        return load_node(Path(path))
    calibration = calibrate()
    if calibration.lacking:
        pytest.skip(f"no calibration: too few clean samples of {', '.join(calibration.lacking)}")
    return build_node(calibration.row)


def num_ranks(case: tuple[str, str]) -> int:
    return 1 if case[1] == "one" else 2


def test_step_times_of_unseen_models() -> None:
    node = machine()
    print(f"\n{node.name}: {node.source}\n{RULE}")
    pairs = [(model, name) for model in MODELS for name in PLANS]
    cases = {(model.name, name): here(model, name, node) for model, name in pairs if num_ranks((model.name, name)) <= num_cores()}
    samples, paces_s = {case: Samples() for case in cases}, node.accelerator.paces_s
    for _ in range(ROUNDS):
        for case, kept in at_full_pace(samples, num_ranks, paces_s).items():
            if len(kept.seconds) < PLENTY:
                samples[case].join(sample_steps(cases[case], case[1], SECONDS_A_PLAN))
    verdicts = {case: verdict(case[1], cases[case], kept) for case, kept in at_full_pace(samples, num_ranks, paces_s).items()}
    for (model, name), each in verdicts.items():
        seen = f"SKIP: {each.skipped}" if each.error is None else f"{each.measured_s * 1e3:8.2f} ms {each.error:+7.1%}"
        counts = f"{each.num_kept} of {each.num_kept + each.num_dropped} clean"
        print(f"{model:12} {name}  predicted {each.predicted_s * 1e3:8.2f} ms  measured {seen}  ({counts})")
    clean = {case: each for case, each in verdicts.items() if each.error is not None}
    if not clean:
        pytest.skip(f"no clean sample of any plan: others kept the {num_cores()} cores busy")
    report(clean, len(cases))


def report(clean: dict[tuple[str, str], StepTime], num_cases: int) -> None:
    for label in ("all", *PLANS):
        errors = np.abs([each.error for (_, plan), each in clean.items() if label in ("all", plan)])
        if errors.size:
            median, p90, most = np.median(errors), np.quantile(errors, 0.9), np.max(errors)
            print(f"{label:4} {errors.size:3} plans: |error| median {median:.1%}, p90 {p90:.1%}, most {most:.1%}")
    pairs = [(a, b) for (ka, a), (kb, b) in combinations(clean.items(), 2) if ka[0] == kb[0]]
    apart = [(a, b) for a, b in pairs if abs(a.measured_s / b.measured_s - 1.0) > GOAL_ORDER]
    right = sum((a.predicted_s < b.predicted_s) == (a.measured_s < b.measured_s) for a, b in apart)
    print(f"order of the plans of a model: right in {right} of {len(apart)} pairs that differ by more than {GOAL_ORDER:.0%}")
    every = np.abs([each.error for each in clean.values()])
    met = np.median(every) <= GOAL_MEDIAN and np.quantile(every, 0.9) <= GOAL_P90 and right == len(apart)
    said = "met" if met else "not met"
    if 2 * len(clean) < num_cases:  # the few that were quiet say nothing of the others
        said = "not judged"
    goal = f"median <= {GOAL_MEDIAN:.0%}, p90 <= {GOAL_P90:.0%}, order right"
    print(f"goal ({goal}): {said}, {len(clean)} of {num_cases} plans have {ENOUGH} clean samples")
