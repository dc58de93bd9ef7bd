"""The exactness contract with frozen weights and adapters on every legal pair of what a plan may do: axes, schedules, stages of ZeRO,
recomputation, precision and optimizers.  A row for each value of today; a test says where one is missing."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim import schedules
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.legality import faults_of
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import KEYS, MESH, Plan
from parsim.parallel.precision import RECIPES
from parsim.verify.contract import verify_plan
from support import GPT, MOE, STACKS, TOY, enough, scenario

FROZEN = Tuning(("embedding", "layers 0..0", "mlp"))
ADAPTED = Tuning((BASE,), 4, 8.0, 0.0, ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"))
TUNINGS = (ADAPTED, replace(ADAPTED, quantization="nf4", double_quantization=True), replace(ADAPTED, share_expert_adapters=True))
_FOLDED = ("breadth_first", "dual_pipe_v", "interleaved_1f1b", "v_half", "v_min", "zero_bubble_v")
_COMBINED = ("combined_1f1b", "combined_1f1b_delayed")  # which hide exchanges of experts
_BLOCKS = ("fp8_blockwise", "mxfp8", "nvfp4", "mxfp4")  # of which the widths here are no multiples: test_narrow.py
_RECIPES = [name for name, recipe in RECIPES.items() if name not in ("bf16", *_BLOCKS) and not recipe.without_peak(TOY.peak_flops_per_s)]
_EP = {"data_parallel": 2, "expert_parallel": 2}
ROWS: dict[str, dict[str, Any]] = {
    **{"dp": {"data_parallel": 2}, "master": {"data_parallel": 2, "gradient_sync": "master"}},
    "apart": {"data_parallel": 2, "gradient_sync": "local_sgd", "local_steps": 2, "outer_optimizer": "nesterov"},
    "served": {"data_parallel": 2, "gradient_sync": "parameter_server", "staleness_bound": 0},
    **{"tp": {"tensor_parallel": 2}, "sp": {"tensor_parallel": 2, "sequence_parallel": True}},
    **{kind: {"context_parallel": 2, "context_kind": kind} for kind in kinds() if kind != "ulysses_ring"},
    "ulysses_ring": {"context_parallel": 4, "context_kind": "ulysses_ring", "context_group": 2},
    **{name: {"pipeline_parallel": 2, "schedule": name} for name in schedules.names() if name not in (*_FOLDED, *_COMBINED)},
    **{name: {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": name} for name in _FOLDED},
    **{name: {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": name, **_EP} for name in _COMBINED},
    **{"ep": _EP, "etp": {"tensor_parallel": 2, "expert_tensor_parallel": 2}},
    **{f"zero{stage}": {"data_parallel": 2, "zero_stage": stage} for stage in (1, 2, 3)},
    **{f"hsdp{stage}": {"data_parallel": 4, "zero_stage": stage, "zero_group": 2} for stage in (1, 3)},
    "kept": {"data_parallel": 2, "zero_stage": 3, "reshard_after_forward": False},
    **{"full": {"recompute": "full"}, "selective": {"recompute": "selective"}, "every": {"recompute": "full", "recompute_every": 2}},
    "ops": {"recompute_ops": ("norm1", "norm2", "up_gemm", "activation")},
    **{name: {"optimizer": name} for name in OPTIMIZERS if name != KEYS["optimizer"].default},
    **{"offload": {"offload_optimizer": True}, "in backward": {"optimizer_in_backward": True, "micro_batch": 2}},
    **{name: {"dtype": name} for name in _RECIPES},
}


def _case(fields: dict[str, Any], tuning: Tuning, number: int) -> tuple[parsim.Scenario, Plan] | None:
    """The toy and the plan of a pair, where it is legal."""
    dtype, told = fields.get("dtype", "bf16"), {name: value for name, value in fields.items() if name != "dtype"}
    plan = Plan(**told)
    has_experts = {"expert_parallel", "expert_tensor_parallel"} & told.keys()
    if tuning.share_expert_adapters and not has_experts:
        tuning = replace(tuning, share_expert_adapters=False)
    if tuning == FROZEN and plan.virtual_pipeline > 1:  # a first stage of one layer trains some of it
        tuning = Tuning(("embedding", "layers 1..1", "mlp"))
    if tuning.quantization and RECIPES[dtype].narrows:
        tuning = replace(tuning, quantization="", double_quantization=False)
    model = replace(MOE if has_experts else GPT, num_layers=4, tied_embedding=False, dropout=0.0, tuning=tuning)
    batch = replace(enough(plan, 16 if plan.context_group else 8), dtype=dtype)
    if plan.optimizer_in_backward:
        batch = replace(batch, global_batch=2 * plan.data_parallel)
    model = replace(model, max_positions=16) if plan.context_group else model
    toy = scenario(model=model, batch=batch, stack=STACKS[2 if plan.context_parallel > 1 else number % len(STACKS)])
    return None if faults_of(plan, replace(toy.facts, num_devices=None)) else (toy, plan)


def _pairs() -> list[Any]:
    """Every legal pair with frozen parts, and with adapters: plain, beside a base in 4 bits, or of all experts in turn."""
    found = []
    for number, (one, other) in enumerate(combinations(ROWS, 2)):
        if any(ROWS[one][key] != ROWS[other][key] for key in ROWS[one].keys() & ROWS[other].keys()):
            continue
        for kind, tuning in (("frozen", FROZEN), ("adapted", TUNINGS[number % len(TUNINGS)])):
            if case := _case({**ROWS[one], **ROWS[other]}, tuning, number):
                found.append(pytest.param(*case, id=f"{one}+{other}-{kind}", marks=pytest.mark.slow))
    return found


PAIRS = _pairs()


@pytest.mark.parametrize(("toy", "plan"), PAIRS)
def test_tuning_keeps_the_contract_on_every_legal_pair(toy: parsim.Scenario, plan: Plan) -> None:
    assert not [check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_every_value_that_a_plan_may_state_has_a_row() -> None:
    stated = {(name, value) for row in ROWS.values() for name, value in row.items()}
    for name in (*MESH, *KEYS):
        legal = kinds() if name == "context_kind" else schedules.names() if name == "schedule" else KEYS[name].legal if name in KEYS else ()
        for value in legal:
            assert (name, value) in stated or value == KEYS[name].default, f"no row has {name} = {value}"
    assert {name for name in MESH if name not in {each for each, _ in stated}} <= {"dimensions"}
    narrow = {name for name, recipe in RECIPES.items() if recipe.narrows}
    assert {value for name, value in stated if name == "dtype"} >= narrow - {*_BLOCKS}


def test_every_row_is_in_a_legal_pair_with_frozen_parts_and_with_adapters() -> None:
    names = {str(case.id) for case in PAIRS}
    for row in ROWS:
        for kind in ("frozen", "adapted"):
            assert any(name.endswith(kind) and row in name.removesuffix(f"-{kind}").split("+") for name in names), f"{row}, {kind}"
