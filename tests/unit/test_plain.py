"""Results as plain values: documents come back equal, tables hold each row, and what is wrong is told."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import pytest

import parsim
from parsim.errors import NoFeasiblePlan, ParsimError, PlanError
from parsim.estimator.result import Estimate, Shortage
from parsim.parallel.plan import Plan
from parsim.planner import Ranking
from random_plans import drawn

TINY = {"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 16}}


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    return parsim.plan(parsim.from_mapping({**TINY, "plans": {"open": {"tensor_parallel": "auto", "micro_batch": [1, 2]}}}), top=3)


def test_a_result_comes_back_from_its_json(ranking: Ranking) -> None:
    assert Ranking.from_dict(json.loads(json.dumps(ranking.to_dict()))) == ranking
    best = ranking.best
    assert Estimate.from_dict(json.loads(json.dumps(best.to_dict()))) == best


@pytest.mark.parametrize("seed", range(30))
def test_so_does_a_plan(seed: int) -> None:
    plan = drawn(seed).plan
    document = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(document) == plan


def test_a_scenario_takes_the_document_of_a_plan_as_it_is() -> None:
    plan = Plan(data_parallel=4, tensor_parallel=2, recompute_ops=("norm1",), schedule=("0F0 0F1 0B0 0B1",))
    stated = parsim.from_mapping({**TINY, "plans": {"a": json.loads(json.dumps(plan.to_dict()))}})
    assert stated.plan("a") == plan


def test_a_document_of_something_else_is_refused(ranking: Ranking) -> None:
    document = ranking.to_dict()
    with pytest.raises(ParsimError, match="no document of Ranking: num_legal, odd missing or unknown"):
        Ranking.from_dict({**{key: each for key, each in document.items() if key != "num_legal"}, "odd": 1})
    with pytest.raises(PlanError, match=r"no key 'tensor_paralel' .did you mean 'tensor_parallel'"):
        Plan.from_dict({"tensor_paralel": 2})


def test_tables_hold_every_row(ranking: Ranking) -> None:
    rows = [*csv.DictReader(io.StringIO(ranking.to_csv()))]
    assert [float(row["step_s"]) for row in rows] == [each.step_s for each in ranking.rows]
    lines = ranking.table().splitlines()
    assert len(lines) == 4 and lines[0].split()[0] == "place" and "pipeline_parallel" not in lines[0]  # the same in all
    assert ranking._repr_html_().count("<tr>") == 4
    assert f"{ranking.best.step_s:.4g}" in ranking.best.table()


def test_html_escapes_names(ranking: Ranking) -> None:
    assert "&lt;b&gt;" in replace(ranking.best, name="<b>")._repr_html_()


def test_a_data_frame_names_the_extra_that_it_needs(ranking: Ranking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ParsimError, match="needs pandas") as error:
        ranking.to_dataframe()
    assert "parsim-llm[pandas]" in str(error.value)


def test_a_data_frame_has_a_row_a_plan(ranking: Ranking) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = ranking.to_dataframe()
    assert frame["step_s"].tolist() == [each.step_s for each in ranking.rows]


def test_the_error_of_nothing_feasible_carries_its_ranking_from_process_to_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(NoFeasiblePlan("none", "a", "b", 3)))
    assert error.ranking == 3 and str(error) == "a: none\n  b"


def test_a_result_that_says_nothing_of_rows_is_one_of_all_its_fields() -> None:
    lacking = Shortage("device", 5, 3, {"gradients": 4, "weights": 1}, 0)
    assert lacking.to_csv() == "memory,needs_bytes,holds_bytes,parts,stage\ndevice,5,3,gradients=4 weights=1,0\n"
