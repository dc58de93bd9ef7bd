"""What errors are held against is arithmetic: simple predictors, sources left out, repeats, sweeps, labels."""

from __future__ import annotations

from math import log
from statistics import median

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.confidence.shrink import DEVIATIONS
from parsim.estimator.estimate import estimate_legal
from parsim.validate import cases_of
from parsim.validate.accuracy import accuracy_of, worst_cases
from parsim.validate.baselines import as_isolated, factor_errors, utilisation_errors
from parsim.validate.case import PLAN
from parsim.validate.classes import CONTEXT, DENSE, EXPERTS, NARROW, UNSTEADY, classes_of
from parsim.validate.compare import predict
from parsim.validate.labels import label_scores
from parsim.validate.left_out import DEFAULTS, default, left_out_errors, moves_of
from parsim.validate.noise import noise_floors
from parsim.validate.parameters import parameters
from parsim.validate.parts import step_parts
from parsim.validate.sweeps import measured_sweeps, rank_correlation, regret
from parsim.validate.table import TableRow
from validate_rows import SMALL, table

NODE = {**SMALL, "num_devices": "4"}  # of one node, so that each is predicted at once


def cases(tmp_path, *changes):
    return cases_of(table(tmp_path, *({**NODE, "id": f"row-{place}", **each} for place, each in enumerate(changes))))


def test_one_utilisation_is_the_median_of_an_accelerators_rows(tmp_path):
    steps = ("1", "1.5", "3")
    found = cases(tmp_path, *({"step_s": each, "micro_batch": str(2**place)} for place, each in enumerate(steps)))
    peak_s = [case.estimate.hfu * case.estimate.step_s for case in found]
    usual = median(seconds / float(step) for seconds, step in zip(peak_s, steps, strict=True))
    expected = [seconds / usual / float(step) - 1 for seconds, step in zip(peak_s, steps, strict=True)]
    assert utilisation_errors(found) == pytest.approx(expected, rel=1e-12)
    assert min(map(abs, expected)) < 1e-12  # the middle one


def test_one_factor_leaves_no_bias_and_does_not_care_how_slow_all_are(tmp_path):
    fast, slow = ([{"step_s": str(step * each)} for step in (1, 2, 4)] for each in (1, 8))
    seconds = [1.0, 2.5, 4.5]
    errors = factor_errors(cases(tmp_path, *fast), seconds)
    assert errors == pytest.approx([1 / 1.125 - 1, 1.25 / 1.125 - 1, 0.0], abs=1e-12)
    assert factor_errors(cases(tmp_path, *slow), seconds) == pytest.approx(errors, rel=1e-12)


def test_an_isolated_kernel_is_not_slowed_by_training(tmp_path):
    (case,) = cases(tmp_path, {"step_s": "1"})
    bare = as_isolated(case.scenario)
    assert bare.cluster.node.accelerator.sustained_factor == 1.0 and not bare.stack.sustained_factor
    assert predict(bare, case.row)[0] < case.estimate.step_s


def test_what_was_fitted_to_a_source_is_the_default_where_that_is_left_out(tmp_path):
    source = "MooreThreads/SimuMax docs/b200/x.json"
    own, other = cases(
        tmp_path,
        {"accelerator": "b200", "source_family": "simumax", "source": source, "dtype": "bf16", "recompute": "none"},
        {"accelerator": "b200", "source_family": "simumax", "source": "somebody else", "dtype": "bf16", "recompute": "none"},
    )
    without = replace(own.scenario, stack=replace(own.scenario.stack, sustained_factor={}))
    left_out, beside = left_out_errors([own, other])
    assert left_out == pytest.approx(predict(without, own.row)[0] / 1.0 - 1, rel=1e-9)
    assert beside == other.result.step_error


LARGE = {
    "accelerator": "h100-sxm5-80gb",
    "source_family": "dgxc",
    "dtype": "fp8",
    "hidden_size": "8192",
    "num_heads": "64",
    "micro_batch": "8",
}
FP8 = next(each for each in parameters() if each.name == "stacks/nemo: sustained_factor.fp8")


def moved(found):
    """The step of a row by default, and as fitted."""
    return predict(default(found.scenario, FP8), found.row)[0], found.estimate.step_s


