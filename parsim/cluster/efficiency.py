"""Seconds of one kernel on one accelerator, from its FLOPs and bytes: the laws of accelerator.py as arithmetic over arrays.

What the kernels of a step are, and whether a stack fuses them, is decided above.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from parsim.cluster.accelerator import Accelerator, GroupedLaw, KernelLaw, Law
from parsim.cluster.scalars import Floats, Scalar, floats, reshape

# Tiles of the result, and parts of k, among which a GEMM library chooses; each part adds its float32 sums to memory and reads them again.
# Source: NVIDIA CUTLASS, media/docs/efficient_gemm.md.
_TILE_ROWS, _TILE_COLUMNS = np.array([(256, 128), (128, 256), (128, 128), (64, 64)], dtype=np.float64).T[:, :, None, None]
_PARTS: Final = np.array([1, 2, 4, 8], dtype=np.float64)[:, None]
_PART_BYTES: Final = np.where(_PARTS > 1, 2 * 4 * _PARTS, 0.0)  # of an element of the result
# What the kernels of a selective scan reach of their roofs, the rate of flash attention and that of memory: a parsim fit, one number, to
# steps of Mamba-2 of 1.4B (48 layers of 2048, 4 x 4096 tokens) at 102.5 TFLOP/s on A100, 239.2 on H200 and 360.4 on GB200
# (state-spaces/mamba, issue 904; tests/witnesses/test_scan_steps.py).
SCAN_SHARE: Final = 0.21
LANES: Final = 128  # of a vector register of a TPU, of which tiles are multiples: jax-ml/scaling-book@0819a7d8, tpus.md
_EDGE: Final = 1 / _TILE_ROWS + 1 / _TILE_COLUMNS  # of a tile, over its area


def gemm_s(
    accelerator: Accelerator,
    flops: Scalar,
    hbm_bytes: Scalar,
    dtype: str,
    *,
    shape: tuple[Scalar, Scalar, Scalar] | None = None,
    weight_bytes: Scalar = 0.0,
    aligned: Scalar = 1.0,
    sustained: Scalar | None = None,
    exponent: float | None = None,
    law: Law | None = None,
) -> Scalar:
    """Seconds of a matrix multiplication that has the device to itself.

    Args:
        flops: 2 m n k of it, for each matrix of a batch [FLOP].
        hbm_bytes: both operands and the result, once each [bytes].
        shape: m, n and k of one matrix; where left out, all tiles are full.
        weight_bytes: those of `hbm_bytes` that no cache holds: of weights or their gradients [bytes].
        aligned: share of the rate left by odd widths, see `alignment`.
        sustained: share of the rate left by power and clocks in training; None: the accelerator's own, 1: an isolated kernel.
        exponent: at most, in place of the law's: 1 adds the roofs.
        law: in place of the accelerator's for that dtype.

    Returns:
        launch + (compute^q + memory^q)^(1/q) of the fastest tiling, broadcast over the arguments.  Multiprocessors work the tiles of the
        result, or parts of them along k, in waves: compute = waves x FLOPs of a wave / (e sustained aligned peak), where smaller tiles have
        a smaller e and each starts anew; memory = bytes / (e_m bandwidth), with the parts' sums and without what stays in the L2;
        operands and a result that the L2 cannot hold take bytes / bandwidth at least.

    Raises:
        ScenarioError: the accelerator has no peak for that dtype.

    Source: p-norm of the two roofs of Williams et al. 2009 (CACM 52(4)) over the tilings of NVIDIA CUTLASS, media/docs/efficient_gemm.md,
    fitted to ai-dynamo/aiconfigurator@095f58a5 GEMM tables.
    """
    law = law or accelerator.gemm_law(dtype)
    factor = accelerator.sustained_factor * accelerator.kept_by_limit if sustained is None else sustained
    given, (work, traffic, weights, share, keep, *sides) = floats(flops, hbm_bytes, weight_bytes, aligned, factor, *(shape or (1, 1, 1)))
    done, sums_bytes = _tilings(accelerator, law, work, *sides) if shape else (work[None], np.zeros((1, 1)))
    compute_s = done / (law.efficiency * accelerator.peak(dtype) * share * keep)
    beyond = np.maximum(traffic + sums_bytes - kept_bytes(accelerator), np.minimum(weights, traffic))
    memory_s = _moved_s(accelerator, traffic, beyond, law.memory_efficiency)
    # Relative to the larger roof, so that no power underflows however sharp the exponent.
    roof_s, power = np.maximum(np.maximum(compute_s, memory_s), np.finfo(np.float64).tiny), min(law.exponent, exponent or law.exponent)
    norm = np.power(np.power(compute_s / roof_s, power) + np.power(memory_s / roof_s, power), 1.0 / power)
    return reshape(law.launch_s + np.min(roof_s * norm, axis=0), given)


def grouped_gemm_s(
    accelerator: Accelerator,
    flops: Scalar,
    hbm_bytes: Scalar,
    dtype: str,
    *,
    law: GroupedLaw,
    shape: tuple[Scalar, Scalar, Scalar],
    weight_bytes: Scalar,
    rows: Scalar,
    aligned: Scalar = 1.0,
    sustained: Scalar | None = None,
) -> Scalar:
    """Seconds of the products of all experts by one kernel, see `GroupedLaw`.

    Args:
        rows: tokens of one expert, on average.
        aligned: share of the rate left by widths whose last tile is masked, see `masked_share`.
        flops, hbm_bytes, shape, weight_bytes, sustained: as in `gemm_s`, weights once.

    Source: Gale et al. 2022 (arXiv:2211.15841), for the kernel; openxla/tokamax@783ea957, tokamax/_src/ops/ragged_dot, of which tiles
    are worked twice.
    """
    given, (of_expert, share) = floats(rows, aligned)
    worked = reshape(share * of_expert / (of_expert + law.tile_rows * law.cores), given)
    moved, weights = hbm_bytes + (law.cores - 1) * weight_bytes, law.cores * weight_bytes
    return gemm_s(
        accelerator, flops, moved, dtype, shape=shape, weight_bytes=weights, aligned=worked, sustained=sustained, law=law.law_in(dtype)
    )


def _tilings(accelerator: Accelerator, law: Law, work: Floats, m: Floats, n: Floats, k: Floats) -> tuple[Floats, Floats]:
    """By parts of k: FLOPs of the largest tile that would fill the waves of the fastest tile; and the bytes of the parts' sums."""
    matrices = np.rint(work / (2.0 * m * n * k))
    tiles = matrices * np.ceil(m / _TILE_ROWS) * np.ceil(n / _TILE_COLUMNS) * _PARTS
    slots = np.ceil(tiles / accelerator.num_multiprocessors) * accelerator.num_multiprocessors
    slower = (1.0 + law.tile_edge * _EDGE) / (1.0 + law.tile_edge * _EDGE.min())
    done = 2.0 * slots * (_TILE_ROWS * _TILE_COLUMNS * slower) * (k / _PARTS + law.tile_start)
    return np.min(done, axis=0), matrices * m * n * _PART_BYTES


