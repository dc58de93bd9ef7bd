"""Kernel laws against arithmetic on the page."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cluster_rows import accelerator, rows

from parsim.cluster import Accelerator, AttentionLaw, ElementwiseLaw, Law
from parsim.cluster.efficiency import alignment, attention_s, elementwise_s, gemm_s
from parsim.errors import ScenarioError


def toy(**changes: object) -> Accelerator:
    """Peak 1000 FLOP/s, 100 bytes/s, 4 multiprocessors."""
    figures: dict[str, object] = {
        "name": "toy",
        "peak_flops_per_s": {"bf16": 1000.0, "fp32": 100.0},
        "hbm_bandwidth_bytes_per_s": 100.0,
        "hbm_capacity_bytes": 10**6,
        "num_multiprocessors": 4,
        "gemm": Law(0.5, 0.8, 0.25, 2.0),
        "attention": AttentionLaw(((64, 0.4), (128, 0.6)), 1.0, 0.5, 0.5, 0.75),
        "elementwise": ElementwiseLaw(0.5, 2.0),
        "sustained_factor": 0.8,
    }
    return Accelerator(**{**figures, **changes})  # type: ignore[arg-type]


def test_gemm_is_launch_plus_the_p_norm_of_both_roofs() -> None:
    # 1500 FLOP at .5 x 1000 is 3 s, 320 bytes at .8 x 100 is 4 s; hypotenuse 5.
    assert gemm_s(toy(), 1500, 320, "bf16", sustained=1.0) == pytest.approx(0.25 + 5.0, rel=1e-14)


def test_a_large_exponent_is_the_roofline_and_does_not_underflow() -> None:
    sharp = toy(gemm=Law(0.5, 0.8, 0.0, 200.0))
    assert gemm_s(sharp, 1500e-9, 320e-9, "bf16", sustained=1.0) == pytest.approx(4e-9, rel=1e-12)


def test_sustained_and_alignment_slow_only_the_arithmetic() -> None:
    assert gemm_s(toy(), 1500, 0, "bf16") == pytest.approx(0.25 + 3 / 0.8, rel=1e-14)
    assert gemm_s(toy(), 1500, 0, "bf16", aligned=0.5, sustained=0.5) == pytest.approx(0.25 + 12, rel=1e-14)
    assert gemm_s(toy(), 0, 320, "bf16", aligned=0.5) == pytest.approx(0.25 + 4, rel=1e-14)


def test_tiles_of_a_result_are_worked_in_waves() -> None:
    # On 4 multiprocessors 512 x 512 x 512 are 8 tiles of 256 x 128, two full waves: 2 x 512^3 FLOP at .5 x 1000 /s, as without a shape.
    work = 2 * 512**3
    full = work / 500
    assert gemm_s(toy(), work, 0, "bf16", shape=(512, 512, 512), sustained=1.0) == pytest.approx(0.25 + full, rel=1e-12)
    # 513 rows are 9 rows of tiles of 64 x 64 with 8 in a row: 72, which fill 18 waves where 64 fill 16.
    odd = gemm_s(toy(), work * 513 // 512, 0, "bf16", shape=(513, 512, 512), sustained=1.0)
    assert odd == pytest.approx(0.25 + full * 18 / 16, rel=1e-12)
    # Where each tile costs as much as 512 more elements of k, it takes twice as long; a smaller tile cannot help, nor a part of k.
    slow = toy(gemm=Law(0.5, 0.8, 0.25, 2.0, tile_start=512))
    assert gemm_s(slow, work, 0, "bf16", shape=(512, 512, 512), sustained=1.0) == pytest.approx(0.25 + 2 * full, rel=1e-12)


def test_a_smaller_tile_is_slower_by_its_edges() -> None:
    # One tile of 64 x 64 on each of 4 multiprocessors: an edge of 1/64 + 1/64 of its area against 1/256 + 1/128.
    device, work = toy(gemm=Law(0.5, 0.8, 0.25, 2.0, tile_edge=64)), 2 * 128**2 * 64
    slower = (1 + 64 * (1 / 64 + 1 / 64)) / (1 + 64 * (1 / 256 + 1 / 128))
    assert gemm_s(device, work, 0, "bf16", shape=(128, 128, 64), sustained=1.0) == pytest.approx(0.25 + slower * work / 500, rel=1e-12)


def test_parts_of_k_fill_a_device_and_pay_for_their_sums() -> None:
    # One tile of 64 x 64 keeps 1 of 4 multiprocessors at work; 4 parts of k keep all, and write and read 4 x 4 bytes an element.
    work, sums_s = 2 * 64**2 * 4096, 4 * 8 * 64**2 / (0.8 * 100)
    assert gemm_s(toy(), work, 0, "bf16", shape=(64, 64, 4096), sustained=1.0) == pytest.approx(
        0.25 + math.hypot(work / 500, sums_s), rel=1e-12
    )


def test_a_cache_holds_activations_but_no_weights() -> None:
    # 320 bytes at .8 x 100 are 4 s; half of a cache of 160 bytes spares 80 of them, at most what is no weight.
    device = toy(l2_bytes=160.0)
    assert gemm_s(device, 0, 160, "bf16") == pytest.approx(0.25 + 1, rel=1e-14)
    # What the cache cannot hold is no faster than the memory: 320 bytes at 100 a second.
    assert gemm_s(device, 0, 320, "bf16") == pytest.approx(0.25 + 3.2, rel=1e-14)
    assert gemm_s(device, 0, 320, "bf16", weight_bytes=280) == pytest.approx(0.25 + 3.5, rel=1e-14)
    assert attention_s(device, 0, 320, 8, 128, "bf16") == pytest.approx(1 + 240 / 50, rel=1e-14)


def test_more_rows_are_never_faster() -> None:
    m = np.arange(1, 4200)
    for name in ("a100-sxm4-80gb", "l40s", "b200"):
        seconds = np.asarray(gemm_s(accelerator(name), 2 * m * 1024**2, 2 * (2 * m * 1024 + 1024**2), "bf16", shape=(m, 1024, 1024)))
        assert (np.diff(seconds) >= 0).all()


def test_attention_adds_a_ramp_of_few_blocks_and_its_bytes() -> None:
    # 600 FLOP at .6 x 1000 is 1 s; 8 blocks on 4 multiprocessors ramp by .5 / 2; 100 bytes at .5 x 100 are 2 s; launch 1 s.
    assert attention_s(toy(), 600, 100, 8, 128, "bf16", sustained=1.0) == pytest.approx(1 + 1.25 + 2, rel=1e-14)
    # Halfway between the measured head dims the efficiency is halfway, outside it stays.
    assert attention_s(toy(), 500, 0, 8, 96, "bf16", sustained=1.0) == pytest.approx(1 + 1.25, rel=1e-14)
    assert attention_s(toy(), 600, 0, 8, 256, "bf16", sustained=1.0) == pytest.approx(1 + 1.25, rel=1e-14)


def test_backward_attention_runs_at_its_share_of_the_forward_rate() -> None:
    assert attention_s(toy(), 600, 0, 8, 128, "bf16", is_gradient=True, sustained=1.0) == pytest.approx(1 + 1.25 / 0.75, rel=1e-14)
    assert attention_s(toy(), 600, 0, 8, 128, "bf16") == pytest.approx(1 + 1.25 / 0.8, rel=1e-14)


def test_fused_elementwise_pays_bytes_and_no_launch() -> None:
    assert elementwise_s(toy(), 100) == 4.0
    assert elementwise_s(toy(), 100, fused=True) == 2.0


@pytest.mark.parametrize("name", list(rows("accelerators")))
def test_what_an_l2_cannot_hold_is_never_faster_than_the_memory(name: str) -> None:
    device = accelerator(name)
    traffic = np.maximum(device.l2_bytes, 1e6) * np.array([1.001, 1.25, 1.6, 2, 2.4, 4.7, 100])
    dtype = next(iter(device.peak_flops_per_s))
    least_s = traffic / device.hbm_bandwidth_bytes_per_s
    assert np.all(gemm_s(device, 0, traffic, dtype) >= least_s)
    assert np.all(attention_s(device, 0, traffic, 1, 128, dtype) >= least_s)
    assert np.all(elementwise_s(device, traffic) >= least_s)


def test_a_width_off_a_cache_line_of_128_bytes_is_slower_where_the_device_was_seen_so() -> None:
    a100, widths = accelerator("a100-sxm4-80gb"), [64, 12288, 96, 1824, 1800, 8, 7, 1]
    assert np.asarray(alignment(a100, widths)).tolist() == [1, 1, 0.8, 0.8, 0.62, 0.62, 0.62, 0.62]
    assert np.asarray(alignment(accelerator("h100-sxm5-80gb"), widths)).tolist() == [1] * len(widths)


def test_an_unknown_dtype_names_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="fp8") as fault:
        gemm_s(toy(), 1, 1, "fp8")
    assert "bf16, fp32" in str(fault.value)


def test_one_value_and_an_array_of_any_length_agree_in_every_bit() -> None:
    device = accelerator("a100-sxm4-80gb")
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 7, 16, 33):
        flops, bytes_, blocks = (rng.integers(1, 10**12, length) for _ in range(3))
        dims = rng.integers(1, 300, length)
        gemm = np.asarray(gemm_s(device, flops, bytes_, "bf16", aligned=alignment(device, dims)))
        attention = np.asarray(attention_s(device, flops, bytes_, blocks, dims, "bf16", is_gradient=True))
        strided = np.asarray(gemm_s(device, np.repeat(flops, 2)[::2], np.repeat(bytes_, 2)[::2], "bf16", aligned=alignment(device, dims)))
        assert gemm.tolist() == strided.tolist()
        for i in range(length):
            assert gemm_s(device, int(flops[i]), int(bytes_[i]), "bf16", aligned=alignment(device, int(dims[i]))) == gemm[i]
            one = attention_s(device, int(flops[i]), int(bytes_[i]), int(blocks[i]), int(dims[i]), "bf16", is_gradient=True)
            assert one == attention[i]
            assert elementwise_s(device, int(bytes_[i])) == np.asarray(elementwise_s(device, bytes_))[i]


def test_shapes_broadcast() -> None:
    assert np.asarray(gemm_s(toy(), np.ones((3, 1)), np.ones(4), "bf16")).shape == (3, 4)
    assert isinstance(gemm_s(toy(), 1, 1, "bf16"), float)


@pytest.mark.parametrize("name", rows("accelerators"))
def test_no_isolated_kernel_beats_the_peak_or_the_memory(name: str) -> None:
    device = accelerator(name)
    for dtype in device.peak_flops_per_s:
        flops = 2 * 8192.0**3
        assert gemm_s(device, flops, 6 * 8192**2, dtype, sustained=1.0) > flops / device.peak(dtype)
        assert attention_s(device, flops, 0, 10**4, 128, dtype, sustained=1.0) > flops / device.peak(dtype)
    laws = (device.gemm, *device.gemm_by_dtype.values(), device.attention)
    assert max(law.memory_efficiency for law in laws) <= 1  # what exceeds the L2 is no faster than the memory
    assert device.elementwise.memory_efficiency < 1
    assert elementwise_s(device, 10**9) > 10**9 / device.hbm_bandwidth_bytes_per_s
    assert 0 < device.sustained_factor <= 1


def test_a_dtype_may_have_a_gemm_law_of_its_own() -> None:
    # 600 FLOP at .5 x 1000 is 1.2 s without bytes; fp32 at .25 x 100 is 24 s after a launch of 3 s.
    device = toy(gemm_by_dtype={"fp32": Law(0.25, 0.8, 3.0, 2.0)})
    assert gemm_s(device, 600, 0, "bf16", sustained=1.0) == pytest.approx(0.25 + 1.2, rel=1e-14)
    assert gemm_s(device, 600, 0, "fp32", sustained=1.0) == pytest.approx(3.0 + 24.0, rel=1e-14)


def test_a_training_gemm_on_a100_runs_near_the_rates_that_are_published() -> None:
    # ML-Engineering measures at best 271 TFLOP/s of 312 on the A100 and 795 of 989 on the H100 (maximum achievable matmul).
    flops, bytes_ = 2 * 8192.0 * 8192 * 16384, 2 * (8192 * 8192 + 2 * 8192 * 16384)
    for name, best_flops_per_s in (("a100-sxm4-80gb", 271.2e12), ("h100-sxm5-80gb", 794.5e12)):
        seconds = float(np.asarray(gemm_s(accelerator(name), flops, bytes_, "bf16", shape=(8192, 8192, 16384), sustained=1.0)))
        assert 0.85 < flops / seconds / best_flops_per_s < 1.02
        assert math.isfinite(seconds)


def test_an_exponent_may_be_less_sharp_than_that_of_the_law_and_no_sharper() -> None:
    # The roofs of 3 and 4 s one after the other, their hypotenuse, and no more of either than it takes alone.
    assert gemm_s(toy(), 1500, 320, "bf16", sustained=1.0, exponent=1.0) == pytest.approx(0.25 + 7.0, rel=1e-14)
    assert gemm_s(toy(), 1500, 320, "bf16", sustained=1.0, exponent=9.0) == pytest.approx(0.25 + 5.0, rel=1e-14)
    assert gemm_s(toy(), 1500, 0, "bf16", sustained=1.0, exponent=1.6) == pytest.approx(0.25 + 3.0, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "flops_per_clock", "exponentials_per_clock"),
    [("a100-sxm4-80gb", 2048, 16), ("h100-sxm5-80gb", 4096, 16), ("h200", 4096, 16), ("b200", 8192, 16), ("gb200", 8192, 16)],
)
def test_attention_takes_no_more_exponentials_than_multiprocessors_make(
    name: str, flops_per_clock: int, exponentials_per_clock: int
) -> None:
    """An unmasked pair takes one, and 4 head_dim FLOP.

    Source: NVIDIA CUDA C++ programming guide, arithmetic instructions: 16 exponentials a clock and multiprocessor; dense peaks of bf16.
    """
    for head_dim, efficiency in accelerator(name).attention.efficiency_by_head_dim:
        assert efficiency * flops_per_clock / (4 * head_dim) < exponentials_per_clock