def test_a_figure_of_several_sources_is_fitted_to_the_others_and_shrunk(tmp_path):
    """The other source asks for half of the way, in logarithms, from the default to the fit, of which one row's weight is kept."""
    one, other = ({**LARGE, "source": source} for source in ("NVIDIA-NeMo/Megatron-Bridge docs/x.md", "NVIDIA/dgxc-benchmarking y.md"))
    default_s, fitted_s = moved(cases(tmp_path, one)[0])
    assert default_s > 1.02 * fitted_s
    way = log(FP8.value["sustained_factor.fp8"] / 0.85)  # from the accelerator's own
    weight = DEVIATIONS.weight(np.array([(log(default_s / fitted_s) / way) ** 2]))
    found = left_out_errors(cases(tmp_path, one, {**other, "step_s": repr((default_s * fitted_s) ** 0.5)}))
    assert found[0] == pytest.approx(default_s * (fitted_s / default_s) ** (weight / 2) - 1, rel=1e-6)


def test_a_row_is_of_the_source_that_it_cites_first(tmp_path):
    """A citation that names another source beside its own is not left out with that."""
    one, other = (
        {**LARGE, "source": source} for source in ("NVIDIA/dgxc-benchmarking y.md", "mlcommons/training_results, as dgxc-benchmarking")
    )
    default_s, _ = moved(cases(tmp_path, one)[0])
    slow = [{**each, "step_s": repr(2 * default_s)} for each in (one, other)]
    assert all(error > default_s / (2 * default_s) - 1 for error in left_out_errors(cases(tmp_path, *slow)))  # slower than by default


def test_a_figure_of_one_source_is_fitted_to_its_other_models_where_a_row_of_its_stack_is_new(tmp_path):
    """The other model asks for half of the way from the default to the fit, so the row gets half; alone it gets none."""
    source = "MooreThreads/SimuMax docs/b200/x.json"
    alike = {"accelerator": "b200", "source_family": "simumax", "source": source, "dtype": "bf16", "recompute": "none"}
    rows = [{**alike, "model_name": name} for name in ("one", "other")]
    found = cases(tmp_path, *rows)
    without = replace(found[1].scenario, stack=replace(found[1].scenario.stack, sustained_factor={}))
    halfway = (predict(without, found[1].row)[0] * found[1].estimate.step_s) ** 0.5
    found = cases(tmp_path, rows[0], {**rows[1], "step_s": repr(halfway)})
    moves = moves_of(found)
    assert left_out_errors(found, moves, by_model=True)[0] == pytest.approx(halfway - 1, rel=1e-6)
    assert left_out_errors(found[:1], by_model=True) == left_out_errors(found, moves)[:1]


def test_every_figure_that_is_fitted_to_scored_steps_has_a_default():
    keys = {key.partition(".")[0] for each in parameters() if each.scored and each.of == "steps" and not each.is_code for key in each.value}
    assert keys <= set(DEFAULTS)


def row(**cells):
    return TableRow({name: str(cell) for name, cell in cells.items()}, {k: v for k, v in cells.items() if isinstance(v, int)}, {}, ())


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        ({"dtype": "bf16"}, (DENSE,)),
        ({"dtype": "bf16", "context_parallel": 2}, (CONTEXT,)),
        ({"dtype": "fp8", "notes": 'precision label "MXFP8"', "context_parallel": 2}, (NARROW, CONTEXT)),
        ({"dtype": "fp8", "num_experts": 8, "context_parallel": 4}, (EXPERTS, CONTEXT)),
        ({"dtype": "fp16", "source_family": "bigscience_v100"}, (UNSTEADY,)),
        ({"dtype": "bf16", "num_experts": 1}, (DENSE,)),
    ],
)
def test_a_row_is_scored_in_its_classes(cells, classes):
    assert classes_of(row(**cells)) == classes


def test_the_noise_floor_is_of_rows_that_differ_in_nothing_stated():
    def measured(name, step_s, **cells):
        return TableRow({"id": name, "num_layers": "2", "source": "x", **cells}, {}, {"step_s": step_s}, ())

    rows = [measured("a", 1.0), measured("b", 1.1), measured("c", 1.5, release="2"), measured("d", 9.0, workload="ci")]
    rows += [measured("a", 1.0)]  # another table has it, too
    same, alike = noise_floors(rows)
    assert (same.num_groups, same.num_rows, same.max_spread) == (1, 2, pytest.approx(0.1))
    assert (alike.num_groups, alike.num_rows, alike.median_spread) == (1, 3, pytest.approx(0.5))
    assert noise_floors(rows[:1])[0].median_spread is None


