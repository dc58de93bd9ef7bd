"""The laws of the H200 beside what one measured: kernels alone, and beside blocks that read and write as a collective's do.

Measured on one H200 SXM (700 W), torch 2.11, cuDNN 9.19, 29 November 2026: tests/benchmarks/bench_gpu.py's kernels and more sizes of them.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from compare.score_gpu import errors_by_law, rows_of
from parsim.scenario.rows import read

WITNESSES = Path(__file__).parents[2] / "witnesses"
H200 = read("accelerators", "h200")
KERNELS, BESIDE = (rows_of(WITNESSES / name) for name in ("h200.csv", "h200_beside.csv"))
SHARE = dict(H200.beside)["all_reduce"]


MOST = {
    **{"gemm bf16": 0.05, "gemm fp8": 0.12, "copy bf16": 0.05, "add bf16": 0.08},
    **{"flash_2_forward bf16": 0.10, "flash_2_backward bf16": 0.10, "cudnn_forward bf16": 0.10, "cudnn_backward bf16": 0.12},
}


@pytest.mark.parametrize(("law", "most"), MOST.items())
def test_a_law_is_near_the_kernels_of_a_device_that_it_was_not_fitted_to(law: str, most: float) -> None:
    errors = errors_by_law(H200, KERNELS)[law]
    assert median(map(abs, errors)) < most, f"{law}: median of {len(errors)} kernels"


def cost(row: dict[str, str]) -> float:
    """`a` of a pair: what of the shorter comes on top of the longer; what only holds multiprocessors makes compute alone longer."""
    compute, collective, end, total = (float(row[f"{name}_us"]) for name in ("compute", "collective", "compute_end", "total"))
    return 1 - compute / end if row["blocks_do"] == "hold" else (total - max(compute, collective)) / min(compute, collective)


def costs(what: str, blocks_do: str) -> float:
    """The median `a` of 16 blocks, as many as the row of the device counts."""
    return median(cost(row) for row in BESIDE if what in row["compute"] and (row["blocks_do"], row["blocks"]) == (blocks_do, "16"))


def test_what_blocks_cost_compute_is_between_attention_and_gemms_that_they_stream_beside() -> None:
    assert costs("cudnn", "hold") < costs("cudnn", "stream") < SHARE < costs("gemm", "hold") < costs("gemm", "stream") < 2.1 * SHARE
    assert costs("add", "hold") < 0.01 and costs("add", "stream") > 6 * SHARE  # the one shares multiprocessors, the other the memory


@pytest.mark.parametrize(("what", "most"), [("gemm", 0.07), ("fwd", 0.02)])
def test_two_streams_that_cost_one_another_end_nearer_than_those_that_do_not_or_wait(what: str, most: float) -> None:
    """Free overlap and one after the other are both worse; sums and maxima are of microseconds."""
    pairs = [row for row in BESIDE if what in row["compute"] and (row["blocks_do"], row["blocks"]) == ("stream", "16")]

    def error(share: float) -> float:
        found = []
        for row in pairs:
            compute, collective = float(row["compute_us"]), float(row["collective_us"])
            found.append(max(compute + share * collective, collective + share * compute) / float(row["total_us"]) - 1)
        return median(map(abs, found))

    assert error(SHARE) < most and error(SHARE) < min(error(0), error(1))
