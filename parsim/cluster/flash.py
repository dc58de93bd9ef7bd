"""Kernels of flash attention by architecture, in one table: how fast each is beside the law of its device, and where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from parsim.cluster.accelerator import Accelerator

OWN: Final = "flash"  # whatever the device runs best: what the attention law of its catalog row was fitted to
KERNELS: Final = (
    *("flash_1", "flash_1_triton", "flash_2", "flash_3", "cudnn", "cudnn_fp8", "memory_efficient"),
    *("ck", "aiter", "splash", "fused_sdpa", "nki_flash"),
)
# By first word of the name of a catalog row.
ARCHITECTURES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("v100",), "Volta"),
    **dict.fromkeys(("t4",), "Turing"),
    **dict.fromkeys(("a100", "a800", "a10", "a10g", "a30", "a40"), "Ampere"),
    **dict.fromkeys(("l4", "l40s"), "Ada"),
    **dict.fromkeys(("h100", "h200", "h800", "h20", "gh200"), "Hopper"),
    **dict.fromkeys(("b200", "gb200"), "Blackwell"),
    **dict.fromkeys(("b300", "gb300"), "Blackwell Ultra"),
    **dict.fromkeys(("mi250x",), "CDNA 2"),
    **dict.fromkeys(("mi300x", "mi325x"), "CDNA 3"),
    **dict.fromkeys(("mi350x", "mi355x"), "CDNA 4"),
    **dict.fromkeys(("tpu",), "TPU"),
    **dict.fromkeys(("gaudi2", "gaudi3"), "Gaudi"),
    **dict.fromkeys(("trainium1", "trainium2"), "Neuron"),
}
# Cards of a family that spans generations, by the whole name.
CARDS: Final[Mapping[str, str]] = {
    **{"rtx-3090": "Ampere", "rtx-a6000": "Ampere", "rtx-4090": "Ada", "rtx-pro-6000": "Blackwell RTX", "rtx-5090": "Blackwell RTX"}
}


class FlashKernel(NamedTuple):
    """FLOP/s of a kernel over those of its device's law."""

    forward: float
    backward: float
    source: str
    block: int = 128  # of queries, and of keys, that it works at once: a block of which a window leaves a part is worked whole


_DAO_1 = (
    "Dao-AILab/flash-attention@014c349, README: FlashAttention 1.x for Turing; "
    "microsoft/torchscale, README: Flash Attention for Turing, Ampere, Ada or Hopper"
)
_DAO_2 = "Dao 2023 (arXiv:2307.08691), section 4.1: FlashAttention-2 is around 2 x as fast"
_TRITON = "Dao 2023 (arXiv:2307.08691), section 4.1: FlashAttention-2 is 1.3 to 1.5 x as fast forward and around 2 x backward"
_FITTED_2 = "the law was fitted to it"
_SHAH = "Shah et al. 2024 (arXiv:2407.08608), section 1: FlashAttention-3 is 1.5 to 2.0 x as fast forward and 1.5 to 1.75 x backward"
_ON_HOPPER = "assumed: beside FlashAttention-2 as on Ampere"
_ASSUMED = "assumed: the law, which no table of this device stands behind, is taken for it"
_CUDNN = "assumed: as fast as the kernel that the law was fitted to"
_SDPA = "NVIDIA/cudnn-frontend@3929da2e, benchmark/sdpa_benchmark_training/results, llama3.1, causal, 2k to 32k tokens"
_ON_H200 = "means of medians: measured on one H200 SXM, cuDNN 9.19, torch 2.11, 29 November 2026, tests/benchmarks/bench_gpu.py"
_ROCM = "Dao-AILab/flash-attention, README: FlashAttention-2 on MI200 and MI300 is composable_kernel's; the rate is assumed"