def test_regret_counts_equal_predictions_against_us():
    assert regret([(1.0, 3.0), (1.0, 2.0), (1.5, 1.0)]) == pytest.approx(2.0)
    assert regret([(1.0, 1.0), (2.0, 5.0)]) == 0.0


def test_the_rank_correlation_is_spearmans():
    assert rank_correlation([(1.0, 1.0), (2.0, 2.0)]) is None
    assert rank_correlation([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]) == pytest.approx(-1.0)
    assert rank_correlation([(1.0, 1.0), (1.0, 2.0), (2.0, 3.0)]) == pytest.approx(0.75**0.5)  # ranks 1.5 1.5 3 against 1 2 3
    assert rank_correlation([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]) is None


def test_a_sweep_has_eight_rows_and_a_plan_the_median_of_its_repeats(tmp_path):
    plans = [{"micro_batch": each, "step_s": step} for each, step in (("1", "2"), ("2", "1"), ("4", "3"))]
    repeats = [{"micro_batch": "2", "step_s": step} for step in ("0.5", "9", "1", "1.2")]
    found = cases(tmp_path, *plans, *repeats, {"micro_batch": "8", "step_s": "4"})
    (sweep,) = measured_sweeps(found)
    assert sweep.num_rows == 8 and len(sweep.plans) == 4
    assert {measured for _, measured in sweep.plans} == {2.0, 1.0, 3.0, 4.0}  # 0.5 1 1 1.2 9: the median is 1
    assert not measured_sweeps(found[1:])


def test_labels_are_judged_by_all_that_a_device_holds(tmp_path):
    small = {"fits": "yes", "step_s": "", "memory_metric": "allocated"}
    large = {"fits": "no", "step_s": "", "hidden_size": "32768", "num_heads": "64", "num_layers": "48"}
    found = label_scores(cases(tmp_path, small, large, {**large, "fits": "yes"}, {**small, "mlp": "reglu"}, {"fits": ""}))
    scored = {(each.source_family, each.label): (each.num_judged, each.num_right, each.num_skipped) for each in found}
    assert scored["all", "no"] == scored["papers", "no"] == (1, 1, 0)
    assert scored["all", "yes"] == (2, 1, 1)
    assert label_scores(cases(tmp_path, {"fits": ""})) == ()


def test_the_worst_rows_say_what_their_prediction_is_made_of(tmp_path):
    found = cases(tmp_path, {"step_s": "1"}, {"step_s": "100"}, {"step_s": "", "mlp": "reglu"})
    worst = worst_cases(found, most=1)[0]
    assert worst.id == "row-1" and worst.error == found[1].result.step_error
    assert list(worst.parts.values()) == sorted(worst.parts.values(), reverse=True) and sum(worst.parts.values()) <= 1


def test_compute_is_split_by_family_and_the_parts_are_the_step(tmp_path):
    small, large = cases(tmp_path, {}, {"hidden_size": "8192", "num_heads": "64", "micro_batch": "8"})
    for case in (small, large):
        parts = step_parts(case.scenario, case.scenario.plan(PLAN), case.estimate)
        assert sum(parts.values()) == pytest.approx(case.estimate.step_s, rel=1e-9)
        kernels = sum(parts.get(name, 0.0) for name in ("gemm", "attention", "scan", "elementwise"))
        assert kernels == pytest.approx(case.estimate.breakdown_s["compute"], rel=1e-9)
    assert next(iter(parts)) == "gemm"  # of large matrices
    slow = replace(small.scenario, stack=replace(small.scenario.stack, host_launch_s=1e-3))
    assert next(iter(step_parts(slow, slow.plan(PLAN), estimate_legal(slow, slow.plan(PLAN))))) == "launches"


def test_a_row_counts_in_every_group_that_it_is_of(tmp_path):
    found = accuracy_of(cases(tmp_path, {"step_s": "1"}, {"step_s": "2", "source_family": "vtrain"}, {"mlp": "reglu"}, {"workload": "ci"}))
    groups = {(each.kind, each.group): (each.num_rows, each.ours["n"]) for each in found.steps}
    assert groups["class", "all"] == groups["class", DENSE] == groups["devices", "1 to 8"] == (3, 2)
    assert (groups["source", "papers"], groups["source", "vtrain"]) == ((2, 1), (1, 1))
    assert found.skipped == {"needs mlp reglu": 1} and (found.num_rows, found.num_skipped) == (4, 1)
