"""Linear layers in 8 bits: what they multiply, keep and send is narrow, every reader charges it, and the numbers stay near."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import pytest
from msgspec.structs import replace

from narrow_toys import ALL, ALONE, FUSED, LLAMA, NARROW, SEQUENCE, SHARDS, WIDE_ENDS, is_seen, kept_bytes, red, tasks
from parsim.cost import buckets, count
from parsim.errors import ParsimError
from parsim.estimator import memory
from parsim.estimator.estimate import estimate, estimate_legal, stages_of
from parsim.executor.evaluate import evaluate
from parsim.executor.run import execute
from parsim.model.dims import COMPUTE, LINEAR, MATMUL, QUANTISED
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.precision import RECIPES, Narrowing, with_wide_ends
from parsim.schedules.phase import Phase
from parsim.simulator import memory as simulated
from parsim.step import finish, lower, program
from parsim.step.quantise import _Quantiser
from parsim.step.task import Collective, Compute
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, machine
from parsim_kernels.narrow import nearest
from support import CLUSTER, GPT, NODE, TOY, every_other, scenario

PLANS = {
    "sp": SEQUENCE,
    "tp-zero1": Plan(data_parallel=2, tensor_parallel=2, zero_stage=1),
    "zero3-zbh1": Plan(data_parallel=2, zero_stage=3, pipeline_parallel=2, schedule="zero_bubble_h1"),
    "full-in-backward": Plan(data_parallel=2, recompute="full", optimizer_in_backward=True, micro_batch=4),
}


@pytest.mark.parametrize("case", every_other(PLANS, NARROW, "{}-{}".format, 4))
def test_all_readers_agree(case: tuple[str, str]) -> None:
    assert not red(case[1], PLANS[case[0]])


@pytest.mark.parametrize("plan", [SEQUENCE, Plan(data_parallel=2, zero_stage=3, recompute="full")], ids=["sp", "zero3-full"])
def test_all_readers_agree_where_one_layout_is_enough(plan: Plan) -> None:
    """And kernels write one copy of each input and weight where others write two."""
    batch = Batch(4 * plan.data_parallel, 8, "fp8_current", one_layout=True)
    case = scenario(model=LLAMA, batch=batch, stack=FUSED)
    assert not [str(each) for each in verify_plan(case, plan, "toy") if not each.ok]
    both = estimate(replace(case, batch=replace(batch, one_layout=False)), plan)
    assert estimate(case, plan).hbm_bytes < both.hbm_bytes and estimate(case, plan).peak_bytes <= both.peak_bytes


MIXED = {
    "pp-sp-every-2nd": Plan(pipeline_parallel=2, tensor_parallel=2, sequence_parallel=True, recompute="full", recompute_every=2),
    "zero3": Plan(data_parallel=2, zero_stage=3),
    "interleaved-zero1": Plan(
        pipeline_parallel=2, virtual_pipeline=2, data_parallel=2, zero_stage=1, schedule="interleaved_1f1b", recompute="selective"
    ),
}


@pytest.mark.parametrize("case", every_other(MIXED, ("fp8_current", "nvfp4"), "{}-{}".format))
def test_all_readers_agree_where_layers_stay_in_bf16(case: tuple[str, str]) -> None:
    assert not red(case[1], MIXED[case[0]], batch=WIDE_ENDS)


KEPT = {
    "tp": Plan(tensor_parallel=2),
    "sp-zero1": Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, zero_stage=1),
    "pp-zero2": Plan(data_parallel=4, zero_stage=2, pipeline_parallel=2, recompute="full"),
}


@pytest.mark.parametrize("case", every_other(KEPT, ("fp8_current", "fp8_blockwise", "nvfp4", "mxfp8"), "{}-{}".format, 3))
def test_all_readers_agree_where_weights_are_kept_narrow_alone(case: tuple[str, str]) -> None:
    """Of a model whose parts of matrices take whole bytes in every format."""
    assert not red(case[1], KEPT[case[0]], stack=ALONE, model=replace(LLAMA, hidden_size=32))


GATHERED = {
    "full": Plan(data_parallel=2, zero_stage=3, recompute="full"),
    "sp": Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, zero_stage=3),
    "zbh1": Plan(data_parallel=2, pipeline_parallel=2, zero_stage=3, schedule="zero_bubble_h1"),
}
FROM = {
    "kept": (ALONE, "fp8_current"),
    "cast, delayed": (SHARDS, "fp8_delayed"),
    "kept, delayed": (ALONE, "fp8_delayed"),
    "cast": (SHARDS, "fp8_current"),
}


@pytest.mark.parametrize("case", every_other(GATHERED, FROM, "{}-{}".format, 3))
def test_all_readers_agree_where_passes_gather_narrow_weights(case: tuple[str, str]) -> None:
    """From narrow shards that last, or, beside other work, from those that are cast of master weights."""
    stack, name = FROM[case[1]]
    assert not red(name, GATHERED[case[0]], stack=stack)


def test_layers_in_bf16_take_what_they_take_in_bf16() -> None:
    """Of 4 layers the first and the last two, so that one is narrow: FLOPs, bytes and memory are those of three wide and one narrow."""

    def one(each: Batch) -> dict[str, int]:
        found = estimate_legal(scenario(model=LLAMA, batch=each, stack=FUSED), Plan())
        return {"bytes": found.hbm_bytes[0], "flops": found.flops[0], **found.memory_bytes[0]}

    wide, mixed, narrow = map(one, (replace(WIDE_ENDS, dtype="bf16"), WIDE_ENDS, ALL))
    for name in ("bytes", "flops", "parameters", "activations"):
        assert 4 * (mixed[name] - wide[name]) == narrow[name] - wide[name] != 0, name


def test_linear_layers_multiply_in_the_narrow_type_and_nothing_else_does() -> None:
    every = [task for phase in (Phase.F, Phase.B) for task in tasks("fp8_current", phase)]
    gemms = [task for task in every if isinstance(task, Compute) and task.kernel == "einsum"]
    names = {task.name.partition(".")[0].removesuffix("_gemm") for task in gemms if task.dtype == LINEAR}
    assert names == {"q", "k", "v", "out", "gate", "up", "down"} and len(gemms) == 3 * len(names)
    ends = [task for end in ("embedding", "head") for phase in (Phase.F, Phase.B) for task in tasks("fp8_current", phase, end)]
    assert {task.dtype for task in ends if isinstance(task, Compute)} == {MATMUL}


def saved_bytes() -> int:
    """By hand: of what norms, attention, MLP and output read again, the inputs of linear layers take 1 byte where they took 2.

    Attention's own gradient reads what it mixed, too, so that the output's input is a copy.
    """
    return 8 * (2 * GPT.hidden_size + GPT.ffn_hidden_size - GPT.num_heads * GPT.head_dim)


def test_forward_keeps_narrow_inputs_of_linear_layers_for_backward() -> None:
    assert kept_bytes("bf16") - kept_bytes("fp8_delayed") == saved_bytes()


def test_narrow_numbers_are_gathered_and_sums_are_wide() -> None:
    sent = [task for phase in (Phase.F, Phase.B) for task in tasks("fp8_current", phase) if isinstance(task, Collective)]
    assert {(task.operation, task.source.dtype) for task in sent} == {("all_gather", QUANTISED), ("reduce_scatter", COMPUTE)}
    wide = [task for phase in (Phase.F, Phase.B) for task in tasks("bf16", phase) if isinstance(task, Collective)]
    assert len(sent) == len(wide)


def test_narrow_weights_last_beside_the_others_and_are_made_once_a_step() -> None:
    """Two layouts of a byte each; in ZeRO 3 each pass makes them."""
    matrices = 4 * LLAMA.hidden_size * (4 * LLAMA.num_heads * LLAMA.head_dim + 3 * LLAMA.ffn_hidden_size)
    cases = (scenario(model=LLAMA, batch=Batch(8, 8, name), stack=FUSED) for name in ("bf16", "fp8_current"))
    wide, narrow = (estimate(case, Plan()).memory_bytes[0]["parameters"] for case in cases)
    assert narrow - wide == 2 * matrices
    for stage, made in ((1, 0), (3, 7)):
        plan = Plan(data_parallel=2, zero_stage=stage)
        forward = tasks("fp8_delayed", Phase.F, plan=plan)
        assert sum(isinstance(task, Compute) and task.name.endswith("weight.quantise") for task in forward) == made


MATRICES = 4 * LLAMA.hidden_size * (4 * LLAMA.num_heads * LLAMA.head_dim + 3 * LLAMA.ffn_hidden_size)
SCALES = 4 * 7  # one a matrix of four layers


def saved_by(stack: Stack, stage: int, name: str = "fp8_current") -> tuple[int, int]:
    """Bytes of parameters that a stack saves by weights that are narrow alone, and those that each of two ranks sends."""
    plan, stacks = Plan(data_parallel=2, zero_stage=stage), (replace(stack, narrow_parameters=()), stack)
    beside, alone = (estimate(scenario(model=LLAMA, batch=Batch(8, 8, name), stack=each), plan) for each in stacks)
    parameters = beside.memory_bytes[0]["parameters"] - alone.memory_bytes[0]["parameters"]
    return parameters, beside.sent_bytes[0]["dp"] - alone.sent_bytes[0]["dp"]


SCALES_SENT = 2 * (2 - 1) * SCALES * 4 // 2  # a ring of two sends each of its two halves once
SAVED_BY_ZERO_3 = (-4 * SCALES, 2 * 4 * MATRICES // 2 - SCALES_SENT)


def test_narrow_weights_alone_take_a_byte_an_element_a_layout_and_as_much_to_gather() -> None:
    """By hand: no 2 bytes beside them, half of their new values are sent at a byte and not at 2, and 4 bytes a matrix to find its scale.

    In ZeRO 3 half of them lasts in one layout, or none where master weights do, and two passes of each of four micro_batches gather.
    """
    assert saved_by(ALONE, 1) == (2 * MATRICES - 4 * SCALES, MATRICES // 2 - SCALES_SENT)
    assert saved_by(ALONE, 3) == (MATRICES // 2 - 4 * SCALES, SAVED_BY_ZERO_3[1])
    assert saved_by(SHARDS, 3) == SAVED_BY_ZERO_3


@pytest.mark.parametrize("name", ["fp8_rowwise", "fp8_blockwise", "mxfp8", "nvfp4"])
def test_zero_3_gathers_wide_what_has_more_than_one_scale_a_tensor(name: str) -> None:
    assert saved_by(SHARDS, 3, name) == (0, 0)


def narrow_weights_alone_follow(name: str = "fp8_current", stage: int = 1, stack: Stack = ALONE) -> bool:
    """Whether three steps of ranks that gather narrow weights have the losses of those that gather wide ones and quantise them."""
    wide, plan = replace(stack, narrow_parameters=()), Plan(data_parallel=2, zero_stage=stage)
    cases = (scenario(model=LLAMA, batch=Batch(2, 8, name), stack=each) for each in (stack, wide))
    alone, beside = (execute(case, plan, num_steps=3).losses for case in cases)
    return max(abs(one / other - 1) for one, other in zip(alone, beside, strict=True)) < 1e-9


@pytest.mark.parametrize("name", ["fp8_delayed", "fp8_blockwise", "nvfp4"])
def test_narrow_weights_alone_are_those_of_the_last_update(name: str) -> None:
    assert narrow_weights_alone_follow(name)


@pytest.mark.parametrize("stack", [ALONE, SHARDS], ids=["kept", "cast"])
def test_narrow_weights_that_passes_gather_are_those_of_the_last_update(stack: Stack) -> None:
    assert narrow_weights_alone_follow(stage=3, stack=stack)


@cache
def losses(name: str) -> tuple[float, ...]:
    """Of eight steps of the toy."""
    return tuple(execute(scenario(model=LLAMA, batch=Batch(4, 8, name), stack=FUSED), Plan(), num_steps=8).losses)


@pytest.mark.parametrize(
    ("name", "within"),
    [("fp8_current", 0.005), ("fp8_rowwise", 0.005), ("fp8_blockwise", 0.005), ("mxfp8", 0.005), ("nvfp4", 0.02), ("mxfp4", 0.02)],
)
def test_losses_stay_near_those_of_full_precision(name: str, within: float) -> None:
    """E4m3 rounds to 1 part in 16 at worst, e2m1 to 1 in 4, and a loss averages over all that is rounded."""
    narrow, whole = losses(name), losses("fp32")
    assert 0 < max(abs(mine / full - 1) for mine, full in zip(narrow, whole, strict=True)) < within
    assert narrow[-1] < narrow[0]


def narrow_weights_follow() -> bool:
    """Whether the narrow weights after a step are those of the new weights: the same losses as where each pass makes them."""
    case, sharded = scenario(model=LLAMA, batch=Batch(2, 8, "fp8_delayed"), stack=FUSED), Plan(data_parallel=2, zero_stage=3)
    lasting = execute(case, Plan(micro_batch=2), num_steps=3, rounds_as=sharded).losses
    passing = execute(case, sharded, num_steps=3).losses
    return max(abs(one / other - 1) for one, other in zip(lasting, passing, strict=True)) < 1e-9


def test_narrow_weights_are_those_of_the_last_update() -> None:
    """Ranks of ZeRO 3 make them from what they gather."""
    assert narrow_weights_follow()


def test_a_score_is_that_of_the_weights_that_it_is_asked_of() -> None:
    """Not of narrow ones from before: without its up projections a model scores otherwise."""
    done = execute(scenario(model=LLAMA, batch=ALL, stack=FUSED), Plan())
    weights, rows = done.weights[0], {name: np.arange(16).reshape(2, 8) for name in ("tokens", "labels")}
    without = {name: each * (not name.endswith("up.weight")) for name, each in weights.items()}
    assert abs(evaluate(done.job, weights, rows).loss - evaluate(done.job, without, rows).loss) > 1e-4


def test_a_stack_states_what_gemms_of_a_dtype_sustain() -> None:
    """Half of it takes the GEMMs of linear layers twice as long; nothing else."""
    cluster = replace(
        CLUSTER, node=replace(NODE, accelerator=replace(TOY, hbm_bandwidth_bytes_per_s=1e30, gemm=replace(TOY.gemm, launch_s=0.0)))
    )
    prices = []
    for share in (1.0, 0.5):
        case = scenario(model=LLAMA, batch=Batch(4, 8, "mxfp8"), stack=replace(FUSED, sustained_factor={"mxfp8": share}), cluster=cluster)
        workload = stages_of(case, Plan()).workload
        forward = (*workload.step.segments["layer"].phases[Phase.F], *workload.step.segments["head"].phases[Phase.F])
        prices.append({task.name: int(workload.ps(task)[0]) for task in forward if isinstance(task, Compute) and task.kernel == "einsum"})
    assert prices[1]["up_gemm"] == pytest.approx(2 * prices[0]["up_gemm"], rel=1e-9)
    assert prices[1]["logits_gemm"] == prices[0]["logits_gemm"]


def loss_of(name: str) -> float:
    return execute(scenario(model=LLAMA, batch=Batch(4, 8, name), stack=FUSED), Plan()).loss


def test_a_recipe_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the README: all readers agree on it, and it is no other."""
    row = replace(RECIPES["fp8_current"], narrows=Narrowing(forward="e5m2", gradient="e5m2", measures=True))
    monkeypatch.setitem(RECIPES, "fp8_e5m2", row)
    assert not red("fp8_e5m2", SEQUENCE)
    assert loss_of("fp8_e5m2") not in (loss_of("fp8_current"), loss_of("bf16"))


