"""Intervals by hand: which runs count how much, what lies between them, and what makes an interval wider."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from parsim import from_mapping
from parsim.confidence import ComparedRun, ErrorSpread, Setting, setting_of, verdict
from parsim.confidence.runs import ALLOCATED, HEADER, STEP, text_of
from parsim.confidence.shrink import DEVIATIONS
from parsim.confidence.spread import ALIKE, ASSUMED, HIGH, LOW, MORE_DEVICES, OTHER_ACCELERATOR, accelerators_apart, mixture, pair_spread_of

OURS = Setting("mine", "h100", "dense", 8)


def run(
    step: float, source: str = "a", stack: str = "mine", accelerator: str = "h100", kind: str = "dense", devices: int = 8
) -> ComparedRun:
    return ComparedRun(f"{source}{step}", source, stack, accelerator, kind, devices, 0, "", step=step)


def expected(runs: Sequence[ComparedRun], setting: Setting = OURS) -> ErrorSpread:
    return mixture(sorted(runs, key=lambda each: each.step or 0.0), setting, STEP)


def test_of_runs_that_count_alike_percentiles_lie_between_their_middles() -> None:
    # Five equal shares, whose middles are 0.1, 0.3, 0.5, 0.7, 0.9.
    found = expected([run(each) for each in (-0.2, -0.1, 0.0, 0.1, 0.4)])
    assert found.shares == pytest.approx((0.1, 0.3, 0.5, 0.7, 0.9), abs=1e-12)
    assert [found.quantile(share) for share in (0.1, 0.4, 0.8, 0.9)] == pytest.approx([-0.2, -0.05, 0.25, 0.4], abs=1e-12)
    assert found.quantile(0.01) == -0.2 and found.quantile(0.99) == 0.4  # no further than the last


def test_a_pool_of_n_runs_counts_n_over_n_and_the_prior() -> None:
    own, others = [run(0.01 * each) for each in range(10)], [run(1 + 0.01 * each, stack="other", source="b") for each in range(30)]
    found = expected([*own, *others])
    ten, thirty = 10 / (1 + 10 / 9), 30 / (1 + 30 / 9)  # what so many of one source are worth
    around = 6 / (ten + 6)  # what is left to the pool around
    stack = 1 - around**2  # first those on this accelerator, then those of the stack, which here are the same
    below = stack + (1 - stack) * ten / (ten + thirty)
    assert found.below(0.5) == pytest.approx(below, abs=0.03)  # half a run to either side
    assert (found.level, found.num_runs, found.sources) == ("stack", 10, ("a",))
    assert found.weight == pytest.approx(stack, rel=1e-12)


def test_runs_of_a_stack_on_another_accelerator_count_less_than_those_on_the_same() -> None:
    runs = [run(0.01 * each, source="a") for each in range(9)] + [run(1 + 0.01 * each, source="b", accelerator="b200") for each in range(9)]
    size = 9 / (1 + 9 / 9)
    assert expected(runs).below(0.5) == pytest.approx(size / (size + 6) + 6 / (size + 6) / 2, abs=0.03)
    assert expected(runs, Setting("mine", "b200", "dense", 8)).below(0.5) == pytest.approx(6 / (size + 6) / 2, abs=0.03)


def test_runs_of_one_source_are_worth_less_than_as_many_of_several() -> None:
    """As the factors of stacks are shrunk: the same deviations of sources and rows."""
    assert pytest.approx((DEVIATIONS.source / DEVIATIONS.row) ** 2, rel=1e-12) == ALIKE
    many, few = [run(0.001 * each, source="a") for each in range(90)], [run(0.5 + 0.01 * each, source=f"b{each}") for each in range(9)]
    below = 90 / (1 + 90 / 9)
    assert expected([*many, *few]).below(0.3) == pytest.approx(below / (below + 9 / (1 + 1 / 9)), abs=0.03)


def test_a_run_counts_as_figures_that_did_not_see_it_predict_it() -> None:
    fitted = [replace(run(0.0, source=f"a{each}"), step_unseen=0.1, step_left_out=0.3) for each in range(5)]
    assert expected(fitted).quantile(HIGH) == 0.1
    assert expected(fitted, Setting("other", "h100", "dense", 8)).quantile(HIGH) == 0.3


def test_a_run_that_assumed_something_teaches_less_of_plans_that_assume_nothing() -> None:
    sure, unsure = ([replace(run(each), num_assumed=count) for each in (-0.2, 0.0, 0.3)] for count in (0, 1))
    assert expected(unsure).quantile(HIGH) == pytest.approx(expected(sure).quantile(HIGH) / ASSUMED)
    assert expected(unsure, replace(OURS, num_assumed=1)).quantile(HIGH) == pytest.approx(expected(sure).quantile(HIGH))


def test_an_interval_holds_the_prediction_even_where_all_runs_were_slower() -> None:
    low, high = expected([run(each) for each in (0.1, 0.2, 0.3)]).around(10.0)
    assert low == 10.0 and high == pytest.approx(10 * math.exp(0.3), rel=1e-12)


def test_what_lies_below_an_error_is_the_inverse_of_the_percentile() -> None:
    found = expected([run(each) for each in (-0.2, -0.1, 0.05, 0.1, 0.4)])
    for share in (0.15, 0.3, 0.62, 0.85):
        assert found.below(found.quantile(share)) == pytest.approx(share, abs=1e-12)


def test_runs_of_another_class_count_less_than_those_of_the_same() -> None:
    runs = [run(0.01 * each, source="a") for each in range(40)] + [run(0.02 * each, source="b", kind="experts") for each in range(40)]
    dense, experts = (expected(runs, Setting("", "h100", kind, 8)).quantile(HIGH) for kind in ("dense", "experts"))
    assert dense < 0.6 < experts and expected(runs, Setting("", "h100", "dense", 8)).level == "class"


def test_of_an_unknown_stack_intervals_are_wider() -> None:
    tight = [run(0.002 * each - 0.04) for each in range(40)]
    loose = [run(0.02 * each - 0.4, stack=f"s{each % 5}", source=f"s{each % 5}") for each in range(40)]
    known, unknown = (expected([*tight, *loose], Setting(stack, "h100", "dense", 8)) for stack in ("mine", ""))
    assert known.quantile(0.9) - known.quantile(0.1) < unknown.quantile(0.9) - unknown.quantile(0.1)


@pytest.mark.parametrize(
    ("setting", "factor"),
    [
        (Setting("mine", "h100", "dense", 8), 1.0),
        (Setting("mine", "h100", "dense", 9), MORE_DEVICES),
        (Setting("mine", "b200", "dense", 8), OTHER_ACCELERATOR),
        (Setting("mine", "h100", "dense", 8, 2), ASSUMED**2),
        (Setting("mine", "b200", "dense", 16, 1), OTHER_ACCELERATOR * MORE_DEVICES * ASSUMED),
    ],
)
def test_an_accelerator_a_size_and_an_assumption_that_no_run_had_widen(setting: Setting, factor: float) -> None:
    runs = [run(each) for each in (-0.2, -0.1, 0.0, 0.1, 0.4)]
    found = expected(runs, setting)
    assert found.wider == pytest.approx(factor) and len(found.reasons) == round(factor > 1) + (setting.num_assumed == 1) * 2
    assert found.quantile(0.8) == pytest.approx(0.25 * factor)


def test_where_nothing_is_comparable_all_runs_count_alike() -> None:
    found = expected([run(each) for each in (-0.2, 0.0, 0.2)], Setting("numpy", "cpu", "mlp", 4))
    assert (found.level, found.num_runs, found.wider) == ("all", 3, OTHER_ACCELERATOR)
    assert found.shares == pytest.approx((1 / 6, 0.5, 5 / 6))


def test_peaks_of_a_class_count_on_an_accelerator_and_by_a_stack_that_none_of_them_has() -> None:
    """Times do not: there the classes count alike."""
    errors = [("dense", -0.02), ("dense", 0.02), ("experts", -0.2), ("experts", 0.2)]
    runs = [replace(run(error, kind=kind), allocated=error) for kind, error in errors]
    elsewhere = Setting("numpy", "cpu", "dense", 4)
    found, times = mixture(runs, elsewhere, ALLOCATED), mixture(runs, elsewhere, STEP)
    assert (found.level, found.num_runs, found.wider) == ("class", 2, OTHER_ACCELERATOR)
    assert (times.level, times.num_runs) == ("all", 4) and times.quantile(0.7) > found.quantile(0.7)


@pytest.mark.parametrize(
    ("probability", "word"),
    [(1.0, "yes"), (0.9, "yes"), (0.8999, "likely"), (0.5, "likely"), (0.4999, "unlikely"), (0.1, "unlikely"), (0.0999, "no"), (0.0, "no")],
)
def test_whether_a_plan_fits_is_a_word_by_the_probability(probability: float, word: str) -> None:
    assert verdict(probability) == word


def test_of_pairs_of_one_sweep_only_differences_count() -> None:
    # Both sweeps are 40 % off as a whole: their pairs differ by 0.1, 0.1 and 0.2, a run of the second has no other.
    runs = [ComparedRun(f"a{i}", "a", "mine", "h100", "dense", 8, 0, "a0", step=0.4 + 0.1 * i) for i in range(3)]
    lone = ComparedRun("b", "b", "mine", "h100", "dense", 8, 0, "b", step=-0.4)
    assert pair_spread_of([*runs, lone], "dense") == pytest.approx(
        0.19
    )  # middles at 1, 3 and 5 sixths: 0.8 lies 0.9 of the way from 0.1 to 0.2
    assert pair_spread_of([*runs, lone], "experts") == pytest.approx(0.19)


def test_the_file_of_runs_holds_errors_as_text_and_leaves_out_what_a_run_does_not_state() -> None:
    first, header, line = text_of((run(-0.25),), 7).splitlines()
    assert first.split()[-1] == "7" and header == HEADER
    assert line == "a-0.25,a,mine,h100,dense,8,0,,-0.2500,,,,"


def test_what_another_plan_leaves_open_is_not_assumed_of_this_one() -> None:
    stated = {"tensor_parallel": 8, "pipeline_parallel": 8}
    plans = {"open": stated, "named": {**stated, "micro_batch": 1, "recompute": "full"}}
    here = from_mapping(
        {
            "name": "two",
            "model": "gpt3-175b",
            "cluster": {"node": "dgx-a100-80gb", "num_nodes": 8, "fabric": "ib-hdr-8rail"},
            "batch": {"global_batch": 64, "sequence_length": 2048},
            "stack": "megatron-2022",
            "plans": plans,
        }
    )
    assert [setting_of(here, here.plan(name)).num_assumed for name in plans] == [2, 0]


def test_an_accelerator_that_nobody_measured_is_as_far_off_on_top_as_others_are_apart() -> None:
    """Medians of -0.2, 0 and 0.2 are 0.2 x 1.4826 apart, of which 80 % of a normal distribution reach 1.2816 to either side."""
    runs = [run(middle + each, accelerator=name) for name, middle in (("a", -0.2), ("b", 0.0), ("c", 0.2)) for each in (-0.01, 0.0, 0.01)]
    known, new = (expected(runs, Setting("mine", name, "dense", 8)) for name in ("b", "d"))
    assert accelerators_apart([(each.step or 0.0, each.id, each) for each in runs]) == pytest.approx(0.2 * 1.482602, rel=1e-5)
    half = (new.quantile(HIGH) - new.quantile(LOW)) / 2
    plain = half / new.wider
    assert half == pytest.approx((plain**2 + (1.281552 * 0.2 * 1.482602) ** 2) ** 0.5, rel=1e-5)
    assert known.wider == 1.0 and new.wider > 1.1
