"""Attention in 8 bits: its kernel reads narrow queries, keys and values, every reader charges their making, and the numbers stay near."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from narrow_toys import FUSED, LLAMA, SEQUENCE, WIDE_ENDS, is_seen, red
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate_legal, stages_of
from parsim.model import dims
from parsim.model.dims import EIGHT_BITS
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.source import Source
from parsim.schedules.phase import Phase
from parsim.step import attend
from parsim.step.task import Compute
from parsim.verify import verify_plan
from support import MOE, every_other, scenario, tiered

IN_8 = replace(FUSED, named_flash="cudnn_fp8")
PLANS = {
    "tp": Plan(tensor_parallel=2),
    "sp-selective": replace(SEQUENCE, recompute="selective"),
    "cp-zero1": Plan(data_parallel=2, context_parallel=2, zero_stage=1),
    "zero3-full": Plan(data_parallel=2, zero_stage=3, recompute="full"),
    "zbh1": Plan(data_parallel=2, pipeline_parallel=2, schedule="zero_bubble_h1"),
}
OTHERS = {
    "two stacks": EncoderDecoderSpec.of(
        name="toy", num_layers=2, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=8
    ),
    "sinks and windows": replace(MOE, num_layers=4, sliding_window=3, full_attention_every=2, attention_sinks=True),
    "latent": replace(
        MOE, kv_lora_rank=5, q_lora_rank=7, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=3, num_kv_heads=4, head_dim=6, qk_norm=False
    ),
}


@pytest.mark.parametrize("case", every_other(PLANS, ("nvfp4", "bf16", "fp8_current"), "{}-{}".format, 5))
def test_all_readers_agree(case: tuple[str, str]) -> None:
    assert not red(case[1], PLANS[case[0]], stack=IN_8)


@pytest.mark.parametrize("name", [tiered(name, name, slow=name != "sinks and windows") for name in OTHERS])
def test_all_readers_agree_on_other_attention(name: str) -> None:
    batch = Batch(4, 8, source_length=4 if name == "two stacks" else 0)
    case = scenario(model=OTHERS[name], batch=batch, stack=IN_8)
    assert not [str(each) for each in verify_plan(case, Plan(tensor_parallel=2, micro_batch=2), "toy") if not each.ok]


def moved_bytes(stack: Stack, dtype: str = "nvfp4") -> int:
    """Of 4 layers and 4 micro_batches of 8 tokens, on one rank."""
    return int(estimate_legal(scenario(model=LLAMA, batch=Batch(4, 8, dtype), stack=stack), Plan()).hbm_bytes[0])


def test_casts_move_what_their_passes_say() -> None:
    # Queries, keys and values: 2 + 2 bytes to lay them beside one another, 2 to find the largest element, 2 + 1 to quantise, and the kernel
    # reads 1 less, forward and backward: 7 an element.  The gradient of the output: 2, 2 + 1, and 1 less: 4.  A scale: 4 written, 4 read.
    elements = 8 * LLAMA.num_heads * LLAMA.head_dim  # of one of the four: as many heads of keys and values
    assert LLAMA.num_heads == LLAMA.num_kv_heads
    for dtype in ("nvfp4", "bf16"):
        assert moved_bytes(IN_8, dtype) - moved_bytes(FUSED, dtype) == 4 * 4 * (3 * 7 * elements + 4 * elements + 4 * 8)


def test_what_backward_reads_is_kept_in_8_bits() -> None:
    def kept_bytes(stack: Stack) -> int:
        workload = stages_of(scenario(model=LLAMA, batch=Batch(1, 8, "nvfp4"), stack=stack), Plan()).workload
        return sum(int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["layer"].kept[Phase.F])

    assert kept_bytes(FUSED) - kept_bytes(IN_8) == 3 * 8 * LLAMA.num_heads * LLAMA.head_dim


def test_layers_that_stay_in_bf16_attend_in_it() -> None:
    step = stages_of(scenario(model=LLAMA, batch=replace(WIDE_ENDS, dtype="nvfp4"), stack=IN_8), Plan()).workload.step

    def read(segment: str) -> set[str]:
        kernels = (each for each in step.segments[segment].phases[Phase.F] if isinstance(each, Compute))
        return {operand.dtype for each in kernels if each.kernel == "flash_attention" for operand in each.inputs}

    assert EIGHT_BITS in read("layer") and EIGHT_BITS not in read("wide_layer")


def test_a_stack_attends_so_in_the_precisions_that_it_says() -> None:
    stack = replace(FUSED, flash_in={"nvfp4": "cudnn_fp8"})
    assert moved_bytes(stack) == moved_bytes(IN_8)
    assert moved_bytes(stack, "bf16") == moved_bytes(FUSED, "bf16")


def test_a_device_without_such_a_kernel_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "asked.yaml"
    file.write_text(
        "model: llama3-8b\ncluster: {node: pcie5-8x-rtx-pro-6000}\nbatch: {global_batch: 8, sequence_length: 4096, dtype: fp8_current}\n"
        "stack: {base: nemo, flash_in: {fp8_current: cudnn_fp8}}\nplans: {a: {}}\n"
    )
    with pytest.raises(ScenarioError, match="cudnn_fp8 does not run on rtx-pro-6000"):
        Source(file).load()


def _backward_reads_wide(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attend, "_backward", iter)


def _gradients_in_the_forward_format(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attend, "HOW", replace(attend.HOW, gradient="e4m3"))


def _sixteen_bits(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(dims.FIXED_ITEMSIZE_BYTES, EIGHT_BITS, 2)  # type: ignore[index]


def _nothing_is_laid(patch: pytest.MonkeyPatch) -> None:
    right = attend._casts
    patch.setattr(attend, "_casts", lambda *told: (call for call in right(*told) if not call.name.endswith(".lay")))
    patch.setattr(attend, "LAID", "")


@pytest.mark.parametrize(
    ("mutant", "noticed"),
    [
        (_backward_reads_wide, lambda: "weight gradients, by hand" in red("bf16", Plan(), stack=IN_8)),
        (_gradients_in_the_forward_format, lambda: "weight gradients, by hand" in red("bf16", Plan(), stack=IN_8)),
        (_sixteen_bits, lambda: fails(test_what_backward_reads_is_kept_in_8_bits)),
        (_nothing_is_laid, lambda: fails(test_casts_move_what_their_passes_say)),
    ],
)
def test_a_mutant_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None], noticed: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_seen(mutant, noticed, monkeypatch)


def fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except AssertionError:
        return True
    return False
