"""Recomputation by Megatron Core's modules: what each keeps and runs again, counted by hand, and executed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate, stages_of
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.recomputation import in_vain
from parsim.report.explain import explain
from parsim.scenario.rows import read
from parsim.schedules.phase import Phase
from parsim.step.task import Collective, Compute, Task
from parsim.verify import verify_plan
from support import GPT, STACK, enough, scenario, tiered

TOKENS, D, A, F, HEADS = 8, 12, 16, 16, 4  # of the toy model in one micro_batch: widths of stream, attention and MLP
SCORES = HEADS * 8 * 8  # of a micro_batch: heads x queries x keys
SPLIT = Plan(tensor_parallel=2, sequence_parallel=True)
BARE = replace(GPT, dropout=0.0)
INSIDE = replace(STACK, fusions=("norm_gemm",))  # norms in the linear layers behind them
LLAMA = replace(BARE, num_kv_heads=2, activation="swiglu", norm="rms_norm", positions="rotary", bias=False, qkv_bias=False)


def kept(modules: Sequence[str], stack: Stack = STACK) -> int:
    """Bytes that one layer keeps of one micro_batch."""
    workload = stages_of(scenario(model=BARE, stack=stack), Plan(recompute_modules=tuple(modules))).workload
    return sum(int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["layer"].kept[Phase.F])


def again(plan: Plan, stack: Stack = STACK) -> list[Task]:
    segment = stages_of(scenario(model=BARE, stack=stack), plan).workload.step.segments["layer"]
    return [task for task in segment.phases[Phase.B] if isinstance(task, Compute | Collective) and task.again]


@pytest.mark.parametrize(
    ("modules", "saved"),
    [
        (["core_attn"], 2 * SCORES),  # the probabilities; q, k, v, and what attention hands on stay
        (["mlp"], 2 * TOKENS * 2 * F),  # what the up projection gives, and what the nonlinearity makes of it; the norm's result stays
        (["layernorm"], 2 * TOKENS * 2 * D),  # what both norms hand on
        (["core_attn", "mlp", "layernorm"], 2 * SCORES + 2 * TOKENS * 2 * (F + D)),
    ],
)
def test_a_module_that_runs_again_frees_what_lies_inside_it_and_layernorm_also_what_it_hands_on(modules: list[str], saved: int) -> None:
    assert kept([]) - kept(modules) == saved


def test_a_norm_inside_a_linear_layer_runs_again_with_the_mlp_and_not_by_itself() -> None:
    assert kept([], INSIDE) - kept(["mlp"], INSIDE) == 2 * TOKENS * (2 * F + D)
    assert kept(["layernorm"], INSIDE) == kept([], INSIDE)
    assert list(in_vain(Plan(recompute_modules=("layernorm",)), read("stacks", "megatron-core"))) == [
        "layernorm changes nothing: in megatron-core a norm is part of the linear layer behind it, so that mlp runs its own again"
    ]


def test_a_checkpointed_mlp_runs_again_whole_with_both_of_its_collectives() -> None:
    """Megatron Core's tensor_parallel.checkpoint runs the module's forward, which gathers its input and scatters its sum."""
    tasks = again(replace(SPLIT, recompute_modules=("mlp",)))
    mlp = ["enter_mlp.all_gather", "up_gemm", "up_bias", "activation", "down_gemm", "leave_mlp.reduce_scatter"]
    # Of these, the inputs of both column-parallel layers are gathered again for the gradients of their weights, as without recomputation.
    assert [task.name for task in tasks] == [*mlp, "enter_mlp.all_gather", "enter_attention.all_gather"]


def test_a_checkpointed_mlp_sums_its_result_over_tp_once_more() -> None:
    plain, checkpointed = (estimate(scenario(), Plan(tensor_parallel=2, recompute_modules=m)).sent_bytes[0]["tp"] for m in ((), ("mlp",)))
    summed = 2 * TOKENS * D * 2 // 2  # of a ring of two: twice half of the tensor in bf16
    assert checkpointed - plain == GPT.num_layers * Plan().num_micro_batches(scenario().batch) * summed


def test_an_op_that_runs_again_shares_the_gathering_of_the_gradient_that_needs_the_same_input() -> None:
    tasks = again(replace(SPLIT, recompute_ops=("up_gemm",)))
    assert [task.name for task in tasks] == ["enter_mlp.all_gather", "up_gemm", "up_bias", "enter_attention.all_gather"]


@pytest.mark.parametrize("model", [tiered(GPT, "gpt", slow=False), tiered(LLAMA, "llama", slow=True)])
@pytest.mark.parametrize("plan", [SPLIT, replace(SPLIT, pipeline_parallel=2, schedule="zero_bubble_h1")], ids=["sp", "zero bubble"])
@pytest.mark.parametrize("modules", ["core_attn mlp", "layernorm", "core_attn layernorm mlp"])
def test_modules_are_executed_as_they_are_counted(model: object, plan: Plan, modules: str) -> None:
    chosen = scenario(model=model, batch=enough(plan), stack=replace(STACK, tensor_overlap=True))
    assert not [check for check in verify_plan(chosen, replace(plan, recompute_modules=tuple(modules.split())), modules) if not check.ok]


@pytest.mark.parametrize("ops", [("attention_add", "norm2_wide"), ("out_gemm", "attention_add", "norm2_wide"), ("k_gemm",)], ids=" ".join)
def test_what_writes_the_buffer_of_an_op_goes_along(ops: tuple[str, ...]) -> None:
    chosen = scenario(model=LLAMA, batch=enough(SPLIT))
    assert not [check for check in verify_plan(chosen, replace(SPLIT, recompute_ops=ops), "p") if not check.ok]


def test_a_stack_may_mean_modules_by_selective() -> None:
    both = replace(STACK, selective_recompute=("core_attn", "mlp"))
    plans = Plan(recompute="selective"), Plan(recompute_modules=("core_attn", "mlp"))
    found = [estimate(scenario(stack=stack), plan) for stack, plan in zip((both, STACK), plans, strict=True)]
    assert found[0].memory_bytes == found[1].memory_bytes and found[0].step_s == found[1].step_s


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"recompute_modules": ("moe_act",)}, "no module 'moe_act' in a layer of model"),
        (
            {"recompute_modules": ("core_atn",)},
            "no module 'core_atn' of a layer (did you mean 'core_attn'?); an op is one of recompute_ops.",
        ),
        ({"recompute_modules": ("mlp",), "recompute": "full"}, "recompute = full runs every op again already. Leave recompute_modules out"),
        ({"recompute_modules": ("mlp",), "recompute_ops": ("up_gemm",)}, "recompute_modules = mlp runs up_gemm again already."),
    ],
)
def test_a_module_that_cannot_run_again_is_told_with_what_can(plan: dict[str, object], sentence: str) -> None:
    found = faults(Plan(**plan), GPT, Batch(8, 8), 1, stack=STACK)  # type: ignore[arg-type]
    assert [str(fault).startswith(sentence) for fault in found] == [True], found


def test_core_attention_that_is_flash_is_said_to_run_again_for_nothing() -> None:
    flash = replace(STACK, attention="flash")
    said = "flash attention stores no scores: running it again (core_attn) frees next to nothing and costs its time"
    assert list(in_vain(Plan(recompute="selective"), flash)) == list(in_vain(Plan(recompute_modules=("core_attn",)), flash)) == [said]
    assert not list(in_vain(Plan(recompute="selective"), STACK)) and not list(in_vain(Plan(), flash))
    noted = [
        label for note in explain(scenario(stack=flash, plans={"p": Plan(recompute="selective")}), "p", "flash") for label, _ in note.lines
    ]
    assert noted.count("in vain") == 1
    log_sum_exp = 4 * HEADS * TOKENS
    assert kept([], flash) - kept(["core_attn"], flash) == log_sum_exp