TABLE: Final[Mapping[tuple[str, str], FlashKernel]] = {
    ("memory_efficient", "Volta"): FlashKernel(1, 1, "assumed: of PyTorch's fused kernels the one for Volta; the law is taken for it"),
    ("flash_1", "Turing"): FlashKernel(1, 1, f"{_DAO_1}; the rate is assumed"),
    ("memory_efficient", "Turing"): FlashKernel(1, 1, _ASSUMED),
    ("flash_1", "Ampere"): FlashKernel(1 / 2, 1 / 2, _DAO_2),
    ("flash_1_triton", "Ampere"): FlashKernel(1 / 1.4, 1 / 2, _TRITON),
    ("flash_2", "Ampere"): FlashKernel(1, 1, _FITTED_2),
    ("cudnn", "Ampere"): FlashKernel(1, 1, f"{_CUDNN}; SimuMax's tables of the A100 PCIe, by either kernel, are 5 % off"),
    ("flash_1", "Ada"): FlashKernel(1 / 2, 1 / 2, f"assumed: as on Ampere; {_DAO_1}"),
    ("flash_1_triton", "Ada"): FlashKernel(1 / 1.4, 1 / 2, "assumed: as on Ampere"),
    ("flash_2", "Ada"): FlashKernel(1, 1, _FITTED_2),
    ("cudnn", "Ada"): FlashKernel(1, 1, _CUDNN),
    ("flash_1", "Hopper"): FlashKernel(1 / 2 / 1.75, 1 / 2 / 1.625, _ON_HOPPER),
    ("flash_1_triton", "Hopper"): FlashKernel(1 / 1.4 / 1.75, 1 / 2 / 1.625, _ON_HOPPER),
    ("flash_2", "Hopper"): FlashKernel(1 / 1.75, 1 / 1.625, _SHAH),
    ("flash_3", "Hopper"): FlashKernel(1, 1, _FITTED_2),
    ("cudnn", "Hopper"): FlashKernel(
        1.06, 1.14, f"{_ON_H200}: 0.94 to 1.05 forward, 1.07 to 1.16 backward; {_SDPA}: cuDNN 9.19 on H200: 1.13 to 1.14, 0.95 to 1.21"
    ),
    ("cudnn", "Blackwell"): FlashKernel(1.25, 1.10, f"{_SDPA}: cuDNN 9.22 on GB200, medians: 1.19 to 1.29 forward, 0.98 to 1.18 backward"),
    ("cudnn", "Blackwell Ultra"): FlashKernel(
        1.19, 0.97, f"{_SDPA}: cuDNN 9.22 on GB300, medians: 1.13 to 1.31 forward, 0.90 to 1.01 backward"
    ),
    ("cudnn_fp8", "Hopper"): FlashKernel(1.69, 0.93, f"{_SDPA}: cuDNN 9.19 on H200, medians: 1.64 to 1.71 forward, 0.76 to 1.08 backward"),
    ("cudnn_fp8", "Blackwell"): FlashKernel(
        1.62, 1.28, f"{_SDPA}: cuDNN 9.22 on GB200, medians: 1.57 to 1.63 forward, 0.92 to 1.40 backward"
    ),
    ("cudnn_fp8", "Blackwell Ultra"): FlashKernel(
        1.86, 1.25, f"{_SDPA}: cuDNN 9.22 on GB300, medians: 1.79 to 1.87 forward, 0.88 to 1.38 backward"
    ),
    ("flash_2", "Blackwell RTX"): FlashKernel(1, 1, "the law was fitted to flashinfer's, which is FlashAttention-2"),
    ("cudnn", "Blackwell RTX"): FlashKernel(1, 1, _CUDNN),
    **{("flash_2", cdna): FlashKernel(1, 1, _ROCM) for cdna in ("CDNA 2", "CDNA 3", "CDNA 4")},
    **{("ck", cdna): FlashKernel(1, 1, _ROCM) for cdna in ("CDNA 2", "CDNA 3", "CDNA 4")},
    **{("aiter", cdna): FlashKernel(1, 1, _ASSUMED) for cdna in ("CDNA 3", "CDNA 4")},
    ("splash", "TPU"): FlashKernel(
        1, 1, f"{_ASSUMED}; AI-Hypercomputer/maxtext@e591f30c, src/maxtext/configs/base.yml: sa_block_q and sa_block_kv are 512", 512
    ),
    ("fused_sdpa", "Gaudi"): FlashKernel(1, 1, _ASSUMED),
    ("nki_flash", "Neuron"): FlashKernel(1, 1, _ASSUMED),
}


def architecture_of(catalog_row: str) -> str:
    """The architecture of an accelerator by the catalog row that it is or starts from; "" where nobody knows."""
    return CARDS.get(catalog_row) or ARCHITECTURES.get(catalog_row.split("-")[0], "")


def multiplies_any_layout(accelerator: Accelerator) -> bool:
    """Whether it multiplies numbers of 8 bits however they lie; others want what is summed to lie together.

    Source: NVIDIA/TransformerEngine, transformer_engine/common/util/cuda_runtime.cpp and gemm: non-TN layouts of FP8 from sm100 on.
    """
    return architecture_of(accelerator.catalog_row) in ("Blackwell", "Blackwell Ultra")


def flash_kernel(kernel: str, catalog_row: str) -> FlashKernel | None:
    """A kernel on an accelerator of a catalog row; None where it does not run there.  Every accelerator has one of its own.

    >>> flash_kernel("flash_2", "h200").backward == 1 / 1.625, flash_kernel("flash_3", "a100-sxm4-80gb"), flash_kernel("flash", "x").forward
    (True, None, 1)
    """
    if kernel == OWN:
        return FlashKernel(1, 1, "the device's own law")
    return TABLE.get((kernel, architecture_of(catalog_row)))


def flash_fault(kernel: str, accelerator: Accelerator) -> str | None:
    """Why a named kernel cannot run on an accelerator; None where it can.

    >>> from parsim.scenario.rows import read
    >>> flash_fault("flash_3", read("accelerators", "a100-sxm4-80gb"))
    'attention = flash_3 does not run on a100-sxm4-80gb (Ampere); there: flash, flash_1, flash_1_triton, flash_2, cudnn'
    """
    if flash_kernel(kernel, accelerator.catalog_row):
        return None
    of = architecture_of(accelerator.catalog_row)
    there = ", ".join((OWN, *(name for name, architecture in TABLE if architecture == of)))
    lack = "has no known rate" if kernel == "memory_efficient" else "does not run"  # PyTorch's runs on most
    return f"attention = {kernel} {lack} on {accelerator.name} ({of or 'an architecture that no table lists'}); there: {there}"
