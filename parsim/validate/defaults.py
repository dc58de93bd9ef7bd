"""What a row of measurements leaves open: the software of its family or devices, and what that software does where a row says nothing.

The one place of such defaults, and none of them is a row's own.  The stacks themselves are rows of the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.model.blocks import CORE_ATTENTION
from parsim.model.latent import UP_PROJECTION
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.plan import ALL_TO_ALL, ANY, PER_NODE
from parsim.parallel.precision import FP8
from parsim.scenario import defaults
from parsim.validate.named import num_experts
from parsim.validate.switches import as_compiled, has_moonlight_recipe
from parsim.validate.table import TableRow


class Software(Struct, frozen=True):
    """What a stack runs where a row says nothing; `stack` is a row of the catalog, or has releases there."""

    stack: str
    dtype: str
    recompute: str  # "": open, see left_open.py
    vocab_size: int
    source: str
    dropout: float = 0.1  # of the residual stream, where the model's layer does not settle it: Radford et al. 2018 and Megatron-LM
    sequence_parallel: bool = False
    zero_stage: int = 0
    ties_embedding: bool = False  # of a Llama layer, whose own it is not


GPT2_VOCABULARY: Final = 50257  # Radford et al. 2019, section 2.3
_NARAYANAN = "Narayanan et al. 2021 (arXiv:2104.04473), section 5: mixed precision, activation recomputation, 51,200 tokens"
_MEGATRON = "Megatron-LM: GPT-2's tokens, recomputation only where asked for"
_MPT = (
    "mosaicml/llm-foundry, scripts/train/benchmarking, submit_benchmarks.py: attn_impl triton; "
    "llmfoundry/models/mpt/configuration_mpt.py: resid_pdrop and emb_pdrop 0"
)
_PYTORCH = "PyTorch 2.2 release notes: scaled_dot_product_attention runs FlashAttention-2; the vocabulary is an assumption"
_NEURON = (
    "aws-neuron/neuronx-distributed-training@d9e0bf60, examples/conf/hf_llama3.1_8B_config.yaml and 70B: sequence_parallel, zero1, "
    "activations_checkpoint_granularity selective"
)
_NEMO = "NVIDIA-NeMo/Megatron-Bridge, recipes: sequence_parallel with tensor parallelism, use_distributed_optimizer; GPT-2's tokens"
_INTERN = "InternLM/InternEvo@00de6134, configs/7B_sft.py: VOCAB_SIZE = 103168, checkpoint=False"
_VTRAIN = "VIA-Research/vTrain@f8dda84, config/validation: use_checkpoint in all; src/config.py: vocab_size"
_BIGSCIENCE = (
    "bigscience-workshop/bigscience@18d869b, train/tr1-13B-base/tr1-13B-round1.slurm, "
    "and @600c638, train/tr3-1B3-baseline/tr3-1B3-modeling-baseline.slurm: ZERO_STAGE=1, --checkpoint-activations, --fp16"
)
_BLOOM = "Le Scao et al. 2022 (arXiv:2211.05100), section 3.2: ZeRO stage 1"
_ALEPH_ALPHA = "Aleph-Alpha/scaling@737f8558, transformer/context/config.py: weight_tying = True; the vocabulary is an assumption"
_ZERO_BUBBLE = "sail-sg/zero-bubble-pipeline-parallelism, examples/pretrain_zero_bubble.sh; the vocabulary is an assumption"
_JAX = (
    "AI-Hypercomputer/maxtext, src/maxtext/configs/base.yml: dropout_rate: 0.0; google/paxml@b397693f, paxml/tasks/lm/model_params.py: "
    "DROPOUT_PROB = 0.0; the vocabulary is an assumption"
)
_MAXTEXT = "AI-Hypercomputer/maxtext@e591f30c, src/maxtext/configs/base.yml: remat_policy full; the vocabulary is an assumption"
_GAUDI = "HabanaAI/Megatron-DeepSpeed@891d6db, scripts/run_llama.sh: HL_DROPOUT 0.0, HL_SEQ_PARALLEL 1, HL_CKP_ACT 0, HL_ZERO_STAGE 0"
_LLAMA_3 = "Grattafiori et al. 2024 (arXiv:2407.21783): the tokens of Llama 3, which pytorch/torchtitan trains"

SOFTWARE: Final = {
    each.stack: each
    for each in (
        Software("megatron-2021", "fp16", "full", 51200, _NARAYANAN),
        Software("megatron-2022", "fp16", "none", 51200, "Korthikanti et al. 2022 (arXiv:2205.05198), section 6"),
        Software("megatron-deepspeed-2021", "fp16", "full", GPT2_VOCABULARY, _BIGSCIENCE, zero_stage=1),
        Software("megatron-deepspeed-2022", "bf16", "full", 250880, _BLOOM, zero_stage=1),
        Software("bigscience-deepspeed", "fp16", "full", GPT2_VOCABULARY, _BIGSCIENCE, zero_stage=1),
        Software("bigscience-deepspeed-bf16", "bf16", "full", 250880, _BLOOM, zero_stage=1),
        Software("zero-bubble-2023", "fp16", "none", GPT2_VOCABULARY, _ZERO_BUBBLE),
        Software("megatron-core", "bf16", "none", GPT2_VOCABULARY, _MEGATRON),
        Software("megatron-core-local", "bf16", "none", GPT2_VOCABULARY, _MEGATRON),
        Software("megatron-core-fused-loss", "bf16", "none", GPT2_VOCABULARY, _MEGATRON),
        Software("vtrain-deepspeed", "fp16", "full", 51200, _VTRAIN),
        Software("oneflow", "fp16", "full", 51200, "Oneflow-Inc/DLPerf, Megatron-LM/README.md: --checkpoint-activations beside it, too"),
        Software("simumax", "bf16", "none", 128256, "MooreThreads/SimuMax, docs/b200: Llama 3"),
        *(
            Software(name, "bf16", "none", GPT2_VOCABULARY, _NEMO, sequence_parallel=True, zero_stage=1)
            for name in ("nemo", "nemo-mlperf", "nemo-mlperf-8b")
        ),
        Software("megatron-bridge", "bf16", "none", GPT2_VOCABULARY, _NEMO, sequence_parallel=True, zero_stage=1),
        Software("llm-foundry", "bf16", "none", 50368, _MPT, dropout=0.0),
        Software("torchtitan", "bf16", "none", 128256, _LLAMA_3, sequence_parallel=True),
        Software("torchtitan-compiled", "bf16", "none", 128256, _LLAMA_3, sequence_parallel=True),
        Software("internevo", "bf16", "none", 103168, _INTERN),
        Software("aleph-alpha", "bf16", "none", 128000, _ALEPH_ALPHA, ties_embedding=True),
        Software("nanotron", "bf16", "", 131072, "huggingface/nanotron, docs: benchmark figure"),
        Software("jax-xla", "bf16", "", GPT2_VOCABULARY, _JAX, dropout=0.0),
        Software("jax-xla-tpu", "bf16", "full", GPT2_VOCABULARY, _MAXTEXT, dropout=0.0),
        Software("neuronx-distributed", "bf16", "selective", 128256, _NEURON, sequence_parallel=True, zero_stage=1),
        Software("megatron-deepspeed-gaudi", "bf16", "none", GPT2_VOCABULARY, _GAUDI, dropout=0.0, sequence_parallel=True),
        Software("pytorch-2", "bf16", "", GPT2_VOCABULARY, _PYTORCH),
        Software("torchtune", "bf16", "full", 128256, "meta-pytorch/torchtune, recipes/configs: enable_activation_checkpointing: True"),
        Software("torchtune-compiled", "bf16", "full", 128256, "as torchtune"),
        Software("hf-trainer", "bf16", "", 128256, "an assumption: Llama 3"),
        Software("deepspeed", "bf16", "", 128256, "an assumption: Llama 3"),
        Software("plain-pytorch", "bf16", "", GPT2_VOCABULARY, "an assumption"),
    )
}

DEFAULT_STACK: Final = "megatron-2022"
SHARDED_STACK: Final = "pytorch-2"  # where ranks share parameters, which Megatron-LM of 2022 cannot
STACK_OF_FAMILY: Final[Mapping[str, str]] = {
    "papers": "megatron-2022",  # Korthikanti et al. 2022
    "oneflow": "megatron-2021",  # Oneflow-Inc/DLPerf: Megatron-LM of 2021, beside OneFlow
    "vtrain": "vtrain-deepspeed",  # VIA-Research/vTrain: all points with Megatron-DeepSpeed
    "bigscience_v100": "megatron-deepspeed-2021",  # bigscience-workshop/bigscience, experiments
    "bigscience_a100": "bigscience-deepspeed",  # bigscience-workshop/bigscience, train/tr11-176B-ml
    "pipeline_papers": "zero-bubble-2023",  # Qi et al. 2023
    "aleph_alpha": "aleph-alpha",  # Hagemann et al. 2023
    "dgxc": "nemo",  # NVIDIA/dgxc-benchmarking: recipes of NeMo
    **dict.fromkeys(("nemo_bridge", "nemo_bridge2", "bridge_skills"), "megatron-bridge"),
    **dict.fromkeys(("mlperf", "mlperf_lora"), "nemo-mlperf"),
    **{"mcore_ci": "megatron-core", "misc_repos": "pytorch-2", "small_scale": "plain-pytorch", "tpu_maxtext": "jax-xla"},
    **{"llm_foundry": "llm-foundry", "torchtitan": "torchtitan", "internevo": "internevo", "simumax": "simumax"},
}
# What `source` may hold -> the stack, before its family's: a family may gather repositories that run different software.
STACK_OF_REPOSITORY: Final[Mapping[str, str]] = {
    "Megatron-LM README (git": "megatron-2021",  # its 138 TFLOP/s a GPU stand there since NVIDIA/Megatron-LM@152aab30 of January 2021
    "DLPerf OneFlow/": "oneflow",
    "meta-pytorch/torchtune": "torchtune",
    **dict.fromkeys(("NVIDIA/JAX-Toolbox", "NVIDIA/dgxc-benchmarking paxml/"), "jax-xla"),
    "NVIDIA/NeMo docs/": "nemo",
    "/llama31_8b/": "nemo-mlperf-8b",  # mlcommons/training_results_v5.1
    "huggingface/nanotron": "nanotron",
    "aws-neuron/": "neuronx-distributed",
    "QwenLM/Qwen": "hf-trainer",  # finetune.py: transformers.Trainer, DeepSpeed, gradient checkpointing
    "karpathy/nanoGPT": "plain-pytorch",  # its figures are of 29 December 2022, a month before its model.py called fused attention
    "chronicles-prequel.md [Best TFLOPs]": "megatron-deepspeed-2021",  # before jobs hung
    # There: "from now on the testing is happening with BF16 optimizer", "compared to fp16 which grad accumulates in fp16".
    "chronicles-prequel.md [Rebalancing layers]": "bigscience-deepspeed-bf16",
    "FlagPerf training/nvidia/llama3_8B-megatron": "megatron-core",
    # FlagOpen/FlagPerf@1b5a0303, training/benchmarks/llama2_7b: no pipeline, flash attention, nothing runs again.
    **dict.fromkeys(("llama2_7b-megatron-deepspeed", "llama2_7b-deepspeed"), "deepspeed"),
    # Megatron-LM, tests/functional_tests: a case is named after --transformer-impl: gpt3_mcore_te_* or, local, gpt3_mcore_*.
    "cross_entropy_loss_fusion": "megatron-core-fused-loss",  # Megatron-LM, tests/functional_tests, by name
    "test_cases/gpt/gpt3_mcore_tp": "megatron-core-local",
    **dict.fromkeys(("yanring/Megatron-MoE-ModelZoo", "xtuner docs/en/benchmark/megatron_moe_benchmark.md"), "megatron-core"),
}
# The same for a family that is not known, by a word of `source` in any case; the first that occurs counts.
STACK_OF_NAME: Final[Mapping[str, str]] = {
    **dict.fromkeys(("maxtext", "paxml", "jax-toolbox", "tpu-recipes"), "jax-xla"),
    **{"torchtitan": "torchtitan", "torchtune": "torchtune", "llm-foundry": "llm-foundry", "nanotron": "nanotron"},
    **{"internevo": "internevo", "simumax": "simumax", "megatron-bridge": "megatron-bridge"},
    **{"mlcommons/training_results": "nemo-mlperf", "nvidia/nemo": "nemo", "dgxc-benchmarking": "nemo"},
    **{
        "megatron-deepspeed": "megatron-deepspeed-2022",
        "megatron-lm": "megatron-core",
        "megatron-moe": "megatron-core",
        "/primus": "megatron-core",
    },
    **{"deepspeed": "deepspeed", "transformers": "hf-trainer", "pytorch": "pytorch-2"},
}

INSTINCT: Final = ("mi300x", "mi325x", "mi350x", "mi355x")
# By the first word of the accelerator's name: what runs there in place of a stack, of ANY other, or of one that nobody names ("").
STACK_ON_DEVICE: Final[Mapping[str, Mapping[str, str]]] = {
    **{name: rows if len(rows) > 1 else {ANY: rows[""]} for name, rows in defaults.STACK_ON_DEVICE.items()},
    # mlcommons/training_results_v5.1, AMD/benchmarks/llama31_8b/implementations, src/train.py: NeMo without CUDA graphs.
    **{name: {"nemo-mlperf": "nemo", "nemo-mlperf-8b": "nemo", "": "megatron-core"} for name in INSTINCT},
    # Sold after FlashAttention came (Dao et al. 2022, arXiv:2205.14135): of their time is software that has it.
    **{name: {"": "megatron-core"} for name in ("h100", "h800", "h20", "h200", "gh200", "b200", "b300", "gb200", "gb300")},
    **{name: {"": "pytorch-2"} for name in ("mi250x", "l4", "l40s", "rtx", "a10", "a10g", "a30", "a40")},
}

# Families whose `allocated` memory comes from Megatron-LM's TensorBoard log, which only the last rank writes
# (megatron/training/global_vars.py: args.rank == args.world_size - 1).
LOGGED_BY_LAST_RANK: Final = frozenset({"mcore_ci"})

# Devices of a family's runs.  Source: NVIDIA/Megatron-LM@d98e8a64, tests/test_utils/recipes: h100/gpt.yaml and moe.yaml run on a node of 8,
# gb200/gpt.yaml and moe.yaml on two of 4; tests of a release on as many as each says.
DEVICES_OF_FAMILY: Final[Mapping[str, int]] = {"mcore_ci": 8}

# What NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary.md, calls precisions.
PRECISION_OF_LABEL: Final[Mapping[str, str]] = {"FP8-CS": "fp8_current", "FP8-MX": "mxfp8", "MXFP8": "mxfp8", "NVFP4": "nvfp4"}

# What `notes` may hold -> the release.  Source: mosaicml/llm-foundry, scripts/train/benchmarking/README.md: PURE is all of tag v0.1.0,
# DEFAULT those that pull request 543 put in their place, first in v0.4.0.
RELEASE_OF_NOTES: Final[Mapping[str, str]] = {"MP mode PURE": "0.1", "MP mode DEFAULT": "0.4"}

# What `notes` may hold -> what it says of fp8.
FP8_OF_NOTES: Final[Mapping[str, str]] = {"float8 rowwise": "fp8_rowwise"}  # of torchao

# What `source` may hold -> what fp8 means there, where that is not what its stack means by it.
FP8_OF_REPOSITORY: Final[Mapping[str, str]] = {
    # There, NVIDIA/benchmarks/llama31_8b/implementations/nemo/config_common.sh: FP8_RECIPE="tensorwise".
    "mlcommons/training_results_v5.1": "fp8_current",
}

# Release -> what fp8 means to its recipes of experts.  Source: NVIDIA-NeMo/Megatron-Bridge, tag v0.1.0rc3, scripts/performance/configs
# (deepseek, qwen3): of both that are of a tensor they have fp8_cs alone; docs/performance-summary-archive.md: blocks in parentheses.
FP8_OF_EXPERTS: Final[Mapping[str, str]] = {"25.09": "fp8_current"}


class LatentRecipe(Struct, frozen=True):
    """What the recipes of a source run for latent attention where a row says nothing."""

    recompute_modules: tuple[str, ...]
    attention: str
    source: str


_UP_PROJECTION = LatentRecipe(
    (UP_PROJECTION,), "", "NVIDIA-NeMo/Megatron-Bridge, tags v0.2.0 to v0.5.0, scripts/performance/configs/deepseek"
)
# By what `source` may hold, then by the first word of the accelerator's name, "" for any other.
LATENT_RECIPES: Final[Mapping[str, Mapping[str, LatentRecipe]]] = {
    "docs/performance-summary": {"": _UP_PROJECTION},
    "NVIDIA/dgxc-benchmarking deepseek_v3/": {
        "": replace(_UP_PROJECTION, source="NVIDIA/dgxc-benchmarking, tag v25.05.04, deepseek_v3/pretraining/launch.sh: RM='mla_up_proj'"),
        "gb200": LatentRecipe(
            (CORE_ATTENTION,),
            "fused_softmax",
            "the same file: RM='core_attn'; NVIDIA/TransformerEngine, tag v2.5, transformer_engine/common/fused_attn/fused_attn.cpp: "
            "on Blackwell heads of 192 and 128 train with fused attention from cuDNN 9.11, which the container, NeMo 25.04, is before",
        ),
    },
}

# What selective recomputation is where it is not that of core attention: by what `source` may hold, and by the end of the notes.
MODULES_OF_SOURCE: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    # There: "recompute=select means recomputing layernorm and swiglu in moe", "recompute=moe ... layernorm and entire moe module".
    "xtuner docs/en/benchmark/megatron_moe_benchmark.md": {"moe": ("moe", "layernorm"), "": ("moe_act", "layernorm")},
    "Megatron-MoE-ModelZoo best_practice/qwen3/readme.md": {"": ("layernorm", "moe_act")},  # there: "norm, act"
}

# By family: the adapters of its rows.
ADAPTERS: Final[Mapping[str, Tuning]] = {
    # mlcommons/training_results_v4.0, NVIDIA/benchmarks/llama2_70b_lora/implementations/nemo/conf/megatron_gpt_peft_tuning_config.yaml.
    "mlperf_lora": Tuning((BASE,), 16, 32.0, 0.1, ("linear_qkv", "linear_proj")),
    # NVIDIA-NeMo/Megatron-Bridge, src/megatron/bridge/perf_recipes/llama (target_modules) and recipes/llama/llama3.py.
    "nemo_bridge2": Tuning((BASE,), 16, 32.0, 0.0, ("linear_qkv",)),
}


def tuning_of(row: TableRow) -> Tuning:
    """What a row trains.

    Raises:
        ParsimError: adapters, and nobody says which.
    """
    if row.says("workload") != "lora":
        return Tuning()
    if (found := ADAPTERS.get(row.says("source_family"))) is None:
        raise ParsimError("needs rank and targets of its adapters, which no column has")
    return found


def software_of(row: TableRow) -> Software:
    """That of the row's repository, of its family, or of a name in its source, as its devices run it; else the default."""
    named, there = _stack_of(row), STACK_ON_DEVICE.get(row.device, {})
    usual = SHARDED_STACK if row.counts.get("zero_stage") == 3 else DEFAULT_STACK
    return SOFTWARE[there.get(named) or there.get(ANY) or named or usual]