def kept_bytes(accelerator: Accelerator) -> float:
    """Bytes of activations that a kernel finds in the L2, or leaves there: half of it, while weights pass through the rest.

    Source: the better fit of the GEMM laws of both devices that show an L2, l40s and rtx-pro-6000.
    """
    return accelerator.l2_bytes / 2


def _moved_s(accelerator: Accelerator, traffic: Floats, beyond: Floats, efficiency: float) -> Floats:
    """Seconds of the bytes that no cache keeps; of traffic that an L2 cannot hold, none of it is faster than the memory."""
    bandwidth = accelerator.hbm_bandwidth_bytes_per_s
    return np.maximum(beyond / (efficiency * bandwidth), np.where(traffic > accelerator.l2_bytes, traffic, 0.0) / bandwidth)


def attention_hbm_s(accelerator: Accelerator, hbm_bytes: Scalar) -> Scalar:
    """Seconds of a flash attention kernel's memory: of bytes beyond those kept; no faster than the memory beyond its L2."""
    shape, (traffic,) = floats(hbm_bytes)
    beyond = np.maximum(traffic - kept_bytes(accelerator), 0.0)
    return reshape(_moved_s(accelerator, traffic, beyond, accelerator.attention.memory_efficiency), shape)


def attention_s(
    accelerator: Accelerator,
    pair_flops: Scalar,
    hbm_bytes: Scalar,
    num_blocks: Scalar,
    head_dim: Scalar,
    dtype: str,
    *,
    is_gradient: bool = False,
    sustained: Scalar | None = None,
) -> Scalar:
    """Seconds of a flash attention kernel.

    Args:
        pair_flops: what is really done, unmasked pairs only: 4 head_dim a pair forward, 10 backward [FLOP].
        hbm_bytes: queries, keys, values and outputs (and their gradients), once each [bytes].
        num_blocks: independent blocks of work: batch x heads x max(1, sequence / 128).
        head_dim: efficiency is linear between the measured head dims, constant outside them.
        is_gradient: the gradient kernel runs at backward_rate of the forward kernel's FLOP/s.
        sustained: as in `gemm_s`.

    Returns:
        launch + flops / (e sustained peak) (1 + ramp multiprocessors / blocks) + bytes beyond the L2 / (e_m bandwidth), broadcast.

    Raises:
        ScenarioError: the accelerator has no peak for that dtype.

    Source: fitted to ai-dynamo/aiconfigurator@095f58a5 attention tables; the FLOPs are those of Dao 2023 (arXiv:2307.08691), section 4.
    """
    law = accelerator.attention
    factor = accelerator.sustained_factor * accelerator.kept_by_limit if sustained is None else sustained
    shape, (work, traffic, blocks, width, keep) = floats(pair_flops, hbm_bytes, num_blocks, head_dim, factor)
    efficiency = np.interp(width, *np.asarray(law.efficiency_by_head_dim, dtype=np.float64).T)
    rate = efficiency * keep * (accelerator.peak(dtype) * (law.backward_rate if is_gradient else 1.0))
    compute_s = work / rate * (1.0 + law.ramp * accelerator.num_multiprocessors / np.maximum(blocks, 1.0))
    return reshape(law.launch_s + compute_s + np.asarray(attention_hbm_s(accelerator, traffic)), shape)


