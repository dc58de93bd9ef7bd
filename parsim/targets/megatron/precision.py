"""How a precision is said to Megatron Core, and what of the software is: gradients, padding of the vocabulary, grouped experts."""

from __future__ import annotations

from typing import Any, Final

from parsim.targets.entries import Entry, Keys
from parsim.targets.target import KeyValue, Setup

FP8: Final = {  # format and recipe
    "fp8_delayed": ("hybrid", "delayed"),
    "fp8_current": ("hybrid", "tensorwise"),
    "fp8_blockwise": ("e4m3", "blockwise"),
    "mxfp8": ("e4m3", "mxfp8"),
}
_ENDS: Final = ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16")
VOCAB_MULTIPLE: Final = "make_vocab_size_divisible_by"
_USUAL_MULTIPLE: Final = 128


def entries() -> tuple[Entry, ...]:
    """Those of the batch's precision, and of the stack."""
    ends = tuple(f"batch.{name}" for name in _ENDS)
    return (Entry(("batch.dtype",), _write_dtype, _read_dtype), Entry(ends, _write_ends, _read_ends), Entry((), _write_stack, _read_stack))


def _write_dtype(setup: Setup) -> dict[str, KeyValue]:
    dtype = setup.dtype
    if dtype in ("bf16", "fp16"):
        return {dtype: True}
    if dtype in FP8:
        return {"bf16": True, "fp8_format": FP8[dtype][0], "fp8_recipe": FP8[dtype][1]}
    return {"bf16": True, "fp4_format": "e2m1", "fp4_recipe": "nvfp4"} if dtype == "nvfp4" else {}


def _read_dtype(keys: Keys) -> dict[str, Any]:
    wide = next((name for name in ("bf16", "fp16") if keys.like(name, False)), "fp32")
    fp8, fp8_recipe = keys.of_type(str, "fp8_format"), keys.of_type(str, "fp8_recipe", "delayed")
    fp4, fp4_recipe = keys.of_type(str, "fp4_format"), keys.of_type(str, "fp4_recipe", "nvfp4")
    if fp4:
        return {"batch.dtype": "nvfp4"} if fp4_recipe == "nvfp4" else _leave_recipe(keys, "fp4_recipe", wide)
    if fp8:
        name = next((name for name, (_, recipe) in FP8.items() if recipe == fp8_recipe), "")
        return {"batch.dtype": name} if name else _leave_recipe(keys, "fp8_recipe", wide)
    return {"batch.dtype": wide}


def _leave_recipe(keys: Keys, name: str, wide: str) -> dict[str, Any]:
    keys.leave(name, "parsim has no such recipe")
    return {"batch.dtype": wide}


def _write_ends(setup: Setup) -> dict[str, KeyValue]:
    counts: dict[str, KeyValue] = {name: getattr(setup.batch, name) for name in _ENDS}
    return {"first_last_layers_bf16": True, **counts} if any(counts.values()) else {}


def _read_ends(keys: Keys) -> dict[str, Any]:
    counts = {f"batch.{name}": keys.of_type(int, name, 1) for name in _ENDS}
    return counts if keys.like("first_last_layers_bf16", False) else {}


def _write_stack(setup: Setup) -> dict[str, KeyValue]:
    stack = setup.stack
    keys: dict[str, KeyValue] = {VOCAB_MULTIPLE: stack.vocab_multiple}
    if stack.gradient_dtype == "fp32":
        keys["accumulate_allreduce_grads_in_fp32"] = True
    elif setup.dtype not in ("fp16", "fp32"):
        keys["grad_reduce_in_bf16"] = True
    if getattr(setup.model, "num_experts", 0):
        keys |= {"moe_grouped_gemm": True, "moe_token_dispatcher_type": "alltoall"}
    return keys


def _read_stack(keys: Keys) -> dict[str, Any]:
    """What the stack of a scenario says.

    In bf16 gradients are kept in float32 unless it says otherwise, in fp16 only if it does (arguments.py, validate_args).
    """
    found: dict[str, Any] = {}
    if (multiple := keys.like(VOCAB_MULTIPLE, _USUAL_MULTIPLE)) != _USUAL_MULTIPLE:
        found["stack.vocab_multiple"] = multiple
    narrow, wide = keys.like("grad_reduce_in_bf16", False), keys.of_type(bool, "accumulate_allreduce_grads_in_fp32")
    is_narrow = narrow or wide is False or (wide is None and keys.like("fp16", False))
    found["stack.gradient_dtype"] = "compute" if is_narrow else "fp32"
    if keys.take("moe_token_dispatcher_type", "alltoall") not in ("alltoall", "allgather"):
        keys.leave("moe_token_dispatcher_type", "the stack says how tokens reach experts (dispatch)")
    keys.take("moe_grouped_gemm")
    return found