def names_stack(row: TableRow) -> bool:
    """Whether the row says anything from which its software follows."""
    return bool(_stack_of(row))


def _stack_of(row: TableRow) -> str:
    source, family = row.says("source"), STACK_OF_FAMILY.get(row.says("source_family"), "")
    exact = ["megatron-core-local"] if "transformer-impl=local" in row.says("notes") else []
    exact += [stack for repository, stack in STACK_OF_REPOSITORY.items() if repository in source]
    named = [stack for name, stack in STACK_OF_NAME.items() if name in source.lower()]
    stack = next(filter(None, (*exact, family, *named)), "")
    return as_compiled(stack, row)


def devices_of(row: TableRow) -> int | None:
    """Those of the row, or of its family; None where neither is known."""
    usual = None if "release" in row.says("source") else DEVICES_OF_FAMILY.get(row.says("source_family"))
    return row.counts.get("num_devices", usual)


def release_of(row: TableRow) -> str:
    """The release that the row states, that its source names as `release 26.06`, or that its notes tell; "" where none is."""
    named = re.findall(r" release ([\d.]*\d)", row.says("source"))
    told = [each for words, each in RELEASE_OF_NOTES.items() if words in row.says("notes")]
    return next(filter(None, (row.says("release"), *named, *told)), "")


