"""How near the laws of an NVIDIA accelerator come to its kernels, and what blocks of a collective cost them: needs a GPU and torch.

Not collected with the tests:  PYTHONPATH=.:kernels:tests python tests/benchmarks/bench_gpu.py h200 > h200.csv   (a row of the catalog)

CUDA events, warm, random data, the host ahead of the device; the median of five samples.  The second table, of pairs of kernels on two
streams, needs nvcc, and is written to standard error with `a` of T = max(C + a X, X + a C), C and X the times of each alone.
"""

from __future__ import annotations

import csv
import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from compare.score_gpu import report

COLUMNS = ("kernel", "dtype", "m", "n", "k", "batch", "heads", "kv_heads", "us")
SIZES = (1024, 4096, 8192)
TOKENS = 16384  # of all sequences of an attention kernel
THREADS, SHARED_BYTES, BUFFER_BYTES = 512, 80 << 10, 1 << 30

# Blocks that read two buffers and write one, as an all-reduce does; no GEMM fits beside 80 KiB of shared memory.
SOURCE = """
#include <cuda_bf16.h>
__device__ uint4 sum(uint4 x, uint4 y) {
  __nv_bfloat162 *p = reinterpret_cast<__nv_bfloat162 *>(&x), *q = reinterpret_cast<__nv_bfloat162 *>(&y);
  for (int i = 0; i < 4; i++) p[i] = __hadd2(p[i], q[i]);
  return x;
}
__global__ void __launch_bounds__(512, 1) stream(const uint4 *a, const uint4 *b, uint4 *out, size_t n, int passes) {
  const size_t part = n / gridDim.x, start = part * blockIdx.x, end = start + part, step = blockDim.x;
  for (int pass = 0; pass < passes; pass++)
    for (size_t i = start + threadIdx.x; i + step < end; i += 2 * step) {
      uint4 x = __ldcs(a + i), y = __ldcs(a + i + step), u = __ldcs(b + i), v = __ldcs(b + i + step);
      __stcs(out + i, sum(x, u));
      __stcs(out + i + step, sum(y, v));
    }
}
extern "C" int launch(void *on, int blocks, int threads, int shared, const void *a, const void *b, void *out, size_t bytes, int passes) {
  cudaFuncSetAttribute(stream, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  stream<<<blocks, threads, shared, (cudaStream_t)on>>>((const uint4 *)a, (const uint4 *)b, (uint4 *)out, bytes / 16, passes);
  return (int)cudaGetLastError();
}
"""

Kernel = Callable[[], Any]


def measured_us(torch: Any, kernel: Kernel, sample_us: float = 3000.0) -> float:
    """Microseconds of a call."""

    def sample(calls: int) -> float:
        torch.cuda._sleep(min(100_000 * calls, 7_000_000))  # cycles in which the host gets ahead
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(calls):
            kernel()
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last)) * 1e3 / calls

    sample(2)
    calls = max(1, min(200, int(sample_us / sample(2))))
    return median(sample(calls) for _ in range(5))


def gemms(torch: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of bf16 and, where the device has it, fp8 with a scale a tensor."""
    one, rest = torch.ones((), device="cuda"), ("", "", "")
    for m, n, k in product(SIZES, SIZES, SIZES):
        x, w = (torch.randn(rows, k, device="cuda", dtype=torch.bfloat16) for rows in (m, n))
        yield "gemm", "bf16", m, n, k, *rest, measured_us(torch, partial(torch.mm, x, w.t()))
        if torch.cuda.get_device_capability() >= (8, 9):
            left, right = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t()
            narrow = partial(torch._scaled_mm, left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)
            yield "gemm", "fp8", m, n, k, *rest, measured_us(torch, narrow)


def attentions(torch: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of causal attention by both kernels of torch that are flash attention."""
    backends = {"flash_2": torch.nn.attention.SDPBackend.FLASH_ATTENTION, "cudnn": torch.nn.attention.SDPBackend.CUDNN_ATTENTION}
    for name, length, width in product(backends, (2048, 8192, 16384), (64, 128)):
        shape = (TOKENS // length, 32, length, width)
        q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

        def forward(name: str = name, inputs: Any = (q, k, v)) -> Any:
            with torch.nn.attention.sdpa_kernel(backends[name]):
                return torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)

        out = forward()
        row = ("bf16", length, "", width, shape[0], 32, 32)
        yield f"{name}_forward", *row, measured_us(torch, forward)
        wanted = (out, (q, k, v), torch.randn_like(out))
        yield f"{name}_backward", *row, measured_us(torch, lambda wanted=wanted: torch.autograd.grad(*wanted, retain_graph=True))


def copies(torch: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of kernels that only move bytes, larger than any cache."""
    for count in (1 << 27, 1 << 30):
        x, y, z = (torch.randn(count, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        yield "copy", "bf16", count, *[""] * 5, measured_us(torch, lambda x=x, y=y: y.copy_(x))
        yield "add", "bf16", count, *[""] * 5, measured_us(torch, lambda x=x, y=y, z=z: torch.add(x, y, out=z))


def pairs(torch: Any) -> Iterator[str]:
    """A line for each kernel beside blocks that stream half as long, as long and twice as long, with `a`."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "stream.cu"), Path(folder, "stream.so")
        source.write_text(SOURCE, encoding="utf-8")
        subprocess.run(["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "-o", str(library), str(source)], check=True)
        launch = ctypes.CDLL(str(library)).launch
    buffers = [torch.randn(BUFFER_BYTES // 2, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    beside = torch.cuda.Stream()

    def blocks(count: int, passes: int) -> None:
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in buffers]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if launch(stream, count, THREADS, SHARED_BYTES, *pointers, ctypes.c_size_t(BUFFER_BYTES // 16), passes):
            raise SystemExit("the kernel of blocks was not launched")

    def together(kernel: Kernel, calls: int, count: int, passes: int) -> None:
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            blocks(count, passes)
        torch.cuda._sleep(30_000)  # the blocks come first, as a collective that was issued before
        for _ in range(calls):
            kernel()
        torch.cuda.current_stream().wait_stream(beside)

    x, y, z = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for name, kernel in (("gemm_8192", lambda: torch.mm(x, y, out=z)), ("add", lambda: torch.add(*buffers[:2], out=buffers[2]))):
        calls = int(8000 / measured_us(torch, kernel))
        alone = measured_us(torch, lambda kernel=kernel, calls=calls: [kernel() for _ in range(calls)])
        for count in (8, 16, 32):
            one = measured_us(torch, lambda count=count: blocks(count, 1))
            for passes in (max(1, round(ratio * alone / one)) for ratio in (0.5, 1, 2)):
                collective = measured_us(torch, lambda count=count, passes=passes: blocks(count, passes))
                total = measured_us(torch, lambda k=kernel, n=calls, c=count, p=passes: together(k, n, c, p))
                a = (total - max(alone, collective)) / min(alone, collective)
                yield f"{name:10} {count:3d} blocks  C {alone:8.0f} us  X {collective:8.0f} us  together {total:8.0f} us  a {a:.2f}"


def main() -> None:
    """Measure, write the table, then the errors of the laws and what pairs cost."""
    import torch

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = [row for part in (gemms, attentions, copies) for row in part(torch)]
    writer.writerows([*row[:-1], f"{row[-1]:.5g}"] for row in rows)
    texts = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in rows]
    for line in (*report(sys.argv[1], texts), *pairs(torch)):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
