"""What a step of a long run takes: fed, disturbed, both, and that goodput, the whole training and both commands rest on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.estimator.estimate import Priced
from parsim.feed import supply
from parsim.goodput.columns import fed_steps, seconds_a_step
from parsim.goodput.long_run import as_planned, in_a_run, long_step, whole_of_run
from parsim.goodput.predict import checkpoint_of, interval_of, times_of
from parsim.goodput.renewal import efficiency
from parsim.goodput.size import checkpoint_bytes
from parsim.planner.space import candidates
from parsim.report import results as made
from parsim.scenario import Disturbance, PlanSpace

SCENARIOS = Path(__file__).parents[3] / "scenarios"
IMAGES = parsim.load(SCENARIOS / "images-from-storage.yaml")  # whose slowest stage takes 64 images at 577 a second
BATCH_S = 64 / 577
ONE_SLOW = Disturbance(slow_devices={5: 2.2}, samples=3)  # by more than its host, for which a step waits, hides


def test_a_run_that_waits_for_its_input_takes_as_long_as_its_slowest_stage() -> None:
    found = parsim.predict_goodput(IMAGES, "plain")
    assert found.step_s == pytest.approx(BATCH_S, abs=1e-12) and found.time_s is not None
    with_checkpoints = (found.interval_s + found.stall_s) / found.interval_s
    assert found.time_s == pytest.approx(-(-75_700_000_000 // (4096 * 197)) * BATCH_S * with_checkpoints, rel=1e-9)


def test_the_tables_of_a_run_tell_one_time() -> None:
    (plain, _) = made.document(made.predict(IMAGES))["plans"]
    assert plain["run"]["step_s"] == plain["goodput"]["step_s"] == pytest.approx(plain["input"]["fed_step_s"], abs=1e-12)
    assert plain["whole_training"]["time_s"] == plain["goodput"]["time_s"]


@pytest.mark.parametrize("images_per_s", [577.0, 5770.0])
def test_a_disturbed_step_is_fed_as_it_comes(images_per_s: float) -> None:
    """One device is always slower: every step is as long as the next, and waits for what is slower still."""
    fed = replace(IMAGES, disturbance=ONE_SLOW, input=replace(IMAGES.input, decode_per_s=images_per_s))
    found = parsim.estimate(fed, "plain")
    disturbed_s = parsim.disturb(fed, "plain").mean_s
    assert disturbed_s > 1.2 * found.step_s
    assert long_step(fed, found).mean_s == pytest.approx(max(disturbed_s, 64 / images_per_s), abs=2e-12)
    assert long_step(fed, found, parsim.disturb(fed, "plain")) == long_step(fed, found)


def test_a_run_that_forgets_its_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "stall_among_ps", lambda *_: 0)
    with pytest.raises(AssertionError):
        test_a_run_that_waits_for_its_input_takes_as_long_as_its_slowest_stage()


def test_the_planner_counts_input_and_not_what_disturbs() -> None:
    disturbed = replace(IMAGES, disturbance=ONE_SLOW)
    assert as_planned(disturbed) == IMAGES and as_planned(IMAGES) is IMAGES


def test_a_run_of_which_nothing_is_stated_is_its_steps() -> None:
    bare = replace(IMAGES, input=None, checkpoint=None)
    found = parsim.estimate(bare, "plain")
    whole = whole_of_run(bare, in_a_run(bare, found))
    assert in_a_run(bare, found) is found and whole is not None
    assert whole.time_s == found.step_s * whole.num_steps


@pytest.mark.slow
def test_plot_draws_all_figures_that_run_draws(tmp_path: Path) -> None:
    options = [str(SCENARIOS / "stragglers.yaml"), "--set", "disturbance.samples=20", "--set", "input=text", "--set", "storage=orion"]
    drawn = {}
    for command in ("run", "plot"):
        done = CliRunner().invoke(app, [command, *options, "-o", str(tmp_path / command)])
        assert done.exit_code == 0, done.output
        drawn[command] = {each.name for each in (tmp_path / command).glob("*.png")}
    assert drawn["run"] == drawn["plot"] == {"plans.png", "feed.png", "disturbance.png"}


def test_plans_that_do_the_same_to_weights_write_the_same_checkpoint() -> None:
    axes = {
        "tensor_parallel": [1, 2],
        "pipeline_parallel": [1, 2],
        "micro_batch": [4, 16],
        "recompute": ["none", "full"],
        "zero_stage": [0, 3],
    }
    space = PlanSpace("all", {name: tuple(values) for name, values in axes.items()})
    priced = Priced(IMAGES, candidates(IMAGES, space, runnable=False).plans)
    rows = np.arange(priced.plans.num_plans)
    alone = [checkpoint_bytes(priced.alone(row), "all") for row in rows.tolist()]
    step_ps = rows * 0 + 2 * 10**11
    told = seconds_a_step(priced)(step_ps, rows)
    for row, size in enumerate(alone):
        cycle = times_of(IMAGES, size).cycle
        fed_ps = fed_steps(priced)(step_ps[:1], rows[row : row + 1])
        share = efficiency(cycle, interval_of(checkpoint_of(IMAGES), cycle, fed_ps / 1e12))
        assert told[row] == (fed_ps / share)[0]
    assert len({int(size.busiest_device[0]) for size in alone}) > 2
