"""A step of a GPT of hidden size 512 in float32, one BLAS thread a process:  python -m pytest -s tests/benchmarks/bench_step.py

Against the matrix products' own rate on this core, against two processes that share the same batch (direct all-reduce, no clocks), and
against torch where it is installed.  Everything is sampled in turns in one run; samples in which a rank waited for a core are dropped.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
from clean import NONE, Seen, counts, joined, least_s, ratio, sample, table
from msgspec.structs import replace

from parsim import units
from parsim.calibrate.gate import Gate
from parsim.calibrate.samples import Samples
from parsim.calibrate.wall import on, sample_steps
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario, from_mapping
from parsim_kernels import launch
from parsim_kernels.transport import Channel

HIDDEN, LAYERS, HEADS, TOKENS, VOCABULARY = 512, 2, 8, 128, 4096
GLOBAL_BATCH, MICRO_BATCH = 8, 4
ROUNDS = int(os.environ.get("PARSIM_ROUNDS", "3"))
SECONDS = 0.3  # of a round, as the generic row predicts its steps, which are dozens of times slower
OF_GEMM, SPEED_UP, OF_TORCH = 0.65, 1.7, 0.65
SHAPES = ((MICRO_BATCH * TOKENS, HIDDEN, 4 * HIDDEN), (MICRO_BATCH * TOKENS, 4 * HIDDEN, HIDDEN), (1024, 1024, 1024))


def scenario() -> Scenario:
    """One process with two micro_batches, or two with one each."""
    model = {"name": "gpt-512", "num_layers": LAYERS, "hidden_size": HIDDEN, "num_heads": HEADS, "source": "of this study"}
    sizes = {"vocab_size": VOCABULARY, "max_positions": TOKENS, "dropout": 0.0}
    found = from_mapping(
        {
            "model": {**model, **sizes},
            "cluster": {"node": {"base": "one-cpu-generic", "name": "cores", "devices_per_node": 2, "source": "of this study"}},
            "batch": {"global_batch": GLOBAL_BATCH, "sequence_length": TOKENS, "dtype": "fp32"},
            "plans": {"dp2": {"micro_batch": MICRO_BATCH}},
        }
    )
    here = on(found, found.cluster.node)
    plans = {"one": Plan(micro_batch=MICRO_BATCH), **here.plans}
    return replace(here, plans=plans, stack=replace(here.stack, collectives={"all_reduce": "direct"}, vocab_multiple=1))


def matmul_flops() -> int:
    """Of a step: three products for each weight and token, and attention's two with whole rows of scores."""
    matrices = LAYERS * 12 * HIDDEN**2 + VOCABULARY * HIDDEN
    scores = LAYERS * 2 * TOKENS * HIDDEN
    return 3 * 2 * (matrices + scores) * GLOBAL_BATCH * TOKENS


def products(channel: Channel) -> list[Seen]:
    """Seconds of each of SHAPES; a target for `launch`."""
    gate, found = Gate(), []
    for m, k, n in SHAPES:
        a, b, c = (np.ones(shape, "float32") for shape in ((m, k), (k, n), (m, n)))
        found.append([sample(gate, lambda a=a, b=b, c=c: np.matmul(a, b, out=c)) for _ in range(40)])
    gate.close()
    return found


def torch_steps(channel: Channel, num_steps: int) -> Seen:
    """The same step by torch's own modules, fused attention and AdamW; a target for `launch`."""
    import torch

    torch.set_num_threads(1)
    nn = torch.nn
    layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, 4 * HIDDEN, 0.0, "gelu", batch_first=True, norm_first=True)
    word, position, layers = (
        nn.Embedding(VOCABULARY, HIDDEN),
        nn.Embedding(TOKENS, HIDDEN),
        nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
    )
    whole = nn.ModuleList([word, position, layers, nn.LayerNorm(HIDDEN)])
    optimizer, mask = torch.optim.AdamW(whole.parameters()), nn.Transformer.generate_square_subsequent_mask(TOKENS)
    tokens, labels = (torch.randint(VOCABULARY, (GLOBAL_BATCH, TOKENS)) for _ in range(2))

    def step() -> None:
        optimizer.zero_grad()
        for rows in range(0, GLOBAL_BATCH, MICRO_BATCH):
            x: Any = word(tokens[rows : rows + MICRO_BATCH]) + position.weight
            logits = whole[3](layers(x, mask, is_causal=True)) @ word.weight.T
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[rows : rows + MICRO_BATCH].flatten())
            (loss * MICRO_BATCH / GLOBAL_BATCH).backward()
        nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()

    step()
    gate = Gate()
    found = [sample(gate, step) for _ in range(num_steps)]
    gate.close()
    return found


def test_a_step_of_hidden_size_512() -> None:
    here, has_torch = scenario(), importlib.util.find_spec("torch") is not None
    steps = {name: Samples() for name in ("one", "dp2", *(["torch"] if has_torch else []))}
    gemms = [Samples() for _ in SHAPES]
    for _ in range(ROUNDS):
        for total, seen in zip(gemms, launch(products, 1, "shared_memory")[0], strict=True):
            total.join(joined([seen]))
        for name in ("one", "dp2"):
            steps[name].join(sample_steps(here, name, SECONDS))
        if has_torch:
            steps["torch"].join(joined(launch(torch_steps, 1, "shared_memory", (10,))))
    rates = [2 * m * k * n / s for (m, k, n), each in zip(SHAPES, gemms, strict=True) if (s := least_s(each)) is not None]
    least = {name: least_s(each) for name, each in steps.items()}
    gemm_s = matmul_flops() / max(rates) if rates else None
    shown = [[name, NONE if least[name] is None else units.format(least[name], "s"), counts(each)] for name, each in steps.items()]  # type: ignore[arg-type]
    print(f"\nmatrix products: {units.format(max(rates), 'FLOP/s') if rates else NONE}; a step has {matmul_flops():.3g} FLOPs of them")
    print(table(["step", "least", "clean"], shown))
    goals = (
        ("step's matrix FLOPs at its rate, of the GEMM rate", ratio(gemm_s, least["one"]), OF_GEMM, 1),
        ("dp2 over one process", ratio(least["one"], least["dp2"]), SPEED_UP, 1),
        ("step over torch's", ratio(least["one"], least.get("torch")), OF_TORCH, -1),
    )
    print(f"matrix products alone over torch's step: {ratio(gemm_s, least.get('torch'))}; no step at this GEMM rate can be below it")
    for what, found, goal, sign in goals:
        said = "SKIP" if found == "SKIP" else "met" if sign * float(found) >= sign * goal else "not met"
        print(f"{what}: {found}, goal {'>=' if sign > 0 else '<='} {goal}: {said}")
