"""How fast the kernels are: a training step against the GEMM rate of this machine, and blocked kernels against plain numpy.

Not collected with the tests:  OPENBLAS_NUM_THREADS=1 python -m pytest -s tests/benchmarks/bench_ops.py
All ratios are of one run.  Times are CPU seconds of the one thread, so that waiting for a busy core does not count.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parsim_kernels import KERNELS, Machine
from parsim_kernels.pool import Pool

Array = npt.NDArray[Any]
DTYPES = ("float32", "float64")
BATCH, SEQUENCE, HIDDEN, HEADS, LAYERS, VOCABULARY = 8, 256, 512, 8, 2, 4096
HEAD_DIM = HIDDEN // HEADS
ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 1}
WEIGHTS = {
    "gamma1": (HIDDEN,), "beta1": (HIDDEN,), "gamma2": (HIDDEN,), "beta2": (HIDDEN,),
    "qw": (HIDDEN, HEADS, 1, HEAD_DIM), "kw": (HIDDEN, HEADS, HEAD_DIM), "vw": (HIDDEN, HEADS, HEAD_DIM),
    "ow": (HEADS, 1, HEAD_DIM, HIDDEN), "uw": (HIDDEN, 4 * HIDDEN), "dw": (4 * HIDDEN, HIDDEN),
    "qb": (HEADS, 1, HEAD_DIM), "kb": (HEADS, HEAD_DIM), "vb": (HEADS, HEAD_DIM), "ob": (HIDDEN,), "ub": (4 * HIDDEN,), "db": (HIDDEN,),
}  # fmt: skip

# A pre-norm GPT layer, forward: kernel, inputs, output, expression or attributes; "!" runs in place.
FORWARD = """
layer_norm x gamma1 beta1 > n1
einsum n1 qw > q | B S D, D K R C -> B S K R C
einsum n1 kw > k | B S D, D K C -> B S K C
einsum n1 vw > v | B S D, D K C -> B S K C
bias! q qb > q | B S K R C, K R C -> B S K R C
bias! k kb > k | B S K C, K C -> B S K C
bias! v vb > v | B S K C, K C -> B S K C
einsum q k > scores | B S K R C, B Z K C -> B K R S Z
causal_softmax scores > p
free scores
dropout p mask_p > pd
einsum pd v > mixed | B K R S Z, B Z K C -> B S K R C
einsum mixed ow > o | B S K R C, K R C D -> B S D
bias! o ob > o | B T D, D -> B T D
dropout! o mask_o > o
add! o x > o
layer_norm o gamma2 beta2 > n2
einsum n2 uw > u | B S D, D F -> B S F
bias! u ub > u | B S F, F -> B S F
gelu u > a
einsum a dw > y | B S F, F D -> B S D
bias! y db > y | B T D, D -> B T D
dropout! y mask_y > y
add! y o > y
"""
# Backward, from the gradient dy of the layer's output; "+" adds to a gradient.
BACKWARD = """
dropout dy mask_y > dyd
sum_to+ dyd > d_db | B T D -> D
einsum dyd dw > da | B S D, F D -> B S F
einsum+ a dyd > d_dw | B S F, B S D -> F D
free a dyd y
gelu_grad u da > du
free u da
sum_to+ du > d_ub | B S F -> F
einsum du uw > dn2 | B S F, D F -> B S D
einsum+ n2 du > d_uw | B S D, B S F -> D F
free n2 du
layer_norm_grad_x o gamma2 dn2 > do
add! dy do > dy
free do
layer_norm_grad_gamma+ o dn2 > d_gamma2
sum_to+ dn2 > d_beta2 | B T D -> D
free o dn2
dropout dy mask_o > dod
sum_to+ dod > d_ob | B T D -> D
einsum dod ow > dm | B S D, K R C D -> B S K R C
einsum+ mixed dod > d_ow | B S K R C, B S D -> K R C D
free mixed dod
einsum dm v > dpd | B S K R C, B Z K C -> B K R S Z
einsum pd dm > dv | B K R S Z, B S K R C -> B Z K C
free v pd dm
dropout dpd mask_p > dp
causal_softmax_grad p dp > ds
free dpd p dp
einsum ds k > dq | B K R S Z, B Z K C -> B S K R C
einsum ds q > dk | B K R S Z, B S K R C -> B Z K C
free k q ds
sum_to+ dv > d_vb | B S K C -> K C
sum_to+ dk > d_kb | B S K C -> K C
sum_to+ dq > d_qb | B S K R C -> K R C
einsum dv vw > dn1 | B S K C, D K C -> B S D
einsum+ dk kw > dn1 | B S K C, D K C -> B S D
einsum+ dq qw > dn1 | B S K R C, D K R C -> B S D
einsum+ n1 dv > d_vw | B S D, B S K C -> D K C
einsum+ n1 dk > d_kw | B S D, B S K C -> D K C
einsum+ n1 dq > d_qw | B S D, B S K R C -> D K R C
free dv dk dq n1
layer_norm_grad_x x gamma1 dn1 > dx
add! dy dx > dy
free dx
layer_norm_grad_gamma+ x dn1 > d_gamma1
sum_to+ dn1 > d_beta1 | B T D -> D
free dn1
"""


class Step:
    """A GPT of a few layers with tied embedding, on one rank of a machine; CPU seconds by kernel."""

    def __init__(self, dtype: str) -> None:
        self.machine, self.dtype, self.rng = Machine(1), np.dtype(dtype), np.random.default_rng(0)
        self.cpu_s: Counter[str] = Counter()
        self.gemm_flops = 0
        tokens = self.rng.integers(0, VOCABULARY, (BATCH, SEQUENCE))
        self.machine.hold(0, "tokens", tokens, 8)
        self.machine.hold(0, "labels", np.roll(tokens, -1, axis=1), 8)
        self._weight("word", (VOCABULARY, HIDDEN))
        for layer in range(LAYERS):
            for name, shape in WEIGHTS.items():
                self._weight(f"{name}.{layer}", shape)
            for name, shape in (("p", (BATCH, HEADS, 1, SEQUENCE, SEQUENCE)), *((n, (BATCH, SEQUENCE, HIDDEN)) for n in "oy")):
                mask = (self.rng.random(shape) >= 0.1).astype(self.dtype)
                self.machine.hold(0, f"mask_{name}.{layer}", mask, 1)

    def run(self) -> float:
        """One step; its CPU seconds."""
        self.cpu_s.clear()
        self.gemm_flops = 0
        start = time.thread_time()
        self.op("lookup", ["tokens", "word"], "x.0", offset=0)
        for layer in range(LAYERS):
            self._lines(FORWARD, layer, {"y": f"x.{layer + 1}"})
        self._loss(f"x.{LAYERS}")
        for layer in reversed(range(LAYERS)):
            self._lines(BACKWARD, layer, {"y": f"x.{layer + 1}", "dy": "dy"})
        self.op("lookup_grad", ["tokens", "dy", "word"], "d_word", "+", offset=0)
        self.machine.free(0, "x.0", "dy")
        for name in ("word", *(f"{name}.{layer}" for layer in range(LAYERS) for name in WEIGHTS)):
            self._update(name)
        return time.thread_time() - start

    def op(self, kernel: str, inputs: list[str], output: str, how: str = "", **attributes: object) -> None:
        """One call of the machine; how: in place "!" or accumulating "+"."""
        start, flops = time.thread_time(), self.machine.ledgers[0].flops
        self.machine.compute(0, kernel, inputs, [output], [4], attributes, accumulate=how == "+", in_place=how == "!")
        is_gemm = kernel == "einsum"
        self.gemm_flops += (self.machine.ledgers[0].flops - flops) * is_gemm
        self.cpu_s[f"{kernel} {attributes['expr']}" if is_gemm else kernel] += time.thread_time() - start

    def _lines(self, lines: str, layer: int, carried: dict[str, str]) -> None:
        for line in lines.strip().splitlines():
            call, _, expr = line.partition(" | ")
            (kernel, *inputs), (output, *_) = call.partition(" > ")[0].split(), [*call.partition(" > ")[2].split(), ""]
            names = [carried.get(name, f"{name}.{layer}") for name in inputs]
            if kernel == "free":
                self.machine.free(0, *names)
                continue
            attributes = {"p": 0.1, "scale": HEAD_DIM**-0.5, **({"expr": expr} if expr else {})}
            self.op(
                kernel.rstrip("!+"),
                names,
                carried.get(output, f"{output}.{layer}"),
                kernel.lstrip("abcdefghijklmnopqrstuvwxyz_"),
                **attributes,
            )

    def _loss(self, x: str) -> None:
        self.op("einsum", [x, "word"], "logits", expr="B S D, V D -> B S V")
        self.op("row_max", ["logits"], "max")
        self.op("shifted_exp", ["logits", "max"], "logits", "!")
        self.op("row_sum", ["logits"], "sum")
        self.op("normalize", ["logits", "sum"], "logits", "!")
        self.op("cross_entropy_grad", ["logits", "labels"], "d_logits", offset=0, scale=1 / (BATCH * SEQUENCE))
        self.op("einsum", ["d_logits", "word"], "dy", expr="B S V, V D -> B S D")
        self.op("einsum", ["d_logits", x], "d_word", "+", expr="B S V, B S D -> V D")
        self.machine.free(0, "logits", "d_logits", "max", "sum")

    def _weight(self, name: str, shape: tuple[int, ...]) -> None:
        self.machine.hold(0, name, self.rng.normal(0, 0.02, shape).astype(self.dtype), 4)
        for state in ("d_{}", "{}/m", "{}/v"):
            self.machine.hold(0, state.format(name), np.zeros(shape, self.dtype), 4)

    def _update(self, name: str) -> None:
        start = time.thread_time()
        states = [name, f"{name}/m", f"{name}/v"]
        self.machine.compute(0, "adam", [*states, f"d_{name}"], states, [], ADAM, in_place=True)
        self.machine.get(0, f"d_{name}").fill(0)
        self.cpu_s["adam"] += time.thread_time() - start


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The least CPU seconds of a few runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def gemm_flops_per_s(dtype: str) -> float:
    """The best rate of a matrix product of the step's largest shapes."""
    rates = []
    for m, k, n in ((BATCH * SEQUENCE, HIDDEN, 4 * HIDDEN), (BATCH * SEQUENCE, 4 * HIDDEN, HIDDEN), (1024, 1024, 1024)):
        a, b, c = (np.ones(shape, dtype) for shape in ((m, k), (k, n), (m, n)))
        rates.append(2 * m * k * n / seconds(lambda a=a, b=b, c=c: np.matmul(a, b, out=c)))
    return max(rates)