def attention_of(row: TableRow) -> str:
    """The attention of the row as the stack words it, or ""."""
    if "kernel: fused;" in row.says("notes"):  # Hagemann et al. 2023 (arXiv:2311.05610), section 4.2: Megatron-LM's softmax kernel
        return "fused_softmax"
    return row.says("attention")


def precision_of(row: TableRow) -> str:
    """The precision of the row: that of the label which its notes repeat, or its dtype; "" where it states none."""
    stated = row.says("dtype")
    label = re.search(r'precision label "([A-Z0-9-]+)', row.says("notes"))
    if stated == FP8 and release_of(row) in FP8_OF_EXPERTS and num_experts(row):
        return FP8_OF_EXPERTS[release_of(row)]
    theirs = FP8_OF_REPOSITORY.items() if stated == FP8 and row.device not in INSTINCT else ()  # which has submissions of AMD's code
    meant = [each for repository, each in theirs if repository in row.says("source")]
    noted = [precision for words, precision in FP8_OF_NOTES.items() if stated == FP8 and words in row.says("notes")]
    return PRECISION_OF_LABEL.get(label[1], stated) if label else (*noted, *meant, stated)[0]


# What `source` may hold -> what its runs fuse though their stack does not.
FUSED: Final[Mapping[str, tuple[str, ...]]] = {
    # yanring/Megatron-MoE-ModelZoo, model_configs/benchmarking/Qwen3-235B-A22B.yaml: --moe-router-fusion.
    "Megatron-MoE-ModelZoo": ("router",),
    "jzhang38/TinyLlama": ("rms_norm", "swiglu"),  # there, README.md: fused layernorm, fused swiglu
    "foundation-model-stack/fms-fsdp": ("rms_norm", "swiglu"),  # there, README.md: torch.compile
}


