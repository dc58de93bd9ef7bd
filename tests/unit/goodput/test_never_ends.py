"""A run that keeps next to nothing of its time never ends: more failures leave less all the same, and no days are told."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.estimator.estimate import estimate
from parsim.goodput.columns import planned_step_s
from parsim.goodput.long_run import whole_of_run
from parsim.goodput.predict import goodput_of
from parsim.goodput.renewal import Cycle, efficiency
from parsim.report.goodput import show_goodput
from parsim.report.results import predict, ranking_document, table
from parsim.report.whole import show_whole

FILE = Path(__file__).parents[3] / "scenarios" / "llama3-405b-goodput.yaml"
MTBF = "failures.rates.device_mtbf"


def test_more_failures_never_leave_more() -> None:
    rates = np.logspace(-6, 3, 500)
    shares = [float(efficiency(Cycle(30.0, 0.0, 600.0, rate), 3600.0)) for rate in rates]
    assert all(more <= less for less, more in pairwise(shares))
    assert shares[-1] == 0.0 and 0.0 < shares[0] < 1.0
    before = [each for each in shares if each > 0]
    assert all(more < less for less, more in pairwise(before))


def test_a_hopeless_run_has_no_days_and_stands_last(capsys: pytest.CaptureFixture[str]) -> None:
    found, shares = [], []
    for mtbf in ("1 s", "10 s", "10000 s", "438000 h"):
        own = parsim.load(FILE, changes={MTBF: mtbf})
        found.append((own, estimate(own, "llama3")))
        shares.append(goodput_of(*found[-1]).goodput)
    assert shares == sorted(shares) and shares[2] < 1e-6 < 0.5 < shares[3]
    steps = [planned_step_s(*each) for each in found]
    assert steps == sorted(steps, reverse=True) and steps[2] > 1e6 * steps[3]
    own, run = found[0]
    kept = goodput_of(own, run)
    assert kept.never_ends and kept.time_s is None and whole_of_run(own, run) is None
    show_whole(own, {"llama3": (run, run)}, "plan")
    show_goodput(own, {"llama3": (kept, ())})
    told = capsys.readouterr().out
    assert "never ends" in told and "llama3: never ends: a run keeps less than 1e-06 of its time" in told and "e+" not in told


def test_a_ranking_by_goodput_takes_hopeless_runs() -> None:
    own = parsim.load(FILE, changes={MTBF: "1 s"})
    space = {"tensor_parallel": 8, "pipeline_parallel": 16, "virtual_pipeline": [2, 4], "recompute_ops": [["activation"]], "zero_stage": 1}
    own = replace(own, plans={})
    ranking = parsim.plan(own, space={**space, "sequence_parallel": True}, objective="goodput", contention=False, top=2)
    assert ranking.rows
    assert all(each["whole_training"] is None for each in ranking_document(own, ranking)["plans"])


def test_the_rows_of_a_hopeless_run_leave_its_days_out() -> None:
    (row,) = table(predict(parsim.load(FILE, changes={MTBF: "1 s"})))
    assert row["goodput_time_s"] is None and "time_s" not in row