def blas_kernel() -> str:
    """What OpenBLAS runs on this core, where numpy brings OpenBLAS along."""
    for library in Path(np.__file__).parent.parent.glob("numpy.libs/libscipy_openblas*"):
        name = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return str(name().decode())
    return "unknown"


@pytest.fixture(scope="module", autouse=True)
def _header() -> Iterator[None]:
    print(f"\nBLAS kernel {blas_kernel()}, OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS', 'unset')}")
    yield


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_training_step_runs_near_the_gemm_rate(dtype: str) -> None:
    step = Step(dtype)
    step.run()
    obtained_bytes = step.machine.pool.allocated_bytes
    runs = []
    for _ in range(3):
        rate = gemm_flops_per_s(dtype)
        step_s = step.run()
        runs.append((step.gemm_flops / step_s / rate, step_s, rate, dict(step.cpu_s)))
    assert step.machine.pool.allocated_bytes == obtained_bytes
    share, step_s, rate, by_kernel = max(runs, key=lambda run: run[0])
    print(f"{dtype}: step {step_s:.3f} s, its GEMM FLOPs at {share:.0%} of the GEMM rate {rate:.3g} FLOP/s", end="; ")
    print("all runs:", *(f"{run[0]:.0%}" for run in runs))
    for kernel, cpu_s in sorted(by_kernel.items(), key=lambda item: -item[1]):
        print(f"  {cpu_s / step_s:6.1%} {cpu_s * 1000:8.2f} ms  {kernel}")


