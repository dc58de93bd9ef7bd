"""What would make intervals look better than they are, or say nothing, is caught by the checks of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import test_runs
import test_spread

from parsim.confidence import Setting, spread
from parsim.validate import intervals, residuals


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    spread.spread_of.cache_clear()
    yield
    spread.spread_of.cache_clear()


def test_an_interval_that_ignores_the_class_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spread.mixture
    monkeypatch.setattr(spread, "mixture", lambda own, setting, figure: real(own, Setting("", setting.accelerator, "", 8), figure))
    with pytest.raises(AssertionError):
        test_runs.test_a_class_has_intervals_of_its_own()


def test_an_interval_that_ignores_the_stack_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spread.mixture
    bare = lambda own, of, figure: real(own, Setting("", of.accelerator, of.kind, of.num_devices), figure)  # noqa: E731
    monkeypatch.setattr(spread, "mixture", bare)
    with pytest.raises(AssertionError):
        test_runs.test_intervals_are_narrower_where_the_stack_is_known(spread.STEP)


def test_an_interval_that_uses_the_source_of_its_own_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spread._others
    monkeypatch.setattr(spread, "_others", lambda figure, without: real(figure, ""))
    with pytest.raises(AssertionError):
        test_runs.test_a_run_that_is_judged_by_its_own_source_is_inside_more_often()


def test_a_row_that_is_judged_by_its_own_source_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "known_runs", lambda: ())
    with pytest.raises(AssertionError):
        test_runs.test_a_row_is_judged_without_its_source_be_it_published_or_new()


def test_a_mixture_that_leaves_out_what_is_around_a_stack_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "PRIOR", 0.001)
    with pytest.raises(AssertionError):
        test_spread.test_a_pool_of_n_runs_counts_n_over_n_and_the_prior()


def test_runs_of_one_source_that_count_as_independent_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "ALIKE", 0.0)
    with pytest.raises(AssertionError):
        test_spread.test_runs_of_one_source_are_worth_less_than_as_many_of_several()


def test_a_run_that_counts_with_the_error_of_a_figure_that_saw_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_error_of", lambda run, figure, setting: getattr(run, figure))
    with pytest.raises(AssertionError):
        test_spread.test_a_run_counts_as_figures_that_did_not_see_it_predict_it()


def test_a_peak_of_tensors_that_counts_as_held_memory_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "figure_of", lambda quantity: "held")
    monkeypatch.setattr(residuals, "figure_of", lambda quantity: "held")
    with pytest.raises(AssertionError):
        test_runs.test_a_peak_that_a_stack_logs_of_its_tensors_is_compared_as_allocated()
