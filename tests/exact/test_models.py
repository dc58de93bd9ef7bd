"""The exactness contract on what GPT lacks: RMSNorm, rotary positions, gated and squared-ReLU MLPs, layers without biases, encoders.

GPT meets every pair of features (test_contract.py), Llama and an encoder every feature, others three pairs; the rest is slow.
The contract compares a plan with one rank; that one rank's gradients are those of its loss is shown by central differences.
"""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.executor.run import execute
from parsim.executor.values import Values
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.verify import verify_plan
from parsim_kernels.signature import Array
from support import FEATURES, GPT, STACKS, enough, feature_sets, scenario, tiered

LLAMA = replace(
    GPT,
    name="toy llama",
    num_kv_heads=2,
    activation="swiglu",
    tied_embedding=False,
    dropout=0.0,
    norm="rms_norm",
    positions="rotary",
    bias=False,
    qkv_bias=False,
)
BERT = replace(GPT, name="toy bert", causal=False, norm_last=True, num_token_types=2, head="masked_token")
MODELS = {
    "llama": LLAMA,
    "nemotron": replace(LLAMA, activation="squared_relu", norm="layer_norm"),
    "qwen": replace(LLAMA, qkv_bias=True, tied_embedding=True),
    "gpt-gated": replace(GPT, activation="swiglu", positions="rotary", norm="rms_norm"),
    "llama-dropout": replace(LLAMA, dropout=0.1),
    "gpt-undropped": replace(GPT, dropout=0.0),
    "bert": BERT,
    "bert-norm-first": replace(BERT, norm_last=False),  # as Megatron-LM trains it: Shoeybi et al. 2019, figure 7
    "bert-text": replace(BERT, head="text", tied_embedding=False, num_labels=3),
    "bert-token": replace(BERT, head="token", tied_embedding=False, num_labels=3),
    "bert-token-norm-first": replace(BERT, head="token", tied_embedding=False, norm_last=False, dropout=0.0),
    "bert-bare": replace(BERT, dropout=0.0, tied_embedding=False, num_token_types=0, positions="rotary", bias=False, qkv_bias=False),
}
PLANS = [names for names in ((), *feature_sets(2)) if not {"gqa", "untied", "uneven", "master"} & set(names)]
PAIRS = (("sp", "full"), ("tp", "pp"), ("dp", "selective"))
CASES = [(model, names) for model in ("llama", "bert", "nemotron") for names in PLANS]
CASES += [(model, names) for model in MODELS for names in PAIRS]
# Each feature by itself on one of both, each model with one pair; what is left of these is slow.
ALONE = {i for i, (model, names) in enumerate(CASES) if len(names) < 2 and model == ("llama", "bert")[PLANS.index(names) % 2]}
NUMBERED = {name: number for number, name in enumerate(MODELS)}
FAST = {*ALONE, *(i for i, (model, names) in enumerate(CASES) if names in PAIRS and (NUMBERED[model] + PAIRS.index(names)) % 3 == 0)}


def wrong(model: str, names: tuple[str, ...], stack: Stack) -> list[object]:
    fields: dict[str, object] = {}
    for name in names:
        fields.update(FEATURES[name])
    if "vpp" in names:
        fields.update(FEATURES["vpp"])
    plan = Plan(**fields)  # type: ignore[arg-type]
    toy = scenario(model=replace(MODELS[model], num_layers=max(2, plan.num_stages)), batch=enough(plan), stack=stack)
    return [check for check in verify_plan(toy, plan, model) if not check.ok]


@pytest.mark.parametrize("index", [tiered(i, "-".join((model, *names)), slow=i not in FAST) for i, (model, names) in enumerate(CASES)])
def test_prediction_and_execution_agree_on_every_kind_of_model(index: int) -> None:
    model, names = CASES[index]
    assert not wrong(model, names, STACKS[index % len(STACKS)])  # each stack meets a quarter of the cases


EVERY = [
    tiered((model, stack), f"{model}-{kind}", slow=(i + j) % 2 == 1)  # each model meets two stacks; the rest is slow
    for i, model in enumerate(MODELS)
    for j, (kind, stack) in enumerate(zip(("plain", "overlapped", "flash", "unfused"), STACKS, strict=True))
]


@pytest.mark.parametrize("case", EVERY)
def test_every_kind_of_model_agrees_on_every_stack_with_sequence_parallelism(case: tuple[str, Stack]) -> None:
    assert not wrong(case[0], ("sp",), case[1])


KINDS = dict(zip(("overlapped", "flash", "unfused"), STACKS[1:], strict=True))
ONCE = {("bert-norm-first", "flash"), ("bert-text", "unfused"), ("bert-token", "overlapped")}  # each head and stack once; the rest is slow
ENCODERS = [(model, kind) for model in ("bert", "bert-norm-first", "bert-text", "bert-token") for kind in KINDS]


@pytest.mark.parametrize("case", [tiered(case, "-".join(case), slow=case not in ONCE) for case in ENCODERS])
def test_gradients_of_an_encoder_are_those_of_its_loss(case: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    toy = scenario(model=replace(MODELS[case[0]], num_layers=1), stack=KINDS[case[1]], batch=Batch(2, 8, "bf16"))
    plan, drawn, step = Plan(micro_batch=2), Values.weight, 1e-5
    moved: dict[str, tuple[tuple[int, ...], float]] = {}  # weight -> which element is moved by what

    def weight(self: Values, instance: str, name: str, initial: str, shape: list[int]) -> Array:
        array = drawn(self, instance, name, initial, shape).copy()
        for index, by in filter(None, [moved.get(f"{instance}/{name}")]):
            array[index] += by
        return array

    gradients = execute(toy, plan).gradients[0]
    monkeypatch.setattr(Values, "weight", weight)
    for name, gradient in gradients.items():
        index = tuple(int(i) for i in np.unravel_index(np.abs(gradient).argmax(), gradient.shape))
        losses = []
        for by in (step, -step):
            moved[name] = (index, by)
            losses.append(execute(toy, plan).loss)
        del moved[name]
        # The keys' bias moves all scores of a query alike, so its gradient is rounding: 1e-9 is that of the differences.
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradient[index], rel=1e-6, abs=1e-9), name
