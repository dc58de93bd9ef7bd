"""A factor is what its rows say, less the fewer they are and the fewer people measured them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parsim.confidence import shrink as shrinking
from parsim.confidence.shrink import Deviations, Evidence, deviations_of, evidence, fit, shrink

EVEN = Deviations(row=0.1, source=0.1, stack=0.1)


def step_s(rate: float) -> float:
    """Seconds of a step of which 0.5 s of 0.8 s are compute at the default rate."""
    return 0.5 / rate + 0.3


def row(log_ratio: float, source: str = "one", group: str = "model") -> Evidence:
    return Evidence(source, group, log_ratio, 1.0)


def test_the_factor_is_found_again_whatever_share_of_a_step_is_compute() -> None:
    measured = step_s(0.7)
    slower = evidence("one", "a", measured, step_s(1.0), step_s(0.7), 0.7)  # the secant ends where the answer lies
    bound = Evidence("one", "b", 0.5, 0.0)  # a step that is no compute says nothing of it
    assert fit([slower, bound]) == pytest.approx(0.7)
    assert fit([bound]) == 1.0


def test_secants_converge_in_a_few_steps() -> None:
    factor = 0.9
    for _ in range(4):
        factor = fit([evidence("one", "a", step_s(0.6), step_s(1.0), step_s(factor), factor)])
    assert factor == pytest.approx(0.6, rel=1e-3)


def test_one_row_off_by_half_moves_nothing() -> None:
    assert fit([row(0.1), row(0.1), row(0.1), row(0.7)]) == pytest.approx(np.exp(-0.1))


def test_what_is_kept_is_the_posterior_mean() -> None:
    # One row of variance 0.01 + 0.01 against a default of variance 0.01: a third.  Two sources: 0.01 beside 0.01, a half.
    # Two rows of one source: 0.01 + 0.005, so 0.01 / 0.025.
    assert shrink([row(0.3)], EVEN).weight == pytest.approx(1 / 3)
    assert shrink([row(0.3), row(0.3, "two")], EVEN).weight == pytest.approx(1 / 2)
    assert shrink([row(0.3), row(0.3)], EVEN).weight == pytest.approx(2 / 5)
    assert np.log(shrink([row(0.3)], EVEN).factor) == pytest.approx(-0.1)


def test_however_many_rows_one_source_is_never_sure() -> None:
    assert shrink([row(0.3)] * 1000, EVEN).weight == pytest.approx(1 / 2, abs=1e-3)  # 0.01 against 0.01 + 0.01 / 1000


def test_rows_left_out_are_scored_without_their_source() -> None:
    rows = [row(0.2, "one"), row(0.2, "one"), row(0.2, "one"), row(-0.2, "two")]
    sure = Deviations(row=1e-6, source=0.0, stack=1.0)
    found = shrink(rows, sure)
    assert found.left_out_by == "source"
    assert found.left_out_error == pytest.approx(1 - np.exp(-0.4))  # of three rows: "two" alone would slow them down by 0.4
    assert found.default_error == pytest.approx(1 - np.exp(-0.2))


def test_groups_are_left_out_where_there_is_one_source() -> None:
    found = shrink([row(0.1, group="a"), row(0.1, group="b")], Deviations(1e-6, 0.0, 1.0))
    assert (found.left_out_by, found.left_out_error) == ("group", pytest.approx(0.0, abs=1e-9))


def test_spreads_of_rows_sources_and_stacks_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    true = Deviations(row=0.04, source=0.06, stack=0.15)
    stacks = []
    for _ in range(60):
        stack = true.stack * rng.normal()
        centres = {f"source {each}": stack + true.source * rng.normal() for each in range(4)}
        stacks.append([row(-(centre + true.row * rng.normal()), source) for source, centre in centres.items() for _ in range(10)])
    found = deviations_of(stacks)
    assert found.row == pytest.approx(true.row, rel=0.1)  # 2,400 rows
    assert found.source == pytest.approx(true.source, rel=0.15)  # 240 sources
    assert found.stack == pytest.approx(true.stack, rel=0.25)  # 60 stacks


def _source_left_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shrinking, "_part", lambda row, by: "")


def _sources_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shrinking.Deviations, "rows_in_effect", lambda self, num_rows: float(np.sum(num_rows)))


def _step_scaled_as_a_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shrinking, "evidence", lambda source, group, measured, default, *_: row(np.log(measured / default), source, group))


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (_source_left_in, test_rows_left_out_are_scored_without_their_source),
        (_sources_not_told_apart, test_however_many_rows_one_source_is_never_sure),
        (_step_scaled_as_a_whole, test_the_factor_is_found_again_whatever_share_of_a_step_is_compute),
    ],
)
def test_mutants_are_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    monkeypatch.setitem(globals(), "evidence", shrinking.evidence)
    with pytest.raises((AssertionError, KeyError)):
        test()
