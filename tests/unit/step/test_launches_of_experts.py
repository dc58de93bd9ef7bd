"""The host launches a kernel for each expert of a rank, and where it waits for their loads, kernels wait for it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim.cost.timing import SIZING_LAUNCHES
from parsim.estimator.estimate import estimate, stages_of
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import ALL, AROUND_EXPERTS, PER_NODE, Batch, Plan, Stack
from parsim.schedules.phase import Phase
from parsim.step import program
from parsim.step.program import section
from parsim.step.task import COMPUTE_STREAM, LAUNCH, Launches
from parsim.verify import verify_plan
from support import CLUSTER, MOE, STACK, scenario

HOST_S, EXPERT_S = 3e-6, 1e-6
WAITS = replace(STACK, waits_for_loads=True, host_launch_s=HOST_S, expert_launch_s=EXPERT_S)
SPREAD = Plan(data_parallel=2, expert_parallel=2)
# A matmul each, those of gate and up being one, and a hook for each gradient of weights.
OF_AN_EXPERT = {Phase.F: 2, Phase.B: 4 + 2}
# Between the moves, beside matmuls.  Forward: permute, swish, multiply, weigh, unpermute.  Backward: a move each; of weigh and multiply
# a gradient for each of two operands, of swish one; a weight gradient added to the step's for each matmul.
BETWEEN = {Phase.F: 5, Phase.B: 2 + 5 + 3}
EXCHANGES = 3  # tokens, their gates, and tokens back


def launches(
    plan: Plan, phase: Phase, graphs: str = "", *, stack: Stack = WAITS, model: TransformerSpec = MOE, precision: str = "bf16"
) -> tuple[Launches, int]:
    """Those of a layer of experts, with their microseconds."""
    stack = replace(stack, graphs={CLUSTER.node.accelerator.name: graphs} if graphs else {})
    workload = stages_of(scenario(model=model, batch=Batch(8, 8, precision), stack=stack), plan).workload
    (found,) = (task for task in section(workload.step, "expert_layer", phase) if isinstance(task, Launches))
    return found, int(workload.ps(found)[0]) // 10**6


@pytest.mark.parametrize(("phase", "stream"), [(Phase.F, COMPUTE_STREAM), (Phase.B, LAUNCH)])
def test_one_call_launches_a_kernel_of_each_expert_and_only_a_forward_waits_for_it(phase: Phase, stream: str) -> None:
    for plan, experts, exchanges in ((Plan(), 4, 0), (SPREAD, 2, EXCHANGES)):
        found, microseconds = launches(plan, phase)
        assert (found.of_loads, found.of_experts, found.stream) == (BETWEEN[phase] + exchanges, OF_AN_EXPERT[phase], stream)
        sizing = SIZING_LAUNCHES if exchanges and phase is Phase.F else 0
        assert microseconds == 3 * (found.count + found.of_loads + sizing) + OF_AN_EXPERT[phase] * experts


def test_kernels_of_experts_are_launched_by_the_same_host() -> None:
    slow = replace(CLUSTER, node=replace(CLUSTER.node, launch_factor=3.0))
    workload = stages_of(scenario(model=MOE, cluster=slow, batch=Batch(8, 8), stack=WAITS), SPREAD).workload
    found, microseconds = launches(SPREAD, Phase.F)
    assert int(workload.ps(found)[0]) // 10**6 == 3 * microseconds


def test_a_node_that_gets_a_token_once_needs_no_sizes_of_slots() -> None:
    case = scenario(model=MOE, batch=Batch(8, 8), stack=replace(WAITS, dispatch=PER_NODE))
    found, microseconds = launches(SPREAD, Phase.F)
    assert int(stages_of(case, SPREAD).workload.ps(found)[0]) // 10**6 == microseconds - 3 * SIZING_LAUNCHES


@pytest.mark.parametrize("phase", list(OF_AN_EXPERT))
def test_a_graph_replays_all_but_what_follows_the_loads_or_all(phase: Phase) -> None:
    sizing = SIZING_LAUNCHES if phase is Phase.F else 0
    assert launches(SPREAD, phase, AROUND_EXPERTS)[1] == 3 * (BETWEEN[phase] + EXCHANGES + sizing) + OF_AN_EXPERT[phase] * 2
    assert launches(SPREAD, phase, ALL)[1] == 0


@pytest.mark.parametrize(
    ("gates", "phase", "calls"),
    [
        *(("softmax", Phase.F, 10 - 3), ("softmax", Phase.B, 8 - 5)),
        *(("pre_softmax", Phase.F, 10 - 3), ("pre_softmax", Phase.B, 8 - 5)),
        *(("sigmoid", Phase.F, 17 - 4), ("sigmoid", Phase.B, 12 - 5)),
    ],
)
def test_a_router_that_is_not_fused_is_several_calls(gates: str, phase: Phase, calls: int) -> None:
    """Top-k, softmax, two tables of zeros that are filled, an int and a bool one, beside two of rows, or one for the first eight.

    Sigmoids have a bias added, are looked up, summed, made no less than a little and divided; a fused one counts its tokens apart, too.
    """
    fused, model = replace(WAITS, fusions=(*STACK.fusions, "router")), replace(MOE, gates=gates)
    (together, _), (apart, _) = (launches(Plan(), phase, stack=each, model=model) for each in (fused, WAITS))
    assert apart.count - together.count == calls


@pytest.mark.parametrize("phase", list(OF_AN_EXPERT))
def test_latent_attention_turns_queries_and_the_keys_of_all_heads_in_ten_calls_each_where_it_is_not_fused(phase: Phase) -> None:
    latent = replace(MOE, num_kv_heads=4, qk_norm=False, kv_lora_rank=8, qk_nope_head_dim=2, qk_rope_head_dim=2, v_head_dim=4)
    fused = replace(WAITS, fusions=(*STACK.fusions, "latent_rotary"))
    (together, _), (apart, _) = (launches(Plan(), phase, stack=each, model=latent) for each in (fused, WAITS))
    assert apart.count - together.count == 2 * (10 - 1)
    assert launches(Plan(), phase, stack=fused)[0] == launches(Plan(), phase)[0]  # other attention turns in a call


def test_a_forward_waits_for_its_launches_beside_another_micro_batch_too() -> None:
    plan = replace(SPREAD, schedule="combined_1f1b")
    case = scenario(model=replace(MOE, num_dense_layers=0), batch=Batch(8, 8), stack=WAITS)
    workload = stages_of(case, plan).workload
    (both,) = (run for run in workload.pair_of(0, 0).lists if run.segment.name == "expert_layer and expert_layer")
    launched = [task for task in both.tasks if isinstance(task, Launches)]
    assert [task.stream for task in launched] == [LAUNCH, COMPUTE_STREAM] and all(workload.ps(task)[0] for task in launched)


@pytest.mark.parametrize("phase", list(OF_AN_EXPERT))
def test_kernels_of_each_expert_are_launched_though_their_loads_are_known_before(phase: Phase) -> None:
    found, microseconds = launches(SPREAD, phase, stack=replace(WAITS, waits_for_loads=False))
    waiting, _ = launches(SPREAD, phase)
    assert (found.count, found.of_loads, found.stream) == (waiting.count + waiting.of_loads, 0, LAUNCH)
    assert microseconds == 3 * found.count + OF_AN_EXPERT[phase] * 2


@pytest.mark.parametrize(("precision", "calls"), [("fp8_delayed", 0), ("mxfp8", 1), ("fp8_current", 2)])
def test_experts_have_calls_of_their_own_that_make_narrow_what_they_take(precision: str, calls: int) -> None:
    """What gate and up take, and the last matrix; back the gradient of what that gives, and of what those do, which is one tensor."""
    for phase, own in OF_AN_EXPERT.items():
        assert launches(SPREAD, phase, precision=precision)[0].of_experts == own + 2 * calls


def test_what_runs_again_is_launched_between_calls_that_keep_and_set_back_random_numbers() -> None:
    """Scores, softmax and their product are neighbours; each of two norms, of four kernels, runs again where it is used."""
    counts = []
    for modules in ((), ("core_attn",), ("layernorm",)):
        found, _ = launches(replace(SPREAD, recompute_modules=modules), Phase.B)
        counts.append(found.count)
    plain, attention, norms = counts
    assert attention - plain == 3 + program.CHECKPOINT_CALLS
    assert norms - plain == 2 * (4 + program.CHECKPOINT_CALLS)


def test_kernels_of_a_backward_wait_for_launches_of_what_runs_again_alone() -> None:
    """A forward that runs again asks for its loads once more, and is launched then; the host is ahead of what follows."""
    plan = replace(SPREAD, recompute_modules=("moe",))
    workload = stages_of(scenario(model=MOE, batch=Batch(8, 8), stack=WAITS), plan).workload
    asking, rest = (task for task in section(workload.step, "expert_layer", Phase.B) if isinstance(task, Launches))
    forward, _ = launches(plan, Phase.F)
    assert (asking.of_loads, asking.of_experts, asking.asks, asking.stream) == (forward.of_loads, forward.of_experts, True, COMPUTE_STREAM)
    assert (rest.of_experts, rest.asks, rest.stream) == (OF_AN_EXPERT[Phase.B], False, LAUNCH)
    assert asking.count == 0 and rest.count > launches(SPREAD, Phase.B)[0].count  # the router runs again, whose sizes nobody asks for
    assert not [str(each) for each in verify_plan(scenario(model=MOE, batch=Batch(8, 8), stack=WAITS), plan, "toy") if not each.ok]


def test_matmuls_of_experts_that_run_again_by_themselves_ask_for_no_loads() -> None:
    """Tokens stay where they were moved, so that their sizes are known."""
    plain, _ = launches(SPREAD, Phase.B)
    for ops in (("experts_gate_gemm",), ("experts_gate_gemm", "experts_up_gemm")):
        found, _ = launches(replace(SPREAD, recompute_ops=ops), Phase.B)
        assert (found.of_loads, found.asks, found.stream) == (plain.of_loads, False, LAUNCH)
        assert found.count == plain.count + program.CHECKPOINT_CALLS


def test_weight_gradients_of_experts_by_themselves_are_launched_for_each_expert_and_by_nothing_else() -> None:
    """Of three matrices, and a hook for each: those of gate and up are one call.  Graphs replay all besides."""
    plan = replace(SPREAD, pipeline_parallel=2, schedule="zero_bubble_h1")
    found, microseconds = launches(plan, Phase.W, AROUND_EXPERTS)
    assert (found.of_loads, found.of_experts, microseconds) == (0, 4, 4 * 2)


@pytest.mark.parametrize("again", [{"recompute_modules": ("moe",)}, {"recompute": "full"}])
@pytest.mark.parametrize("shared", [0, MOE.shared_ffn_hidden_size])
def test_what_runs_again_as_far_as_it_is_needed_is_launched_as_far(again: dict[str, Any], shared: int) -> None:
    """A layer that stops early has no last matmul and no way back, if no shared expert stands behind it, whose inputs are needed."""
    stops = "recompute" in again and not shared  # of modules nothing but the layer's last sum is left out
    model, stack = replace(MOE, shared_ffn_hidden_size=shared), replace(WAITS, recompute_early_stop=True)
    workload = stages_of(scenario(model=model, batch=Batch(8, 8), stack=stack), replace(SPREAD, **again)).workload
    asking, rest = (task for task in section(workload.step, "expert_layer", Phase.B) if isinstance(task, Launches))
    assert asking.of_loads == BETWEEN[Phase.F] + EXCHANGES - 2 * stops  # unpermute, and the exchange before it
    assert (asking.of_experts, rest.of_experts) == (OF_AN_EXPERT[Phase.F] - stops, OF_AN_EXPERT[Phase.B])


def added_s(num_layers: int = 1) -> float:
    """By a nanosecond a launch: ends of the model, which launch beside their kernels, are slow enough to hide it."""
    one = replace(MOE, num_layers=num_layers, num_dense_layers=0)
    hosts = (replace(WAITS, host_launch_s=each, expert_launch_s=each) for each in (0.0, 1e-9))
    free, paid = (estimate(scenario(model=one, batch=Batch(1, 8), stack=host), Plan()).step_s for host in hosts)
    return paid - free


def test_a_layer_takes_as_much_longer_as_launches_of_its_forward_and_all_readers_agree() -> None:
    found, _ = launches(Plan(), Phase.F)
    assert added_s() == pytest.approx((found.count + found.of_loads + 2 * 4) * 1e-9, rel=1e-6)
    case = scenario(model=MOE, batch=Batch(8, 8), stack=WAITS)
    assert not [str(each) for each in verify_plan(case, replace(SPREAD, zero_stage=1), "toy") if not each.ok]


def test_launches_that_nothing_waits_for_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "COMPUTE_STREAM", LAUNCH)
    kept = program.section, program._around, program._with_surroundings
    for each in kept:
        each.cache_clear()
    try:
        assert added_s() == 0
    finally:
        for each in kept:
            each.cache_clear()
