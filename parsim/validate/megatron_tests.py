"""What a test of Megatron Core runs, whose golden values a row states: flags in its notes, the name of the test, Megatron's defaults.

Source of the defaults: NVIDIA/Megatron-LM@d98e8a64, megatron/training/arguments.py; of what all tests set:
tests/functional_tests/test_cases/*/*/model_config.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from parsim.validate.table import TableRow

_PLACE: Final = "tests/functional_tests/test_cases/"
# Tokens, before padding, by the beginning of a test's name; GPT-2's of all others.
VOCABULARIES: Final[Mapping[str, int]] = {
    "bert/": 30522,  # vocab.txt of BERT, uncased: Devlin et al. 2018 (arXiv:1810.04805)
    "gpt/gpt3_7b_": 131073,  # there: NullTokenizer with --vocab-size 131073
}
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


def figures_of(row: TableRow) -> dict[str, Any]:
    """Figures of the model by which it differs from a model like the row's elsewhere.

    A model is GPT-2's unless a flag says otherwise: learned positions, tied embeddings, LayerNorm and biases, also with a gated MLP.
    """
    flags, name = flags_of(row), name_of(row)
    turns = flags.get("position-embedding-type") == "rope" or "rope_embeddings" in name
    untied = "untie-embeddings-and-output-weights" in flags or "untie" in name
    hidden = row.counts["hidden_size"]
    gated = {"ffn_hidden_size": 4 * hidden * 2 // 3 // _MULTIPLE * _MULTIPLE} if row.says("mlp") == "swiglu" else {}
    return {
        "positions": "rotary" if turns else "learned",
        "tied_embedding": not untied,
        "norm": "rms_norm" if flags.get("normalization") == "rmsnorm" else "layer_norm",
        "bias": not ("disable-bias-linear" in flags or "disable_bias_linear" in name or row.counts.get("num_experts")),
        **({} if row.counts.get("ffn_hidden_size") else gated),
        **next(({"vocab_size": size} for start, size in VOCABULARIES.items() if name.startswith(start)), {}),
    }


def expert_tensor_parallel_of(row: TableRow) -> int:
    """Ranks that split each expert: as stated, else those that split a layer."""
    said = flags_of(row).get("expert-tensor-parallel-size") or next(iter(re.findall(r"_etp(\d+)", name_of(row))), "")
    return int(said) if said.isdecimal() else row.counts.get("tensor_parallel", 1)


def zero_group_of(row: TableRow, replicas: int) -> int:
    """Replicas that shard the optimizer's states among themselves: those of one of the optimizer's instances; 0: all."""
    instances = flags_of(row).get("num-distributed-optimizer-instances", "")
    return replicas // int(instances) if instances.isdecimal() and int(instances) > 1 else 0
