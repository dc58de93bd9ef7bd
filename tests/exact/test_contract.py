"""The exactness contract on every legal pair and triple of features: integers equal on every rank, gradients those of one rank.

The default tier has so few sets of up to five that each pair is in one of them; pairs by themselves and all triples are in the slow tier.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Batch, Plan
from parsim.simulator import simulate
from parsim.verify import verify_plan
from support import GPT, STACKS, covering, every_other, feature_sets, scenario, tiered, with_features

FEW = covering(5)
SETS = list(dict.fromkeys((*feature_sets(3), *sorted(FEW))))


@pytest.mark.parametrize("index", [tiered(index, "-".join(names), slow=names not in FEW) for index, names in enumerate(SETS)])
def test_prediction_and_execution_agree_on_every_set_of_up_to_three_features_and_some_of_five(index: int) -> None:
    names = SETS[index]
    stack = STACKS[index % len(STACKS)]  # each stack meets a quarter of the sets; single features meet one each below, the slow tier all
    scenario, plan = with_features(names, stack)
    wrong = [check for check in verify_plan(scenario, plan, "toy") if not check.ok]
    assert not wrong, wrong


def test_each_legal_pair_of_features_is_in_a_set_of_the_default_tier() -> None:
    pairs = {names for names in SETS if len(names) == 2}
    assert len(pairs) > 250 and pairs <= {pair for names in FEW for pair in combinations(names, 2)}


KINDS = dict(zip(("plain", "overlapped", "flash", "unfused"), STACKS, strict=True))
SINGLE = ("dp", "tp", "sp", "pp", "vpp", "zbh1", "selective", "full", "gqa", "untied")


@pytest.mark.parametrize("case", every_other(SINGLE, KINDS, "{}-{}".format, 4))
def test_prediction_and_execution_agree_on_every_software_stack(case: tuple[str, str]) -> None:
    scenario, plan = with_features(case[:1], KINDS[case[1]])
    wrong = [check for check in verify_plan(scenario, plan, "toy") if not check.ok]
    assert not wrong, wrong


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_stage_may_hold_nothing_but_the_embedding_or_the_head(zero_stage: int) -> None:
    stack = replace(STACKS[1], layer_split="embedding_and_head")
    plan = Plan(pipeline_parallel=4, data_parallel=2, zero_stage=zero_stage)
    chosen = scenario(model=replace(GPT, num_layers=2), batch=Batch(8, 8), stack=stack)
    wrong = [check for check in verify_plan(chosen, plan, "toy") if not check.ok]
    assert not wrong, wrong


def test_recomputation_that_stops_early_leaves_out_the_last_matmul_and_stays_exact() -> None:
    full = Plan(tensor_parallel=2, recompute="full")
    model = replace(GPT, dropout=0.0)  # with dropout the last tensor that backward needs is the mask behind that matmul
    early = scenario(model=model, stack=replace(STACKS[0], recompute_early_stop=True))
    assert all(check.ok for check in verify_plan(early, full, "toy"))
    down = 2 * 8 * 8 * 12 * 8 * 4  # 2 x tokens of the step x hidden x ffn / tp, in each of 4 layers
    flops = [estimate(chosen, full).flops[0] for chosen in (scenario(model=model, stack=STACKS[0]), early)]
    assert flops[0] - flops[1] >= down


def test_a_contract_of_a_plan_names_every_quantity_it_compares() -> None:
    scenario, plan = with_features(("dp", "sp", "pp"), STACKS[0])
    quantities = {check.quantity for check in verify_plan(scenario, plan, "toy")}
    expected = {"FLOPs", "peak bytes", "weight gradients", "input gradients", "picoseconds, virtual clocks and simulate"}
    assert expected | {f"bytes sent over {axis}" for axis in ("dp", "tp", "pp")} <= quantities


def test_a_head_without_weights_of_its_own_reduces_nothing() -> None:
    """GPT-1's shape: a tied embedding and no norm before the head."""
    model = replace(GPT, norm_last=True)
    for stack in STACKS[:2]:
        wrong = [check for check in verify_plan(scenario(model=model, stack=stack), Plan(data_parallel=2), "toy") if not check.ok]
        assert not wrong, wrong


def test_a_simulation_of_too_many_events_is_refused_before_it_starts() -> None:
    events = 20_000 * 1_002 * 2 * 2  # micro_batches x segments x phases x (what runs, and its launches beside it)
    with pytest.raises(PlanError, match=f"about {events:,} events"):
        simulate(scenario(model=replace(GPT, num_layers=1000), batch=Batch(20_000, 8)), Plan(), spans=True)
