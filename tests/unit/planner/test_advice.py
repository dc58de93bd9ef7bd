"""Advice on batches and learning rates, by the arithmetic of its sources; the noise scale by norms that another run finds, too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.errors import ParsimError, PlanError
from parsim.executor.noise import noise_scale
from parsim.executor.rank import Rank
from parsim.planner.advice import Reference, relative_steps, scaled_rate
from parsim.scenario import Scenario
from support import idle

SCENARIOS = Path(__file__).parents[3] / "scenarios"
GPT3 = str(SCENARIOS / "gpt3-175b-recompute.yaml")
DIGITS = str(SCENARIOS / "digits-mlp.yaml")


def digits(global_batch: int, micro_batch: int, data_parallel: int) -> Scenario:
    read = idle(parsim.load(DIGITS))
    batch = replace(read.batch, global_batch=global_batch)
    return replace(read, batch=batch, plans={"a": parsim.Plan(data_parallel=data_parallel, micro_batch=micro_batch)})


def test_the_largest_micro_batch_is_the_last_whose_estimate_fits() -> None:
    scenario = parsim.load(GPT3)
    plan = scenario.plan("full")
    fits = [n for n in (1, 2, 4, 8, 16, 32, 64) if parsim.estimate(scenario, replace(plan, micro_batch=n)).fits]
    advice = parsim.advise(scenario, "full")
    assert advice.largest_micro_batch == max(fits) < 64
    assert [each.plan.micro_batch for each in advice.micro_batches][:7] == [1, 2, 4, 8, 16, 32, 64]


def test_a_global_batch_is_priced_as_the_scenario_with_it() -> None:
    scenario = parsim.load(GPT3)
    advice = parsim.advise(scenario, "full")
    for each in advice.batches:
        other = replace(scenario, batch=replace(scenario.batch, global_batch=each.global_batch))
        assert each.estimate.step_s == parsim.estimate(other, "full").step_s
    assert 64 in [each.global_batch for each in advice.batches] and advice.batches[0].time is None


@pytest.mark.parametrize("batch", [8, 96, 4096])
def test_steps_and_sequences_trade_as_mccandlish_says(batch: int) -> None:
    """(S / S_min - 1) (E / E_min - 1) = 1, equation 2.11, with S_min and E_min far above and far below the noise scale of 96."""
    steps, least_steps = relative_steps(batch, 96, 96), relative_steps(1e15, 96, 96)
    sequences, least_sequences = steps * batch, relative_steps(1e-9, 96, 96) * 1e-9
    assert (steps / least_steps - 1) * (sequences / least_sequences - 1) == pytest.approx(1, rel=1e-6)


def test_learning_rates_of_papers() -> None:
    """Goyal et al. 2017: 0.1 at 256 images becomes 3.2 at 8192; a root rule has 4 times the batch at twice the rate."""
    assert scaled_rate(8192, Reference(256, 0.1), 1, None) == pytest.approx(3.2)
    assert scaled_rate(2048, Reference(512, 3e-4), 0.5, None) == pytest.approx(6e-4)


def test_the_rate_follows_its_rule_below_the_noise_scale_and_flattens_above() -> None:
    low, high = Reference(10, 1.0), Reference(10**9, 1.0)
    assert scaled_rate(20, low, 1, 1e9) == pytest.approx(2, rel=1e-6)
    assert scaled_rate(2 * 10**9, high, 1, 10) == pytest.approx(1, rel=1e-6)


def test_sgd_scales_linearly_and_adam_by_the_root() -> None:
    scenario = parsim.load(GPT3)
    plan = scenario.plan("full")
    for optimizer, grown in (("adamw", 2**0.5), ("sgd_momentum", 2)):
        advice = parsim.advise(scenario, replace(plan, optimizer=optimizer), reference=Reference(64, 1.0, 100))
        rates = {each.global_batch: each.learning_rate for each in advice.batches}
        assert rates[128] == pytest.approx(grown) and rates[64] == 1.0


def replica_norms() -> tuple[float, float]:
    """The squared norm of the gradient over the first half of a batch: as a replica has it, and as a run of that half alone."""
    both = parsim.execute(digits(64, 32, 2), "a")
    half = parsim.execute(digits(32, 32, 1), "a")
    return both.own_norms[0][0] * 2**2, half.norms[0]


def test_a_replica_has_the_gradient_of_its_part_of_the_batch() -> None:
    own, alone = replica_norms()
    assert own == pytest.approx(alone, rel=1e-12)


def test_a_replica_that_counts_what_is_summed_already_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Rank.norm_of_replica
    monkeypatch.setattr(Rank, "norm_of_replica", lambda self, task, call: 2 * honest(self, task, call))
    own, alone = replica_norms()
    assert own != pytest.approx(alone, rel=1e-12)


def test_the_norm_of_all_gradients_is_that_of_the_last_step() -> None:
    run = parsim.execute(digits(64, 32, 2), "a", num_steps=2)
    assert run.norms[-1] == pytest.approx(sum(float(np.sum(each**2)) for each in run.gradients[0].values()), rel=1e-12)


def test_the_noise_scale_of_a_run_is_the_ratio_of_means_over_its_steps() -> None:
    run = parsim.execute(digits(64, 16, 4), "a", num_steps=8)
    small = [sum(each) / 4 * 16 for each in run.own_norms]
    squares = sum((64 * large - 16 * own) / 48 for own, large in zip(small, run.norms, strict=True))
    variances = sum((own - large) / (1 / 16 - 1 / 64) for own, large in zip(small, run.norms, strict=True))
    assert noise_scale(run).sequences == pytest.approx(variances / squares, rel=1e-12)


def test_a_plan_without_replicas_and_too_few_steps_are_refused() -> None:
    with pytest.raises(PlanError, match="data_parallel alone"):
        noise_scale(parsim.execute(digits(64, 16, 1), "a", num_steps=8))
    with pytest.raises(PlanError, match="too few"):
        noise_scale(parsim.execute(digits(64, 16, 4), "a", num_steps=2))


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_the_command_says_what_it_does_not_know_and_gives_all_as_json() -> None:
    status, said, _ = call("advise", GPT3, "full")
    assert status == 0 and "noise scale, which is not known" in said and "largest that fits: 4" in said
    status, said, _ = call("advise", GPT3, "full", "--noise-scale", "1500", "--learning-rate", "6e-5", "--warmup-steps", "100", "--json")
    rows = {row["global_batch"]: row for row in json.loads(said)["global_batches"]}
    assert rows[64]["relative_time"] == 1 and rows[64]["learning_rate"] == 6e-5 and rows[64]["warmup_steps"] == 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((GPT3,), "which of its plans"),
        ((GPT3, "ful"), "did you mean"),
        ((GPT3, "full", "--noise-scale", "nan"), "positive"),
        ((GPT3, "full", "--noise-scale", "-3"), "positive"),
        ((GPT3, "full", "--learning-rate", "0"), "positive"),
        ((GPT3, "full", "--warmup-steps", "3"), "--learning-rate"),
    ],
)
def test_wrong_input_is_told(arguments: tuple[str, ...], said: str) -> None:
    status, out, err = call("advise", *arguments)
    assert status == 2 and said in err and not out


def test_execute_tells_the_noise_scale_or_why_not_before_it_runs() -> None:
    options = ("--transport", "lockstep", "--noise-scale", "--steps")
    status, said, _ = call("execute", DIGITS, "--plan", "data_parallel", *options, "8", "--json")
    found = json.loads(said)["plans"]["data_parallel"]["noise_scale"]
    assert status == 0 and found["sequences"] > 0 and found["num_steps"] == 8
    status, said, err = call("execute", DIGITS, "--plan", "layers", *options, "8")
    assert status == 2 and "data_parallel alone" in err and not said


def test_a_reference_that_no_run_has_is_refused() -> None:
    for wrong in ((0, 1.0, 0), (1, float("nan"), 0), (1, 1.0, -1)):
        with pytest.raises(ParsimError):
            Reference(*wrong)