def test_an_accelerator_that_lacks_the_type_refuses() -> None:
    without = replace(TOY, peak_flops_per_s={"bf16": 1e9})
    assert RECIPES["fp8_current"].without_peak(without.peak_flops_per_s) == "fp8"
    cluster = replace(CLUSTER, node=replace(NODE, accelerator=without))
    with pytest.raises(ParsimError, match='accelerator "toy" has no peak for'):
        estimate(scenario(batch=Batch(8, 8, "fp8_current"), cluster=cluster), Plan())


def _gradients_in_the_forward_format(patch: pytest.MonkeyPatch) -> None:
    right = Narrowing.attributes
    patch.setattr(_Quantiser, "told_of_gradients", lambda self: right(self.how))


def _no_scale(patch: pytest.MonkeyPatch) -> None:
    def quantise(inputs, attributes, out):  # type: ignore[no-untyped-def]
        layouts = str(attributes["layouts"]).split()
        return tuple(nearest(inputs[0], str(attributes["format"])) for _ in layouts), 2 * inputs[0].size

    patch.setattr(machine, "KERNELS", {**KERNELS, "quantise": quantise})


def _quantising_moves_nothing(patch: pytest.MonkeyPatch) -> None:
    right = count.hbm_bytes
    patch.setattr(count, "hbm_bytes", lambda task, sizes, *held: right(task, sizes, *held) * (getattr(task, "kernel", "") != "quantise"))