def fusions_of(row: TableRow, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The stack's, as a row or its source has them; with a kernel of RMSNorm: Hagemann et al. 2023 (arXiv:2311.05610), section 4.2."""
    more = [each for source, fused in FUSED.items() if source in row.says("source") for each in fused]
    less = ("router", "latent_rotary") if has_moonlight_recipe(row) else ()
    own = ("rms_norm",) if "RMS kernel" in row.says("notes") else ()
    return tuple(each for each in (*usual, *own, *more) if each not in less)


def latent_recipe_of(row: TableRow) -> LatentRecipe | None:
    """What the recipes of the row's source run for latent attention; None where they are not known."""
    recipes = next((found for held, found in LATENT_RECIPES.items() if held in row.says("source")), {})
    return recipes.get(row.device, recipes.get(""))


def balances_loads(row: TableRow) -> bool:
    """Whether a row of Megatron Core has an auxiliary loss, as all its recipes of experts do but gpt-oss's."""
    stack = software_of(row).stack
    return stack.startswith(("megatron-core", "megatron-bridge", "nemo")) and "oss" not in row.says("model_name").lower()


def modules_of(row: TableRow) -> tuple[str, ...]:
    """The modules that run again where the row says selective and its source means others than core attention; none else."""
    known = [each for source, each in MODULES_OF_SOURCE.items() if source in row.says("source")]
    ends = known[0].items() if known and row.says("recompute") == "selective" else ()
    return next((modules for end, modules in ends if row.says("notes").endswith(end)), ())


def pads_experts(row: TableRow) -> bool:
    """Whether loads are padded to a capacity, so that their sizes are known before.

    Source: NVIDIA/NeMo, scripts/performance/llm/pretrain_deepseek_v3.py: USE_TOKEN_DROP; lightning/pytorch/callbacks/moe_token_drop.py:
    moe_pad_expert_input_to_capacity, under the dispatcher alltoall.
    """
    return bool(re.search(r"token-drop|capacity factor 1 with padding", row.says("notes")))


# What `source` may hold -> its experts' capacity.  There, or in the configuration of that name: sparse_matmul False, capacity_factor 1.25.
CAPACITY_OF_SOURCE: Final[Mapping[str, float]] = {"tpu-recipes training/trillium/Mixtral": 1.25}


def capacity_of(row: TableRow) -> Mapping[str, float | bool]:
    """The figures of experts that compute as many rows as they may take, where notes or the source of a row say so.

    >>> capacity_of(TableRow({"notes": "MaxText, capacity_factor 1.25"}, {}, {}, ()))
    {'capacity_factor': 1.25, 'pad_to_capacity': True}
    """
    said = re.search(r"capacity_factor[ =:]+(\d+(?:\.\d+)?)", row.says("notes"))
    known = [factor for held, factor in CAPACITY_OF_SOURCE.items() if held in row.says("source")]
    factor = float(said[1]) if said else next(iter(known), 0.0)
    return {"capacity_factor": factor, "pad_to_capacity": True} if factor else {}


# Times the loss that balances loads: NVIDIA-NeMo/Megatron-Bridge@067f987d, src/megatron/bridge/models (qwen, deepseek, moonlight), and
# yanring/Megatron-MoE-ModelZoo, model_configs/benchmarking: 1e-3 or 1e-4, whose size takes no time.
AUXILIARY_LOSS: Final = 1e-3


def later_modules_of(row: TableRow) -> int:
    """The modules that predict later tokens, as the flags of Megatron Core in its notes say."""
    said = re.search(r"mtp-num-layers=(\d+)", row.says("notes"))
    return int(said[1]) if said else 0


def dispatch_of(row: TableRow) -> str:
    """How the row says that tokens reach experts, or ""."""
    said = re.search(r"deepep|hybridep|alltoall dispatcher|\ba2a\b(?! overlap)|token-drop", row.says("notes"), re.IGNORECASE)
    if not said:
        return ALL_TO_ALL if has_moonlight_recipe(row) else ""
    return PER_NODE if said[0].lower() in ("deepep", "hybridep") else ALL_TO_ALL
