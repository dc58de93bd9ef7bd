"""What HSDP, kept parameters, recomputation of some layers or ops and an optimizer on the host cost, by arithmetic on the page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.model.families import blocks_of
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.report.results import remarks
from parsim.scenario.rows import read
from parsim.step import program
from parsim.verify import verify_plan
from support import GPT, STACK, STACKS, enough, forget_steps, scenario, tiered

UNTIED = replace(GPT, tied_embedding=False, vocab_size=64)  # no padding of the vocabulary
# Norms; q, k, v and out of 12 x 4 heads x 4 with their biases; up and down of 12 x 16 with theirs.
WEIGHTS_OF_A_LAYER = (12, 12, 12, 12, *(192,) * 4, 16, 16, 16, 12, 192, 16, 192, 12)
ENDS = (64 * 12, 8 * 12, 12, 12, 64 * 12)  # word and position tables, final norm, head
WEIGHTS = (*WEIGHTS_OF_A_LAYER * GPT.num_layers, *ENDS)


def sent(plan: Plan, **changes: object) -> dict[str, int]:
    return dict(estimate(scenario(model=UNTIED, batch=Batch(16, 8), **changes), plan).sent_bytes[0])


def shards(parts: int) -> int:
    return sum(-(-weight // parts) for weight in WEIGHTS)


def shards_of(weights: Sequence[int]) -> int:
    return sum(-(-weight // 2) for weight in weights)


def test_hsdp_gathers_and_scatters_in_its_group_and_sums_the_shards_over_the_groups_once() -> None:
    groups = sent(Plan(data_parallel=4, zero_stage=3, zero_group=2))
    passes, bf16, fp32 = 16 // 4, 2, 4
    scattered = shards(2)  # a ring of two sends one of the two parts
    norm = 4  # a ring of two: one float32 leaves the first rank
    assert groups["dp"] == passes * (2 * scattered * bf16 + scattered * fp32) + norm
    assert groups["dp_replicate"] == shards(2) * fp32  # 2 (n - 1) / n of a shard, with n = 2


def _of_a_tied_model(zero_stage: int) -> int:
    chosen = scenario(model=replace(UNTIED, tied_embedding=True), batch=Batch(16, 8))
    return estimate(chosen, Plan(data_parallel=2, zero_stage=zero_stage)).sent_bytes[0]["dp"]


@pytest.mark.parametrize(("zero_stage", "gathers"), [(2, 1), (3, 2 * 16 // 2)])
def test_the_gradient_of_a_tied_embedding_is_shared_out_once_a_micro_batch(
    zero_stage: int, gathers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When embedding and head have added to it; ZeRO 3 gathers the weight for either of them."""
    table, passes, bf16, fp32, norm = 64 * 12 // 2, 16 // 2, 2, 4, 4
    weights = gathers * (shards(2) - (zero_stage == 2) * table) * bf16
    assert _of_a_tied_model(zero_stage) == passes * (shards(2) - table) * fp32 + weights + norm
    monkeypatch.setattr(program, "_is_whole", lambda step: False)  # a mutant: twice
    forget_steps()
    assert _of_a_tied_model(zero_stage) == passes * shards(2) * fp32 + weights + norm


def test_zero_in_groups_of_all_replicas_is_zero() -> None:
    whole, group = (estimate(scenario(batch=Batch(16, 8)), Plan(data_parallel=4, zero_stage=3, zero_group=g)) for g in (None, 4))
    assert (whole.step_s, whole.memory_bytes, whole.sent_bytes) == (group.step_s, group.memory_bytes, group.sent_bytes)