def _the_head_too(patch: pytest.MonkeyPatch) -> None:
    right = lower._segment.__wrapped__
    how = RECIPES["fp8_current"].narrows
    narrow = lambda switches: switches._replace(kernels=switches.kernels._replace(narrows=how))  # noqa: E731
    patch.setattr(lower, "_segment", lru_cache(lambda name, switches: right(name, narrow(switches))))


def _activations_kept_wide(patch: pytest.MonkeyPatch) -> None:
    right = _Quantiser.kernels

    def kernels(self, *args, **more):  # type: ignore[no-untyped-def]
        for call in right(self, *args, **more):
            outputs = tuple((name, dims, COMPUTE if role == QUANTISED else role) for name, dims, role in call.outputs)
            yield replace(call, outputs=outputs)

    patch.setattr(_Quantiser, "kernels", kernels)


def _one_more_layer_is_wide(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim.parallel.plan.with_wide_ends", lambda layout, start, end: with_wide_ends(layout, start, end + 1))


def _each_rank_scales_its_own_part(patch: pytest.MonkeyPatch) -> None:
    right = finish._gather_narrow

    def gather(*told):  # type: ignore[no-untyped-def]
        return (task for task in right(*told) if getattr(task, "operator", "") != "max")

    patch.setattr(finish, "_gather_narrow", gather)


def _shards_cast_by_the_scales_of_the_first_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finish, "_gather_narrow", lambda *_: iter(()))


