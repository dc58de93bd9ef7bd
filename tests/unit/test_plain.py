"""Results as plain values: documents come back equal, tables hold each row, and what is wrong is told."""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.arguments import check_value
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


def test_so_does_every_other_answer(ranking: Ranking, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({**TINY, "plans": {"a": {"tensor_parallel": 2}, "b": {"micro_batch": 1}}}))
    scenario = parsim.load(tmp_path / "s.json", changes={"training.total_tokens": "1M"})
    first, second = (parsim.estimate(scenario, name) for name in "ab")
    saved = parsim.load_plan(parsim.save_plan(scenario, first, tmp_path / "plan.json"))
    advice = parsim.advise(scenario, "a", noise_scale=10, reference=parsim.Reference(8, 1e-3))
    answers = (parsim.whatif(scenario, "a"), parsim.size(scenario, within="1 h"), advice, parsim.compare(first, second), saved)
    for each in answers:
        assert type(each).from_dict(json.loads(json.dumps(each.to_dict()))) == each
        rows = [*csv.DictReader(io.StringIO(each.to_csv()))]
        assert len(rows) == len(each.records()) and each.table() and each._repr_html_().startswith("<table>")


def test_arrays_and_events_come_back_equal_and_what_is_equal_by_value_has_no_hash() -> None:
    scenario = parsim.from_mapping({**TINY, "plans": {"a": {"tensor_parallel": 2}, "b": {"pipeline_parallel": 2}}})
    several = parsim.estimates(scenario, [*scenario.plans.values()])
    trace = parsim.simulate(scenario, "b", contention=True)
    for each in (several, trace):
        assert type(each).from_dict(json.loads(json.dumps(each.to_dict()))) == each
        assert [*csv.DictReader(io.StringIO(each.to_csv()))] and len(each.records()) == 2 and each.table()
    assert several != parsim.estimates(scenario, [*scenario.plans.values()][::-1]) and trace != parsim.simulate(scenario, "b")
    one, same, other = (parsim.execute(scenario, "a", seed=seed) for seed in (0, 0, 1))
    assert one == same == pickle.loads(pickle.dumps(one)) and one != other and one != several
    for each in (several, one, parsim.estimate(scenario, "a"), scenario):
        with pytest.raises(TypeError, match="unhashable type"):
            hash(each)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("layers", 5, "Estimate.layers = 5 must be a list"),
        ("layers", ["a"], "Estimate.layers = 'a' must be a whole number"),
        ("step_s", "5", "Estimate.step_s = '5' must be a number"),
        ("memory_bytes", [{"weights": True}], r"Estimate.memory_bytes.weights = True must be a whole number"),
        ("plan", 5, "document = 5 must be a mapping"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(ranking: Ranking, field: str, value: object, said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        Estimate.from_dict({**ranking.best.to_dict(), field: value})


PUBLIC = sorted(name for name in parsim.__all__ if inspect.isfunction(getattr(parsim, name)))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_says_what_it_takes(name: str) -> None:
    work, stranger = getattr(parsim, name), frozenset([object()])
    given = [stranger for each in inspect.signature(work).parameters.values() if each.default is each.empty]
    with pytest.raises(ParsimError, match=rf"^{name}: \w+ = .* must be "):
        work(*given)


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, (1, np.int64(3)), (1.5, True, "1")),
        (float, (1, 2.5, np.float32(1)), ("1", None, False)),
        (int | None, (None, 2), (1.5,)),
        (Sequence[int], ([1], (1, 2), range(3)), ("12", ["1"], 5)),
        (Mapping[str, object], ({"a": 1},), ({1: 1}, [])),
        (Literal["a", "b"], ("a",), ("c",)),
        (Callable[[int], None], (print,), (5,)),
    ],
)
def test_an_annotation_means_what_it_says(hint: Any, good: Sequence[object], bad: Sequence[object]) -> None:
    for each in good:
        check_value("x", each, hint)
    for each in bad:
        with pytest.raises(ParsimError, match=r"^x = .* must be "):
            check_value("x", each, hint)


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
    best = ranking.best.estimate.to_dict() if hasattr(ranking.best, "estimate") else ranking.best.to_dict()
    with pytest.raises(ParsimError, match=r"step_interval_s = \[1.0\] must have 2 values"):
        Estimate.from_dict({**best, "step_interval_s": [1.0]})


@pytest.mark.parametrize(
    ("field", "said"),
    [
        *(("step_interval_s", each) for each in ([2.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [1.0, math.nan], [1.0, math.inf])),
        *(("peak_interval_bytes", each) for each in ([2, 1], [-1, 1])),
        *(("fit_probability", each) for each in (-0.1, 1.1, math.nan)),
    ],
)
def test_an_interval_is_from_a_lower_end_to_a_higher_and_a_probability_from_0_to_1(ranking: Ranking, field: str, said: object) -> None:
    best = ranking.best.estimate if hasattr(ranking.best, "estimate") else ranking.best
    assert Estimate.from_dict(best.to_dict()) == best
    with pytest.raises(ParsimError, match=f"{field} = .* is no (interval|probability)"):
        Estimate.from_dict({**best.to_dict(), field: said})


def test_tables_hold_every_row(ranking: Ranking) -> None:
    rows = [*csv.DictReader(io.StringIO(ranking.to_csv()))]
    assert [float(row["step_s"]) for row in rows] == [each.step_s for each in ranking.rows]
    lines = ranking.table().splitlines()
    assert len(lines) == 4 and lines[0].split()[:5] == ["#", "tp", "pp", "dp", "mbs"]
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