def scan_s(
    accelerator: Accelerator,
    flops: Scalar,
    hbm_bytes: Scalar,
    num_kernels: int,
    head_dim: Scalar,
    dtype: str,
    *,
    is_gradient: bool = False,
    sustained: Scalar | None = None,
) -> Scalar:
    """Seconds of the kernels of a selective scan in chunks (Mamba-2).

    Args:
        flops: products of all its kernels [FLOP].
        hbm_bytes: all that they read and write, states and scores of chunks too [bytes].
        num_kernels: how many they are.
        head_dim: the width of a head, as in `attention_s`.
        is_gradient: the gradient's kernels.
        sustained: as in `gemm_s`.

    Returns:
        launches + max(flops / rate, bytes / (e_m bandwidth)) / SCAN_SHARE, broadcast, with the rate of flash attention.

    Raises:
        ScenarioError: the accelerator has no peak for that dtype.

    Source: roofs as of Williams et al. 2009 (CACM 52(4)); the share is fitted to whole steps, see there.
    """
    law, elementwise = accelerator.attention, accelerator.elementwise
    factor = accelerator.sustained_factor * accelerator.kept_by_limit if sustained is None else sustained
    shape, (work, traffic, width, keep) = floats(flops, hbm_bytes, head_dim, factor)
    efficiency = np.interp(width, *np.asarray(law.efficiency_by_head_dim, dtype=np.float64).T)
    rate = efficiency * keep * (accelerator.peak(dtype) * (law.backward_rate if is_gradient else 1.0))
    memory_s = traffic / (elementwise.memory_efficiency * accelerator.hbm_bandwidth_bytes_per_s)
    return reshape(num_kernels * elementwise.launch_s + np.maximum(work / rate, memory_s) / SCAN_SHARE, shape)


