"""Errors say what, where and the way out, and survive the way back from a worker process."""

from __future__ import annotations

import pickle

import pytest

from parsim.errors import CapacityError, Fault, ParsimError, PlanError, ScenarioError, ScheduleError, UnitError, did_you_mean, nearest


def test_an_error_prints_where_then_what_then_the_remedy_on_a_line_of_its_own():
    assert str(ParsimError("it leaks", "stage 0", "Mend it.")) == "stage 0: it leaks\n  Mend it."


@pytest.mark.parametrize(("parts", "text"), [(("a",), "a"), (("a", "b"), "b: a"), (("a", "", "c"), "a\n  c")])
def test_parts_that_are_empty_leave_no_trace(parts, text):
    assert str(ParsimError(*parts)) == text


@pytest.mark.parametrize("kind", [UnitError, ScenarioError, PlanError, CapacityError, ScheduleError])
def test_every_user_error_is_a_parsim_error(kind):
    assert issubclass(kind, ParsimError)


def test_errors_come_back_whole_from_another_process():
    fault = Fault("a.yaml", 1, 2, "seed", "wrong")
    error = pickle.loads(pickle.dumps(ScenarioError.of([fault])))
    assert error.faults == (fault,) and str(error) == str(fault)
    assert str(pickle.loads(pickle.dumps(PlanError("a", "b", "c")))) == "b: a\n  c"


def test_a_fault_prints_as_compilers_do():
    assert str(Fault("a.yaml", 14, 5, "plans.a", "wrong")) == "a.yaml:14:5: plans.a: wrong"


def test_a_fault_without_a_line_or_place_leaves_them_out():
    assert str(Fault("a.yaml", 0, 0, "", "no such file")) == "a.yaml: no such file"


def test_a_scenario_error_says_all_of_its_faults():
    faults = [Fault("a.yaml", line, 1, "x", "wrong") for line in (1, 2, 3)]
    assert str(ScenarioError.of(faults)).splitlines() == [str(each) for each in faults]


def test_the_nearest_name_is_found_whatever_its_case():
    assert nearest("DGX-A100", ["dgx-a100", "hgx-h100"]) == "dgx-a100"
    assert did_you_mean("zzz", ["dgx-a100"]) == ""