def _gathered_as_they_are_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(program, "to_gather", lambda s, own, part: iter((finish.parameters(s, own, part),)))


def _second_layouts_of_the_last_step(patch: pytest.MonkeyPatch) -> None:
    right = finish._narrow_weights
    patch.setattr(finish, "_narrow_weights", lambda *told: (task for task in right(*told) if task.name != "transpose_weights"))


def _wide_weights_beside_narrow_ones(patch: pytest.MonkeyPatch) -> None:
    right = buckets.lasting_weights
    for module in (memory, simulated):
        patch.setattr(module, "lasting_weights", lambda own, role, s: own if role == "parameters" else right(own, role, s))


def _weights_of_the_last_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finish, "_narrow_weights", lambda *_: iter(()))


@pytest.mark.parametrize(
    ("mutant", "noticed"),
    [
        (_gradients_in_the_forward_format, lambda: "weight gradients, by hand" in red("fp8_current", Plan())),
        (_no_scale, lambda: "loss, by hand" in red("fp8_current", Plan())),
        (_quantising_moves_nothing, lambda: "HBM bytes" in red("fp8_current", Plan())),
        (_the_head_too, lambda: "loss, by hand" in red("fp8_current", Plan())),
        (_activations_kept_wide, lambda: kept_bytes("bf16") - kept_bytes("fp8_delayed") != saved_bytes()),
        (_one_more_layer_is_wide, lambda: "loss, by hand" in red("fp8_current", Plan(), batch=WIDE_ENDS)),
        (_each_rank_scales_its_own_part, lambda: not narrow_weights_alone_follow()),
        (_each_rank_scales_its_own_part, lambda: not narrow_weights_alone_follow(stage=3)),
        (_shards_cast_by_the_scales_of_the_first_step, lambda: not narrow_weights_alone_follow(stage=3, stack=SHARDS)),
        (_gathered_as_they_are_stored, lambda: saved_by(SHARDS, 3) != SAVED_BY_ZERO_3),
        (_second_layouts_of_the_last_step, lambda: not narrow_weights_alone_follow()),
        (_wide_weights_beside_narrow_ones, lambda: "peak bytes" in red("fp8_current", Plan(), stack=ALONE)),
        (_weights_of_the_last_step, lambda: not narrow_weights_follow()),
    ],
)
def test_a_mutant_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None], noticed: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_seen(mutant, noticed, monkeypatch)
