"""Switches of PyTorch's stacks that notes of a row name, as torch.compile and collectives behind GEMMs; what a recipe has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from parsim.validate.table import TableRow

_COMPILED: Final[Mapping[str, str]] = {"torchtitan": "torchtitan-compiled", "torchtune": "torchtune-compiled"}

# What `source` may hold -> its zero_stage, where not that of its stack.  QwenLM/Qwen, README.md: "we use DeepSpeed ZeRO 3 in this script";
# yanring/Megatron-MoE-ModelZoo@e8650517, model_configs/benchmarking/Qwen3-235B-A22B.yaml: --use-distributed-optimizer;
# FlagOpen/FlagPerf@1b5a0303, ds_config.json of training/nvidia/llama2_7b-megatron-deepspeed and of training/benchmarks/llama2_7b/deepspeed.
ZERO_OF_REPOSITORY: Final[Mapping[str, int]] = {
    **{"QwenLM/Qwen": 3, "Megatron-MoE-ModelZoo": 1, "llama2_7b-megatron-deepspeed": 1, "llama2_7b-deepspeed": 3},
}


def as_compiled(stack: str, row: TableRow) -> str:
    """The stack as torch.compile makes it, where the row says that this is on and the catalog has such a row.

    >>> as_compiled("torchtitan", TableRow({"notes": "FSDP+torch.compile"}, {}, {}, ()))
    'torchtitan-compiled'
    >>> as_compiled("torchtitan", TableRow({"notes": "FSDP2, no compile."}, {}, {}, ()))
    'torchtitan'
    """
    return _COMPILED.get(stack, stack) if _is_on(r"(torch\.)?compile", row) else stack


def hides_tensor_collectives(row: TableRow) -> bool:
    """Whether they are cut in pieces between those of GEMMs: asynchronous tensor parallelism, in words of pytorch/torchtitan, benchmarks.

    >>> [hides_tensor_collectives(TableRow({"notes": text}, {}, {}, ())) for text in ("2D+AsyncTP", "bf16, async TP", "no async TP")]
    [True, True, False]
    """
    return _is_on("async[ -]?tp", row)


def has_moonlight_recipe(row: TableRow) -> bool:
    """Whether Megatron-Bridge ran Moonlight, of which it has one recipe.

    That has first and second moments in bf16, hands tokens to alltoall, and fuses neither router nor rotary embedding.
    Source: NVIDIA-NeMo/Megatron-Bridge@067f987d, src/megatron/bridge/recipes/moonlight/h100/moonlight_16b.py (exp_avg_dtype,
    exp_avg_sq_dtype, moe_token_dispatcher_type, neither moe_router_fusion nor apply_rope_fusion).

    >>> has_moonlight_recipe(TableRow({"source": "NVIDIA-NeMo/Megatron-Bridge @067f987d", "model_name": "Moonlight 16B"}, {}, {}, ()))
    True
    """
    return "Megatron-Bridge" in row.says("source") and "moonlight" in row.says("model_name").lower()


def zero_stage_of(row: TableRow) -> int | None:
    """That of the script of its repository, if known.

    >>> zero_stage_of(TableRow({"source": "QwenLM/Qwen README.md"}, {}, {}, ()))
    3
    """
    return next((stage for held, stage in ZERO_OF_REPOSITORY.items() if held in row.says("source")), None)


def optimizer_of(row: TableRow) -> str:
    """The optimizer of its recipe, or ""."""
    return "precision_aware_adamw" if has_moonlight_recipe(row) else ""


def pairs_micro_batches(row: TableRow) -> bool:
    """Whether the row says that exchanges of experts run beside layers of another micro_batch.

    >>> [pairs_micro_batches(TableRow({"notes": text}, {}, {}, ())) for text in ("EP overlap on, VPP 4", "EP overlap off")]
    [True, False]
    """
    return bool(re.search(r"a2a overlap|ep overlap (on|and)", row.says("notes"), re.IGNORECASE))


def delays_weights(row: TableRow) -> bool:
    """Whether the row says that weight gradients wait for these exchanges.

    >>> delays_weights(TableRow({"notes": "a2a overlap, delay_wgrad_compute"}, {}, {}, ()))
    True
    """
    return "delay_wgrad_compute" in row.says("notes")


def _is_on(switch: str, row: TableRow) -> bool:
    """Whether notes name a switch, and not that it is off.

    >>> texts = ("torch.compile", "no compile", "without torch.compile", "not compiled", "FSDP2")
    >>> [_is_on(r"(torch\\.)?compile", TableRow({"notes": text}, {}, {}, ())) for text in texts]
    [True, False, False, False, False]
    """
    found = re.finditer(rf"\b(?P<off>(?:no|not|without) +)?(?:{switch})", row.says("notes"), re.IGNORECASE)
    return any(not each["off"] for each in found)
