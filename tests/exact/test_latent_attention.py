"""Latent attention (MLA) keeps the contract with every other way to split a step; its FLOPs and bytes are those of its matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate, stages_of
from parsim.executor.run import execute
from parsim.model.op_kinds import COSTS
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from parsim.verify import verify_plan
from parsim_kernels import latent
from parsim_kernels.kernels import KERNELS
from support import MOE, STACK, forget_steps, scenario, tiered

_WIDTHS = {"kv_lora_rank": 5, "q_lora_rank": 7, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3}
MLA = replace(
    MOE, name="toy mla", num_kv_heads=4, head_dim=6, qk_norm=False, num_experts=0, num_dense_layers=0, shared_ffn_hidden_size=0, **_WIDTHS
)  # type: ignore[arg-type]
LITE = replace(MLA, q_lora_rank=0)
EXPERTS = replace(MLA, num_experts=4, num_dense_layers=1, shared_ffn_hidden_size=4, gates="sigmoid")
FLASH = replace(STACK, attention="flash", tensor_overlap=True, fusions=("swiglu", "rms_norm", "norm_gemm", "gradient_accumulation"))
UNFUSED = replace(STACK, attention="unfused")
SEQUENCE: dict[str, object] = {"tensor_parallel": 2, "sequence_parallel": True}
CASES: dict[str, tuple[TransformerSpec, dict[str, object]]] = {
    "plain": (MLA, {}),
    "tp": (MLA, {"tensor_parallel": 4}),
    "sp": (MLA, SEQUENCE),
    "sp without a query's latent": (LITE, SEQUENCE),
    "cp gathers": (MLA, {"context_parallel": 2, "context_kind": "all_gather"}),
    "cp ring": (MLA, {"context_parallel": 2, "context_kind": "ring"}),
    "cp ulysses and sp": (LITE, {"context_parallel": 2, "context_kind": "ulysses", **SEQUENCE}),
    "pp zero3": (LITE, {"pipeline_parallel": 2, "data_parallel": 2, "zero_stage": 3}),
    "zbh1 sp": (MLA, {"pipeline_parallel": 2, "schedule": "zero_bubble_h1", **SEQUENCE}),
    "full": (MLA, {"recompute": "full", **SEQUENCE}),
    "mla_up_proj": (MLA, {"recompute_modules": ("mla_up_proj",), **SEQUENCE}),
    "mla_up_proj and core_attn": (LITE, {"recompute_modules": ("mla_up_proj", "core_attn", "layernorm"), "tensor_parallel": 2}),
    "experts": (EXPERTS, {"data_parallel": 2, "expert_parallel": 2, "pipeline_parallel": 2}),
}


def red(model: TransformerSpec, dtype: str = "bf16", stack=FLASH, **fields: object) -> set[str]:  # type: ignore[no-untyped-def]
    plan = Plan(**fields)  # type: ignore[arg-type]
    toy = scenario(model=model, batch=Batch(4 * plan.data_parallel, 8, dtype), stack=stack)
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", CASES)
def test_all_readers_agree(name: str) -> None:
    model, fields = CASES[name]
    assert not red(model, **fields)


@pytest.mark.parametrize("name", [tiered(name, name, slow=index % 4 > 0) for index, name in enumerate(CASES) if "ring" not in name])
def test_all_readers_agree_where_scores_are_stored_and_norms_written_out(name: str) -> None:
    model, fields = CASES[name]
    assert not red(model, stack=UNFUSED, **fields)


@pytest.mark.parametrize("dtype", ["fp8_blockwise", "fp8_current"])
@pytest.mark.parametrize("q_lora_rank", [16, 0])
def test_all_readers_agree_in_8_bits(q_lora_rank: int, dtype: str) -> None:
    """Matrices of whole blocks of scales."""
    widths = {"kv_lora_rank": 8, "qk_nope_head_dim": 6, "head_dim": 8, "v_head_dim": 4}
    model = replace(MLA, q_lora_rank=q_lora_rank, hidden_size=16, **widths)  # type: ignore[arg-type]
    assert not red(model, dtype, **SEQUENCE)


def test_parameters_and_flops_are_those_of_the_matrices() -> None:
    """By the names of the released code: q_a, q_b, kv_a, kv_b and o, and two norms between them."""
    hidden, heads, (kv, q, own, shared, value) = 12, 4, _WIDTHS.values()
    matrices = hidden * q + q * heads * (own + shared) + hidden * (kv + shared) + kv * heads * (own + value) + heads * value * hidden
    mlp = 3 * hidden * 16
    layers = MLA.num_layers * (matrices + q + kv + mlp + 2 * hidden)
    assert num_parameters(MLA) == layers + hidden + 60 * hidden
    whole, unmasked = model_flops_per_token(MLA, 8)
    attention = 3 * MLA.num_layers * 2 * 8 * heads * (own + shared + value)  # scores and mix, a forward and two backward
    assert (whole - unmasked, 2 * (whole - unmasked)) == (attention // 2, attention)


@pytest.mark.parametrize(("kernel", "each"), [("flash_attention", 2 * 6 + 2 * 3), ("flash_attention_grad", 6 * 6 + 4 * 3)])
def test_flash_attention_multiplies_over_the_width_of_keys_and_that_of_values(kernel: str, each: int) -> None:
    """Scores over 6, their mix over 3; backward the scores again, d_q and d_k over 6, d_v and the gradient of probabilities over 3."""
    q, k, v = np.ones((1, 8, 4, 1, 6)), np.ones((1, 8, 4, 6)), np.ones((1, 8, 4, 3))
    o, lse = KERNELS["flash_attention"]((q, k, v), {"scale": 1.0})[0]
    inputs = (q, k, v) if kernel == "flash_attention" else (q, k, v, o, lse, o)
    assert KERNELS[kernel](inputs, {"scale": 1.0})[1] == each * 4 * (8 * 9 // 2)


def test_what_enters_heads_is_narrow() -> None:
    """With sequence parallelism the latents and the shared key are gathered, 7 + 5 + 2 numbers a token, not the 12 of the stream."""
    stages = stages_of(scenario(model=MLA, batch=Batch(4, 8), stack=FLASH), Plan(tensor_parallel=2, sequence_parallel=True))
    forward = stages.workload.step.segments["layer"].phases[Phase.F]
    gathered = [task.target.dims[-1] for task in forward if isinstance(task, Collective) and task.operation == "all_gather"]
    assert gathered == ["l", "r", "q", "D"]  # the last enters the MLP


def test_running_the_up_projections_again_keeps_narrow_vectors_only() -> None:
    toy = scenario(model=MLA, batch=Batch(4, 8), stack=FLASH)
    plain, again = (estimate(toy, Plan(recompute_modules=modules)) for modules in ((), ("mla_up_proj",)))
    tokens, heads, num_layers = 8, 4, 2
    kept = tokens * heads * (6 + 6 + 3) * 2  # q, k and v of one sequence in bf16
    ups = 2 * 4 * tokens * heads * (7 * 6 + 5 * 4 + 5 * 3) + 3 * 4 * tokens * heads * 2  # four micro_batches; 3 FLOPs an element turned
    assert again.flops[0] - plain.flops[0] == num_layers * ups
    assert execute(toy, Plan(recompute_modules=("mla_up_proj",))).ledgers[0].flops == again.flops[0]
    assert plain.peak_bytes > again.peak_bytes >= plain.peak_bytes - num_layers * kept


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"v_head_dim": 0}, "kv_lora_rank = 5 makes attention latent (MLA), which needs v_head_dim"),
        ({"kv_lora_rank": 0}, "q_lora_rank = 7 is of latent attention (MLA), which kv_lora_rank asks for"),
        ({"num_kv_heads": 2}, "num_kv_heads = 2, but latent attention has one for each of num_heads = 4; leave it out"),
        ({"qk_rope_head_dim": 3}, "latent attention turns pairs of elements, but qk_rope_head_dim = 3 is odd"),
        ({"head_dim": 4}, "head_dim = 4 is not qk_nope_head_dim + qk_rope_head_dim; leave it out"),
        (
            {"positions": "learned"},
            "latent attention (MLA) is built with positions = rotary, and without qkv_bias, qk_norm and attention_sinks",
        ),
    ],
)
def test_figures_that_do_not_fit_are_told(figures: dict[str, object], message: str) -> None:
    assert replace(MLA, **figures).misfit({}) == message  # type: ignore[arg-type]


def test_the_width_of_a_head_follows_from_its_parts() -> None:
    base = {"num_layers": 1, "hidden_size": 10, "num_heads": 4, "vocab_size": 8, "max_positions": 8, "norm": "rms_norm", "bias": False}
    found = TransformerSpec.of(name="mla", positions="rotary", **base, **{**_WIDTHS, "q_lora_rank": None})
    assert (found.head_dim, found.q_lora_rank) == (6, 0)
    with pytest.raises(ParsimError, match="num_heads = 4 does not divide hidden_size = 10"):
        TransformerSpec.of(name="plain", **base)


Patch = Callable[[pytest.MonkeyPatch], None]


def _kernel(patch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, name: wrong})


def _only_the_first_head_trains_the_shared_key(patch: pytest.MonkeyPatch) -> None:
    def append_grad(inputs, attributes, out=latent.fresh):  # type: ignore[no-untyped-def]
        (d_own, d_shared), flops = latent.append_grad(inputs, attributes, out)
        d_shared[...] = inputs[0][:, :, 0, -int(attributes["part"]) :]
        return (d_own, d_shared), flops

    _kernel(patch, "append_grad", append_grad)


def _queries_are_turned_as_a_whole(patch: pytest.MonkeyPatch) -> None:
    def rotary(inputs, attributes, out=latent.fresh):  # type: ignore[no-untyped-def]
        told = {name: value for name, value in attributes.items() if name != "part"}
        (y,), _ = KERNELS["rotary"](inputs, told, out)
        return (y,), 3 * inputs[0][..., -int(attributes.get("part", inputs[0].shape[-1])) :].size

    _kernel(patch, "rotary", rotary)


def _values_counted_as_wide_as_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "flash_attention", replace(COSTS["flash_attention"], matmuls=(2, 0)))


def _a_turned_part_counted_as_a_whole_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim.cost.count.PART", "no such attribute")


def _scale_of_the_own_part_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim.model.blocks._SCALE", (("scale", "rsqrt:n"),))


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_only_the_first_head_trains_the_shared_key, "weight gradients, by hand"),
        (_queries_are_turned_as_a_whole, "loss, by hand"),
        (_values_counted_as_wide_as_keys, "FLOPs"),
        (_a_turned_part_counted_as_a_whole_row, "FLOPs"),
        (_scale_of_the_own_part_alone, "loss, by hand"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    forget_steps()
    try:
        found = red(MLA, tensor_parallel=2)
    finally:
        forget_steps()
    assert any(quantity in each for each in found), found
