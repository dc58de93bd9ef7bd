"""What a row of measurements leaves open: the software of its family, what that software does where a row says nothing, and its network.

The one place of such defaults, and none of them is a row's own.  The stacks themselves are rows of the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Software:
    """What a stack runs where a row says nothing; `stack` is a row of the catalog."""

    stack: str
    dtype: str
    recompute: str
    vocab_size: int
    source: str


@dataclass(frozen=True, slots=True)
class Network:
    """A fabric of the catalog and the NICs of a node on it."""

    fabric: str
    num_nics: int
    source: str


GPT2_VOCABULARY: Final = 50257  # Radford et al. 2019, section 2.3
_NARAYANAN = "Narayanan et al. 2021 (arXiv:2104.04473), section 5: mixed precision, activation recomputation, 51,200 tokens"
_MEGATRON = "Megatron-LM: GPT-2's tokens, recomputation only where asked for"

SOFTWARE: Final = {
    each.stack: each
    for each in (
        Software("megatron-2021", "fp16", "full", 51200, _NARAYANAN),
        Software("megatron-2022", "fp16", "none", 51200, "Korthikanti et al. 2022 (arXiv:2205.05198), section 6"),
        Software(
            "megatron-deepspeed-2021",
            *("fp16", "full", GPT2_VOCABULARY),
            "VIA-Research/vTrain@f8dda84, config/validation: use_checkpoint in all; src/config.py: vocab_size",
        ),
        Software("megatron-deepspeed-2022", "bf16", "full", 250880, "Le Scao et al. 2022 (arXiv:2211.05100)"),
        Software(
            "zero-bubble-2023",
            *("fp16", "none", GPT2_VOCABULARY),
            "sail-sg/zero-bubble-pipeline-parallelism, examples/pretrain_zero_bubble.sh; the vocabulary is an assumption",
        ),
        Software("megatron-core", "bf16", "none", GPT2_VOCABULARY, _MEGATRON),
        Software(
            "vtrain-deepspeed",
            *("fp16", "full", 51200),
            "VIA-Research/vTrain@f8dda84, config/validation: use_checkpoint in all; src/config.py: vocab_size",
        ),
        Software("llm-foundry", "bf16", "none", 50368, "mosaicml/llm-foundry, scripts/train/benchmarking"),
        Software("plain-pytorch", "bf16", "none", GPT2_VOCABULARY, "an assumption"),
    )
}

DEFAULT_STACK: Final = "megatron-2022"
STACK_OF_FAMILY: Final[Mapping[str, str]] = {
    "papers": "megatron-2022",  # Korthikanti et al. 2022
    "oneflow": "megatron-2021",  # Oneflow-Inc/OneFlow-Benchmark: Megatron-LM of 2021 beside OneFlow-GPT, a rewriting of it
    "vtrain": "vtrain-deepspeed",  # VIA-Research/vTrain: all points with Megatron-DeepSpeed
    "bigscience_v100": "megatron-deepspeed-2021",  # bigscience-workshop/bigscience, experiments
    "bigscience_a100": "megatron-deepspeed-2022",  # bigscience-workshop/bigscience, train/tr11-176B-ml
    "pipeline_papers": "zero-bubble-2023",  # Qi et al. 2023
    "dgxc": "megatron-core",
    "nemo_bridge": "megatron-core",
    "simumax": "megatron-core",
    "mcore_ci": "megatron-core",
    "misc_repos": "plain-pytorch",
    "small_scale": "plain-pytorch",
    "llm_foundry": "llm-foundry",
    "torchtitan": "plain-pytorch",
}

# Families whose `allocated` memory comes from Megatron-LM's TensorBoard log, which only the last rank writes
# (megatron/training/global_vars.py: args.rank == args.world_size - 1).
LOGGED_BY_LAST_RANK: Final = frozenset({"mcore_ci"})

ATTENTION: Final[Mapping[str, str]] = {"flash_1": "flash", "flash_2": "flash"}  # as the table words it -> as the stack does

_JEAN_ZAY = Network("ib-edr", 4, "IDRIS Jean Zay: 4 Omni-Path ports of 100 Gb/s a node, taken for as many of EDR")
# What `inter_node_link` may hold -> the network; the first that occurs in it counts.
NETWORK_OF_LINK: Final[Mapping[str, Network]] = {
    "1600 Gbps": Network("ib-hdr-8rail", 8, "8 ports of 200 Gb/s"),
    "8x HDR": Network("ib-hdr-8rail", 8, "as the row states"),
    "4x100Gb": Network("ib-edr", 4, "4 ports of 100 Gb/s, taken for as many of EDR"),
    "400 Gb/s per GPU": Network("ib-ndr-8rail", 8, "8 ports of 400 Gb/s"),
    "400 Gbps per node": Network("ib-hdr-8rail", 2, "400 Gb/s as 2 ports of HDR"),
    "EDR": Network("ib-edr", 1, "as the row states"),
    "Omni-Path": _JEAN_ZAY,
}
NETWORK_OF_FAMILY: Final[Mapping[str, Network]] = {
    "bigscience_a100": _JEAN_ZAY,
    "vtrain": Network("ib-hdr-8rail", 4, "VIA-Research/vTrain@f8dda84, config/validation: 800 Gb/s between nodes, as 4 ports of HDR"),
}
# By the first word of the accelerator's name: the network of the vendor's own node of that generation.
NETWORK_OF_GENERATION: Final[Mapping[str, Network]] = {
    "v100": Network("ib-edr", 4, "NVIDIA DGX-1 with Tesla V100 system architecture white paper"),
    "a100": Network("ib-hdr-8rail", 8, "NVIDIA DGX A100 datasheet"),
    "h100": Network("ib-ndr-8rail", 8, "NVIDIA DGX H100 datasheet"),
    "b200": Network("ib-ndr-8rail", 8, "NVIDIA DGX B200 datasheet"),
    "gb200": Network("ib-ndr-72rail", 72, "NVIDIA GB200 NVL72 datasheet"),
    "a800": Network("ib-hdr-8rail", 8, "as an A100 node"),
}
