"""The exactness contract on the ops that GPT lacks: RMSNorm, rotary positions, gated and squared-ReLU MLPs, layers without biases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parsim.parallel.plan import Plan, Stack
from parsim.verify import verify_plan
from support import FEATURES, GPT, STACKS, feature_sets, scenario

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
MODELS = {
    "llama": LLAMA,
    "nemotron": replace(LLAMA, activation="squared_relu", norm="layer_norm"),
    "qwen": replace(LLAMA, qkv_bias=True, tied_embedding=True),
    "gpt-gated": replace(GPT, activation="swiglu", positions="rotary", norm="rms_norm"),
    "llama-dropout": replace(LLAMA, dropout=0.1),
    "gpt-undropped": replace(GPT, dropout=0.0),
}
PLANS = [names for names in ((), *feature_sets(2)) if not {"gqa", "untied", "uneven", "master"} & set(names)]
CASES = [(model, names) for model in ("llama", "nemotron") for names in PLANS]
CASES += [(model, names) for model in MODELS for names in (("sp", "full"), ("tp", "pp"), ("dp", "selective"))]


def wrong(model: str, names: tuple[str, ...], stack: Stack) -> list[object]:
    fields: dict[str, object] = {}
    for name in names:
        fields.update(FEATURES[name])
    if "vpp" in names:
        fields.update(FEATURES["vpp"])
    toy = scenario(model=MODELS[model], stack=stack)
    return [check for check in verify_plan(toy, Plan(**fields), model) if not check.ok]  # type: ignore[arg-type]


@pytest.mark.parametrize("index", range(len(CASES)), ids=["-".join((model, *names)) for model, names in CASES])
def test_prediction_and_execution_agree_on_every_kind_of_model(index: int) -> None:
    model, names = CASES[index]
    assert not wrong(model, names, STACKS[index % len(STACKS)])  # each stack meets a quarter of the cases


@pytest.mark.parametrize("stack", STACKS, ids=["plain", "overlapped", "flash", "unfused"])
@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_agrees_on_every_stack_with_sequence_parallelism(model: str, stack: Stack) -> None:
    assert not wrong(model, ("sp",), stack)