def test_parameters_kept_from_forward_to_backward_are_gathered_once() -> None:
    plan = Plan(data_parallel=2, zero_stage=3)
    again, kept = sent(plan), sent(replace(plan, reshard_after_forward=False))
    assert again["dp"] - kept["dp"] == 16 // 2 * shards(2) * 2  # micro_batches x what a rank sends of bf16 weights
    whole = sum(2 * -(-weight // 2) for weight in WEIGHTS) * 2
    parts = [
        estimate(scenario(model=UNTIED, batch=Batch(16, 8)), each).memory_bytes[0]
        for each in (plan, replace(plan, reshard_after_forward=False))
    ]
    assert parts[1]["activations"] - parts[0]["activations"] == whole


KEPT = Plan(data_parallel=2, zero_stage=3, pipeline_parallel=2, reshard_after_forward=False)


def test_parameters_kept_under_a_pipeline_are_gathered_once_a_step_and_gradients_shared_out_once() -> None:
    rank = shards_of((*WEIGHTS_OF_A_LAYER * 2, 64 * 12, 8 * 12))  # of the first stage: two layers, word and position table
    norm = 4 + 4  # rings of two over dp and pp, one float32 each
    passes, bf16, fp32 = 16 // 2, 2, 4
    again, kept = (sent(replace(KEPT, reshard_after_forward=reshard))["dp"] for reshard in (True, False))
    assert kept - norm // 2 == rank * (bf16 + fp32)
    assert again - norm // 2 == passes * rank * (2 * bf16 + fp32)


def test_parameters_kept_under_a_pipeline_are_whole_in_the_dtype_of_matmuls_and_so_are_their_gradients() -> None:
    held = estimate(scenario(model=UNTIED, batch=Batch(16, 8)), KEPT).memory_bytes[0]
    rank = shards_of((*WEIGHTS_OF_A_LAYER * 2, 64 * 12, 8 * 12))
    assert (held["parameters"], held["gradients"], held["optimizer"]) == (2 * rank * 2, 2 * rank * 4, rank * 12)


def test_torchtitan_keeps_parameters_under_a_pipeline_and_nowhere_else() -> None:
    titan, plain = replace(STACK, pipeline_keeps_parameters=read("stacks", "torchtitan").pipeline_keeps_parameters), STACK
    left_out = replace(KEPT, reshard_after_forward=None)
    always = replace(KEPT, reshard_after_forward=True)
    assert sent(left_out, stack=titan) == sent(KEPT) != sent(left_out, stack=plain) == sent(always, stack=titan) == sent(always)
    alone = Plan(data_parallel=2, zero_stage=3)
    assert sent(alone, stack=titan) == sent(alone, stack=plain)
    said = "toy keeps gathered parameters for all micro-batches of a pipeline, unless reshard_after_forward = true"
    assert [remarks(scenario(stack=replace(titan, name="toy")), plan) for plan in (left_out, KEPT, always, alone)] == [[said], [], [], []]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zero_bubble_h1"])
def test_parameters_kept_under_a_pipeline_are_executed_as_they_are_counted(schedule: str) -> None:
    chosen = scenario(batch=Batch(8, 8), stack=STACKS[1])
    assert not [check for check in verify_plan(chosen, replace(KEPT, schedule=schedule), "kept") if not check.ok]


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5])
def test_recomputation_of_each_nth_layer_runs_that_many_forwards_again(every: int) -> None:
    chosen = scenario(batch=Batch(2, 8))
    none, all_, some = (
        estimate(chosen, plan).flops[0] for plan in (Plan(), Plan(recompute="full"), Plan(recompute="full", recompute_every=every))
    )
    assert (some - none) * GPT.num_layers == (all_ - none) * (GPT.num_layers // every)


def test_an_op_that_runs_again_adds_its_flops_and_keeps_its_input_only() -> None:
    chosen = scenario(batch=Batch(2, 8))
    plain, again = (estimate(chosen, Plan(recompute_ops=ops)) for ops in ((), ("activation",)))
    elements = 8 * 16  # of a micro_batch's hidden tensor: tokens x ffn
    assert again.flops[0] - plain.flops[0] == 2 * GPT.num_layers * 8 * elements  # micro_batches x layers x FLOPs of a GELU
    assert plain.memory_bytes[0]["activations"] - again.memory_bytes[0]["activations"] == GPT.num_layers * elements * 2


SPLITS = {"tp": Plan(tensor_parallel=2), "sp": Plan(tensor_parallel=2, sequence_parallel=True), "dp": Plan(data_parallel=2)}
KINDS = dict(zip(("plain", "overlapped", "flash", "unfused"), STACKS, strict=True))
ALL = ("sp", "unfused")
OTHERS = {("tp", "overlapped"): ("out_gemm", "activation", "down_gemm"), ("dp", "flash"): ("flash",)}  # the rest of these is slow
ALONE = [(split, kind) for split in SPLITS for kind in KINDS if (split, kind) not in (ALL, *OTHERS)]


def ops_of(kind: str) -> tuple[str, ...]:
    """What a layer may run again."""
    layer = blocks_of(GPT.architecture, KINDS[kind].attention, KINDS[kind].fusions)["layer"]
    return tuple(op.name for op in layer.ops if op.kind != "relabel")


CASES = [tiered((*ALL, ops_of(ALL[1])[::2]), "-".join(ALL), slow=False), tiered((*ALL, ()), "-".join((*ALL, "all")), slow=True)]
CASES += [tiered((*case, ops), "-".join(case), slow=False) for case, ops in OTHERS.items()]
CASES += [tiered((*case, ()), "-".join((*case, "all")), slow=True) for case in (*OTHERS, *ALONE)]


@pytest.mark.parametrize("case", CASES)
def test_every_op_of_a_layer_may_run_again(case: tuple[str, str, tuple[str, ...]]) -> None:
    """One at a time: all that writes its buffer goes along, a row-parallel matmul with its collective.

    Two layers and two micro_batches: what runs again stands between neighbours of both, and a rank keeps nothing of others.
    """
    plan, model, ops = SPLITS[case[0]], replace(GPT, num_layers=2), case[2]
    chosen = scenario(model=model, batch=enough(plan), stack=KINDS[case[1]])
    for name in ops or ops_of(case[1]):
        assert not [check for check in verify_plan(chosen, replace(plan, recompute_ops=(name,)), name) if not check.ok], name


def test_an_optimizer_on_the_host_holds_nothing_on_the_device_and_sends_every_gradient_there() -> None:
    plan = Plan(offload_optimizer=True)
    off = estimate(scenario(model=UNTIED), plan)
    assert off.memory_bytes[0]["optimizer"] == 0
    assert off.sent_bytes[0]["host"] == sum(WEIGHTS) * 4  # float32 gradients
    on = estimate(scenario(model=UNTIED), Plan())
    assert on.flops[0] - off.flops[0] == sum(WEIGHTS) * 12  # Adam, which the host's processor runs
    node = scenario().cluster.node
    link_s = 2 * 1e-6 + sum(WEIGHTS) * (4 + 2) / 1e8  # gradients there, bf16 weights back, over the toy link
    host_s = sum(WEIGHTS) * (2 * (4 + 8) + 4) / (node.host_memory_bytes_per_s / 4)  # weight and moments read and written, gradient read
    device_s = on.breakdown_s["optimizer"] - off.breakdown_s["optimizer"] + host_s  # update and cast that the device is spared
    assert off.step_s - on.step_s == pytest.approx(link_s + host_s - device_s, abs=1e-11)


def test_a_mutant_that_leaves_the_host_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("estimator", "simulator"):
        monkeypatch.setattr(f"parsim.{reader}.memory.state_bytes", lambda structure, sizes: 12)
    wrong = [check.quantity for check in verify_plan(scenario(), Plan(offload_optimizer=True), "toy") if not check.ok]
    assert wrong == ["peak bytes", "peak bytes, simulated"]


def test_weights_come_back_from_the_host_as_they_were_updated_there() -> None:
    there, here = (execute(scenario(batch=Batch(2, 8)), Plan(offload_optimizer=off)) for off in (True, False))
    assert all((there.weights[0][name] == weight).all() for name, weight in here.weights[0].items())


def told(plan: Plan) -> list[str]:
    return [str(fault) for fault in faults(plan, GPT, Batch(8, 8), plan.data_parallel, stack=STACK)]


def test_what_cannot_be_is_told_with_what_can() -> None:
    assert told(Plan(data_parallel=4, zero_stage=3, zero_group=3)) == ["zero_group = 3 does not divide data_parallel = 4. Legal: 1, 2, 4"]
    assert told(Plan(data_parallel=4, zero_group=2)) == [
        "zero_group says over how many ranks ZeRO shards, but zero_stage = 0. Set zero_stage to 1, 2 or 3"
    ]
    assert "zero_stage = 1. Set zero_stage = 3" in told(Plan(data_parallel=2, zero_stage=1, reshard_after_forward=False))[0]
    assert "did you mean 'activation'?" in told(Plan(recompute_ops=("activaton",)))[0]
    assert "already" in told(Plan(recompute="full", recompute_ops=("norm1",)))[0]
    assert "recompute_every = 0 is not a positive whole number" in told(Plan(recompute_every=0))[0]
    assert "recompute_every = 2 says which layers recompute, but recompute = none" in told(Plan(recompute_every=2))[0]
    assert not told(Plan(recompute_every=2, recompute="selective")) and not told(Plan(recompute_every=2, recompute_ops=("norm1",)))