def _plain_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def _plain_gelu_grad(x: Array, d_y: Array) -> Array:
    t = np.tanh(0.7978845608 * (x + 0.044715 * x * x * x))
    return d_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 3 * 0.044715 * x * x))


def _plain_layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def _plain_causal_softmax(x: Array) -> Array:
    e = np.where(np.tri(x.shape[-1], dtype=bool), x * 0.125, -np.inf)
    e = np.exp(e - e.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _plain_softmax_grad(y: Array, d_y: Array) -> Array:
    return y * (d_y - (y * d_y).sum(-1, keepdims=True))


def _plain_adam(w: Array, m: Array, v: Array, g: Array) -> tuple[Array, ...]:
    m = 0.9 * m + 0.1 * g
    v = 0.95 * v + 0.05 * g * g
    return w - 1e-3 * (m / 0.1 / (np.sqrt(v / 0.05) + 1e-8) + 0.1 * w), m, v


def _plain_scores(q: Array, k: Array) -> Array:
    return np.ascontiguousarray(np.einsum("bskrc,bzkc->bkrsz", q, k, optimize=True))


TOKENS, WIDE, SCORES = (BATCH, SEQUENCE, HIDDEN), (BATCH, SEQUENCE, 4 * HIDDEN), (BATCH, HEADS, 1, SEQUENCE, SEQUENCE)
QUERIES, KEYS = (BATCH, SEQUENCE, HEADS, 1, HEAD_DIM), (BATCH, SEQUENCE, HEADS, HEAD_DIM)
PLAIN: list[tuple[str, Callable[..., object], tuple[tuple[int, ...], ...], dict[str, object]]] = [
    ("gelu", _plain_gelu, (WIDE,), {}),
    ("gelu_grad", _plain_gelu_grad, (WIDE, WIDE), {}),
    ("dropout", lambda x, mask: x * mask / 0.9, (TOKENS, TOKENS), {"p": 0.1}),
    ("layer_norm", _plain_layer_norm, (TOKENS, TOKENS[2:], TOKENS[2:]), {}),
    ("causal_softmax", _plain_causal_softmax, (SCORES,), {"scale": 0.125}),
    ("softmax_grad", _plain_softmax_grad, (SCORES, SCORES), {}),
    ("adam", _plain_adam, ((VOCABULARY, HIDDEN),) * 4, dict(ADAM)),
    ("einsum", _plain_scores, (QUERIES, KEYS), {"expr": "B S K R C, B Z K C -> B K R S Z"}),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocked_kernels_against_plain_numpy(dtype: str) -> None:
    rng, pool = np.random.default_rng(0), Pool()
    print(f"{dtype}: plain / ours / ratio")
    for name, plain, shapes, attributes in PLAIN:
        arrays = [rng.random(shape).astype(dtype) for shape in shapes]
        plain_s = seconds(lambda plain=plain, arrays=arrays: plain(*arrays))
        ours_s = seconds(lambda name=name, arrays=arrays, given=attributes: KERNELS[name](arrays, given, pool.take))
        print(f"  {name:16} {plain_s * 1000:8.2f} ms {ours_s * 1000:8.2f} ms {plain_s / ours_s:5.1f} x")