def elementwise_s(accelerator: Accelerator, hbm_bytes: Scalar, *, fused: bool = False) -> Scalar:
    """Seconds of a kernel that only reads and writes `hbm_bytes`, by the elementwise law; a fused one is part of another, without launch.

    Source: fitted to ai-dynamo/aiconfigurator@095f58a5 scale_matrix tables and public copy benchmarks.
    """
    law = accelerator.elementwise
    shape, (traffic,) = floats(hbm_bytes)
    moved_s = traffic / (law.memory_efficiency * accelerator.hbm_bandwidth_bytes_per_s)
    return reshape(moved_s + (0.0 if fused else law.launch_s), shape)


def gather_s(accelerator: Accelerator, hbm_bytes: Scalar) -> Scalar:
    """Seconds of a kernel that fetches rows by an index and writes them in order: `hbm_bytes` both ways."""
    law = accelerator.elementwise
    shape, (traffic,) = floats(hbm_bytes)
    return reshape(law.launch_s + traffic / (law.gathers * accelerator.hbm_bandwidth_bytes_per_s), shape)


def kernel_s(
    law: KernelLaw, flops: Scalar, moved_bytes: Scalar, *, written_bytes: Scalar = 0.0, num_matrices: Scalar = 0.0, num_calls: Scalar = 1.0
) -> Scalar:
    """Seconds of `num_calls` equal calls of a kernel that has a law of its own.

    FLOPs and bytes are those of one call: `moved_bytes` all that it reads and writes, `written_bytes` its outputs; `num_matrices` counts
    those of a batched product, one after another, and is 0 for anything else.

    Source: the sum that `KernelLaw` states.

    >>> law = KernelLaw(call_s=1e-6, flops_per_s=1e9, knees=((1000.0, 1e8),))
    >>> float(kernel_s(law, 5000, 1100)), float(kernel_s(law, 5000, 900, num_calls=2))
    (7e-06, 1.2e-05)
    """
    shape, (work, moved, written, matrices, calls) = floats(flops, moved_bytes, written_bytes, num_matrices, num_calls)
    seconds = law.call_s + matrices * law.matrix_s + work / law.flops_per_s + moved / law.bytes_per_s + written / law.written_bytes_per_s
    for knee_bytes, rate in law.knees:
        seconds = seconds + np.maximum(moved - knee_bytes, 0.0) / rate
    return reshape(calls * seconds, shape)


def alignment(accelerator: Accelerator, width: Scalar) -> Scalar:
    """Share of the GEMM rate that a width of a matrix leaves [elements]: that of the largest multiple of the device's row which it is.

    >>> from parsim.scenario.rows import read
    >>> alignment(read("accelerators", "a100-sxm4-80gb"), [128, 96, 1800, 7]).tolist()
    [1.0, 0.8, 0.62, 0.62]
    """
    shape, (elements,) = floats(width)
    share = np.ones_like(elements)
    for multiple, of_multiple in sorted(accelerator.alignment.items()):
        share = np.where(np.fmod(elements, multiple) == 0, of_multiple, share)
    return reshape(share, shape)


def masked_share(law: GroupedLaw, width: Scalar) -> Scalar:
    """Share of the rate of a grouped GEMM that a width of a matrix leaves [elements]: see `GroupedLaw`.

    >>> masked_share(GroupedLaw(Law(0.5, 0.5, 0.0, 2.0), tile_columns=1024, masked=0.5), [704, 2048, 2880]).tolist()
    [1.0, 1.0, 0.5]
    """
    shape, (elements,) = floats(width)
    return reshape(np.where((elements > law.tile_columns) & (np.fmod(elements, LANES) != 0), law.masked, 1.0), shape)
