"""What a test of Megatron Core runs, whose golden values a row states: flags in its notes, the name of the test, Megatron's defaults.

Source of the defaults: NVIDIA/Megatron-LM@d98e8a64, megatron/training/arguments.py; of what all tests set:
tests/functional_tests/test_cases/*/*/model_config.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from parsim.parallel.plan import Stack
from parsim.validate.table import TableRow

_PLACE: Final = "tests/functional_tests/test_cases/"
# Tokens, before padding, by the beginning of a test's name; GPT-2's of all others.
VOCABULARIES: Final[Mapping[str, int]] = {
    "bert/": 30522,  # vocab.txt of BERT, uncased: Devlin et al. 2018 (arXiv:1810.04805)
    "gpt/gpt3_7b_": 131073,  # there: NullTokenizer with --vocab-size 131073
}
# The width of one expert's MLP, by the beginning of a test's name.
EXPERT_WIDTHS: Final[Mapping[str, int]] = {"moe/gpt3_moe_": 1024}  # there: --moe-ffn-hidden-size: 1024
_OFFLOADS: Final = "fine_grained_offloading"
_DEFERS: Final = "defer_embedding_wgrad_compute"
_FIXED_BYTES: Final = 8 * 4096 * 1024  # CUBLAS_WORKSPACE_CONFIG: :4096:8, which deterministic tests set
_MULTIPLE: Final = 64  # int((4 * hidden_size * 2 / 3) / 64) * 64 is the width of a gated MLP


def is_test(row: TableRow) -> bool:
    """Whether a row states golden values of a test of Megatron Core."""
    return _PLACE in row.says("source")


def flags_of(row: TableRow) -> Mapping[str, str]:
    """The flags in its notes, by name; a flag that is on is "true"."""
    found = re.findall(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)+|swiglu|normalization)=(\[[^]]*\]|[^;,\s]+)", row.says("notes"))
    return {name: value.lower() for name, value in found}


def name_of(row: TableRow) -> str:
    """Kind and name of the test, as gpt/gpt3_mcore_te_tp1_pp2."""
    return row.says("source").partition(_PLACE)[2].partition("/golden")[0]


def figures_of_test(row: TableRow) -> dict[str, Any]:
    """Figures of the model by which it differs from a model like the row's elsewhere.

    A model is GPT-2's unless a flag says otherwise: learned positions, tied embeddings, LayerNorm and biases, also with a gated MLP.
    """
    flags, name = flags_of(row), name_of(row)
    turns = flags.get("position-embedding-type") == "rope" or "rope_embeddings" in name
    untied = "untie-embeddings-and-output-weights" in flags or "untie" in name
    hidden = row.counts["hidden_size"]
    gated = {"ffn_hidden_size": 4 * hidden * 2 // 3 // _MULTIPLE * _MULTIPLE} if row.says("mlp") == "swiglu" else {}
    experts = [width for start, width in EXPERT_WIDTHS.items() if name.startswith(start)] if row.counts.get("num_experts") else []
    width = {"ffn_hidden_size": experts[0]} if experts else gated
    return {
        "positions": "rotary" if turns else "learned",
        "tied_embedding": not untied,
        "norm": "rms_norm" if flags.get("normalization") == "rmsnorm" else "layer_norm",
        "bias": not ("disable-bias-linear" in flags or "disable_bias_linear" in name or row.counts.get("num_experts")),
        **({} if row.counts.get("ffn_hidden_size") else width),
        **next(({"vocab_size": size} for start, size in VOCABULARIES.items() if name.startswith(start)), {}),
    }


def stack_of_test(row: TableRow, stack: Stack) -> Stack:
    """The stack with the workspaces of a test: of fixed size, where it is to be deterministic, and of experts, where one call runs all."""
    flags, name = flags_of(row), name_of(row)
    rings = row.counts.get("context_parallel", 1) > 1 and not row.counts.get("num_experts")
    free = rings or "NVTE_ALLOW_NONDETERMINISTIC_ALGO=1" in row.says("notes") or "nondeterministic" in name or "loss_fusion" in name
    grouped = "moe-grouped-gemm" in flags or "groupedGEMM" in name
    fusions = tuple(each for each in stack.fusions if each != "gradient_accumulation")  # all set --no-gradient-accumulation-fusion
    blas, experts = 0 if free else _FIXED_BYTES, stack.expert_workspaces * grouped
    return replace(stack, fusions=fusions, workspace_bytes=blas, expert_workspaces=experts)


def offloads(row: TableRow) -> bool:
    """Whether a test keeps activations on the host."""
    return is_test(row) and _OFFLOADS in name_of(row)


def defers_head(row: TableRow) -> bool:
    """Whether a test keeps the gradients of logits of all micro_batches, to multiply them once the pipeline has drained."""
    return is_test(row) and _DEFERS in name_of(row)


def layers_by_stage(row: TableRow) -> tuple[int, ...] | None:
    """Layers by stage of a test with --decoder-first-pipeline-num-layers and ...-last-...: 2; None of any other."""
    layers, stages = row.counts["num_layers"], row.counts.get("pipeline_parallel", 1)
    if not is_test(row) or "uneven_pipeline" not in name_of(row) or stages < 3 or (layers - 4) % (stages - 2):
        return None
    return (2, *[(layers - 4) // (stages - 2)] * (stages - 2), 2)


def expert_tensor_parallel_of(row: TableRow) -> int:
    """Ranks that split each expert: as stated, else those that split a layer."""
    said = flags_of(row).get("expert-tensor-parallel-size") or next(iter(re.findall(r"_etp(\d+)", name_of(row))), "")
    return int(said) if said.isdecimal() else row.counts.get("tensor_parallel", 1)


def zero_group_of(row: TableRow, replicas: int) -> int:
    """Replicas that shard the optimizer's states among themselves: those of one of the optimizer's instances; 0: all."""
    instances = flags_of(row).get("num-distributed-optimizer-instances", "")
    return replicas // int(instances) if instances.isdecimal() and int(instances) > 1 else 0
