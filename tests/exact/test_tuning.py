"""What is not trained has no gradient, no state and no communication of either, and nobody computes gradients for what lies below."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from msgspec.structs import replace

import parsim
from parsim.cost import buckets
from parsim.errors import ParsimError, ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model import adapters
from parsim.model.adapters import ALL, each_target
from parsim.model.parameters import model_flops_per_token, num_parameters, num_trained_parameters
from parsim.model.transformer import TransformerSpec
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.plan import Batch, Plan
from parsim.scenario.rows import read
from parsim.schedules.phase import Phase
from parsim.step import lower
from parsim.step.step import Segment
from parsim.step.structure import Structure
from parsim.verify.contract import verify_plan
from support import GPT, MOE, STACKS, enough, feature_sets, forget_steps, scenario, tiered, with_features

LOWER = Tuning(("embedding", "layers 0..0", "mlp"))  # of GPT's four layers; its output embedding is the frozen one
LLAMA = replace(GPT, activation="swiglu", norm="rms_norm", positions="rotary", bias=False, qkv_bias=False, num_kv_heads=2, dropout=0.0)
ENDS = Tuning(("embedding", "mlp"))  # in its place where the first stage has a layer, which has to train something
UPPER = Tuning(("head", "norms", "attention"))
FEATURES = [
    tiered((names, tuning), f"{'+'.join(names)}-{number}", slow=len(names) > 1 or (place + number) % 5 > 0)
    for place, names in enumerate(feature_sets(2))
    for number, tuning in enumerate((ENDS if "vpp" in names else LOWER, UPPER))
]
_OF_ALL = each_target([ALL])
ADAPTED = {
    "by projection": Tuning((BASE,), 4, 8.0, 0.1, _OF_ALL),
    "fused": Tuning((BASE,), 4, 2.0, 0.0, ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")),
}
PACKED = replace(ADAPTED["by projection"], quantization="nf4", double_quantization=True)
ADAPTERS = [
    tiered((names, tuning), f"{'+'.join(names)}-{tuning}", slow=len(names) > 1 or (place + number) % 7 > 0)
    for place, names in enumerate(feature_sets(2))
    for number, tuning in enumerate(ADAPTED)
]
OTHERS: dict[str, tuple[object, Tuning, Plan]] = {
    "the head alone": (replace(GPT, tied_embedding=False), Tuning(("embedding", "layers")), Plan(data_parallel=2, zero_stage=3)),
    "the head alone, recomputed": (replace(GPT, tied_embedding=False), Tuning(("embedding", "layers")), Plan(recompute="full")),
    "a stage that is frozen": (replace(GPT, tied_embedding=False), Tuning(("head", "layers 2..3")), Plan(pipeline_parallel=2)),
    "parameters that stay": (GPT, LOWER, Plan(data_parallel=2, zero_stage=3, reshard_after_forward=False)),
    "a gated MLP": (LLAMA, ADAPTED["fused"], Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=2, zero_stage=1)),
    "in 4 bits": (LLAMA, PACKED, Plan(data_parallel=2, zero_stage=2, tensor_parallel=2, recompute="full")),
    "in 4 bits, split backwards": (LLAMA, PACKED, Plan(pipeline_parallel=2, schedule="zero_bubble_h1")),
    "experts": (replace(MOE, tied_embedding=False), Tuning(("mlp", "embedding")), Plan(data_parallel=2, expert_parallel=2, zero_stage=2)),
}


def failed(toy: parsim.Scenario, plan: Plan) -> list[str]:
    return [check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok]


@pytest.mark.parametrize("case", FEATURES)
def test_frozen_weights_keep_the_contract_beside_every_feature(case: tuple[tuple[str, ...], Tuning]) -> None:
    toy, plan = with_features(case[0], STACKS[1])
    assert not failed(replace(toy, model=replace(toy.model, tuning=case[1])), plan)


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_do(case: tuple[tuple[str, ...], str]) -> None:
    toy, plan = with_features(case[0], STACKS[2])
    assert not failed(replace(toy, model=replace(toy.model, tuning=ADAPTED[case[1]])), plan)


def test_a_frozen_base_in_8_bits_alone_lasts_in_one_layout_and_is_quantised_in_one() -> None:
    stack = replace(STACKS[0], narrow_parameters=("fp8_delayed",))
    toy = scenario(model=replace(LLAMA, tuning=ADAPTED["fused"]), stack=stack, batch=Batch(8, 8, "fp8_delayed"))
    plan = Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=2, zero_stage=1)
    assert not failed(toy, plan)
    layer = lower.lower(Structure.of(toy.model, toy.batch, Plan(), toy.stack)).segments["layer"]
    kept = {operand.name for operand in layer.kept[Phase.F]}
    assert not [name for name in kept if name.endswith(("@row", "@col"))]  # no gradient of a weight reads them
    packed = 4 * (2 * 12 * 16 + 2 * 12 * 8 + 3 * 12 * 16)  # of 4 layers: q and out, k and v, three of the MLP
    held = estimate(toy, Plan()).memory_bytes[0]["parameters"]
    assert held == packed + 2 * (num_parameters(toy.model) - packed + 4 * 12)  # a byte each; the vocabulary padded to 64


@pytest.mark.parametrize("case", OTHERS)
def test_frozen_ends_stages_and_experts_do(case: str) -> None:
    model, tuning, plan = OTHERS[case]
    assert not failed(scenario(model=replace(model, tuning=tuning), batch=enough(plan)), plan)  # type: ignore[type-var]


def test_what_lies_below_all_that_is_trained_has_no_backward_and_keeps_nothing() -> None:
    toy = scenario(model=replace(GPT, tuning=LOWER))
    step = lower.lower(Structure.of(toy.model, toy.batch, Plan(), toy.stack))
    assert [*step.segments] == ["embedding", "bottom_frozen_layer", "bottom_layer", "layer", "head"]
    for name in ("embedding", "bottom_frozen_layer"):
        segment = step.segments[name]
        assert not (segment.phases[Phase.B] or segment.kept[Phase.F] or segment.trained_weights)
        assert segment.entering[Phase.B] is segment.leaving[Phase.B] is None
    assert step.segments["bottom_layer"].leaving[Phase.B] is None  # nobody asks for the gradient of what it takes
    kept = {name: {operand.name for operand in step.segments[name].kept[Phase.F]} for name in ("layer", "bottom_layer")}
    assert not kept["layer"] & {"norm2", "active"}  # inputs of frozen matrices
    assert {"norm1"} <= kept["layer"]  # those of trained ones
    assert "x" not in kept["bottom_layer"] or "norm1.gamma" in {weight.name for weight in step.segments["bottom_layer"].trained_weights}


def test_states_gradients_and_sums_are_of_trained_weights_alone() -> None:
    whole = scenario(model=replace(GPT, tied_embedding=False, vocab_size=64))
    half = replace(whole, model=replace(whole.model, tuning=Tuning(("attention", "mlp", "norms"))))
    trained = num_trained_parameters(half.model)
    assert trained == 64 * 12 * 2 + 8 * 12  # three tables: words, positions and output; norms are frozen wherever they are
    plan = Plan(data_parallel=2)
    before, after = estimate(whole, plan), estimate(half, plan)
    assert after.memory_bytes[0]["optimizer"] == 12 * trained and after.memory_bytes[0]["gradients"] == 4 * trained
    assert after.memory_bytes[0]["parameters"] == before.memory_bytes[0]["parameters"] == 2 * num_parameters(whole.model)
    assert after.sent_bytes[0]["dp"] == 4 * trained  # a ring of two sends its gradients once in float32


def test_a_frozen_weight_costs_two_flops_less_and_two_more_where_nothing_below_is_trained() -> None:
    whole = replace(GPT, tied_embedding=False)
    table, norm, frozen = whole.vocab_size * 12, 2 * 12, replace(whole, tuning=Tuning(("embedding", "layers")))
    everything, attention = model_flops_per_token(whole, 8)[0], whole.attention_flops_per_token(8, 8)[0]
    layers = (everything - attention - 6 * (table + norm)) // 6
    assert model_flops_per_token(frozen, 8)[0] == 6 * table + 4 * norm + 2 * layers + attention // 3  # of what enters the norm none


def test_attention_of_a_frozen_bottom_costs_its_own_window_forward_alone() -> None:
    """Of two layers the first sees 2 of 8 tokens: 36 pairs less than the 64 that are counted, of 2 FLOPs in scores and mix an element."""
    model = replace(GPT, num_layers=2, sliding_window=2, full_attention_every=2, tuning=Tuning(("embedding", "layers 0..0")))
    assert model.attention_flops_per_token(8, 8)[0] == 2 * 2 * GPT.num_heads * GPT.head_dim * (1 * (64 - 36) + 3 * 64) // 8


def test_adapters_of_llama_2_70b_have_the_parameters_that_their_widths_give() -> None:
    model = replace(read("models", "llama2-70b"), tuning=Tuning((BASE,), 16, 32.0, 0.1, ("linear_qkv", "linear_proj")))
    of_qkv, of_proj = 16 * (8192 + (64 + 2 * 8) * 128), 16 * (8192 + 8192)  # one A for queries, keys and values
    assert num_trained_parameters(model) == 80 * (of_qkv + of_proj)
    by_itself = replace(model, tuning=replace(model.tuning, lora_targets=("q_proj", "k_proj", "v_proj", "o_proj")))
    assert num_trained_parameters(by_itself) == num_trained_parameters(model) + 80 * 2 * 16 * 8192


@pytest.mark.parametrize(("double", "bits"), [(False, 4.5), (True, 4.127)])  # Dettmers et al. 2023 (arXiv:2305.14314), section 3
def test_linear_layers_in_4_bits_weigh_what_their_paper_says(double: bool, bits: float) -> None:
    model = replace(read("models", "llama2-7b"), tuning=replace(PACKED, double_quantization=double, lora_rank=16))
    toy = scenario(model=model, batch=Batch(1, 64, "bf16_pure"))
    packed, norms, tables = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 65 * 4096, 2 * 32000 * 4096
    expected = packed * bits / 8 + 2 * (norms + tables + num_trained_parameters(model))
    assert estimate(toy, Plan()).memory_bytes[0]["parameters"] == pytest.approx(expected, rel=1e-4)  # of 0.127 more digits


def test_matrices_in_4_bits_become_wide_before_each_use_and_not_for_longer() -> None:
    toy = scenario(model=replace(LLAMA, tuning=PACKED))
    layer = lower.lower(Structure.of(toy.model, toy.batch, Plan(), toy.stack)).segments["layer"]
    for phase in (Phase.F, Phase.B):
        made = [task.name for task in layer.phases[phase] if task.name.endswith(".dequantise")]
        assert len(made) == len(set(made)) == 7
    assert not [operand.name for operand in layer.kept[Phase.F] if "@wide" in operand.name]


def test_adapters_send_what_their_layers_are_cut_by() -> None:
    plan, base = Plan(tensor_parallel=2, sequence_parallel=True, micro_batch=8), Tuning((BASE,), 4, 4.0, 0.0, ("linear_qkv",))
    sent = {}
    for name, targets in {"qkv": ("linear_qkv",), "proj": ("linear_proj",), "both": ("linear_qkv", "linear_proj")}.items():
        toy = scenario(model=replace(LLAMA, num_layers=1, tuning=replace(base, lora_targets=targets)), stack=STACKS[2])
        sent[name] = estimate(toy, plan).sent_bytes[0]["tp"]
    narrow, wide = 2 * 64 * 4, 2 * 64 * 12  # bytes of x A and of a result, of 64 tokens
    # x A summed where it lies, there and back; of a result's columns those of the other rank's tokens, there and back.
    assert sent["both"] - sent["qkv"] == 2 * narrow + 2 * wide // 4
    # Parts of x A there, and of their sum back.  Only with these backward goes through attention, which gathers gradient and input.
    assert sent["both"] - sent["proj"] == 2 * narrow // 2 + 2 * wide // 2


def _frozen_weights_have_states(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(buckets, "lasting_weights", lambda weights, role, structure: [*weights])
    for name in ("parsim.estimator.memory", "parsim.simulator.memory"):
        patch.setattr(f"{name}.lasting_weights", buckets.lasting_weights)


def _some_trained_weights_are_neither_summed_nor_updated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Segment, "trained_weights", property(lambda self: tuple(each for each in self.own_weights if each.trained)[1:]))


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [(_frozen_weights_have_states, "peak bytes"), (_some_trained_weights_are_neither_summed_nor_updated, "weight gradients")],
)
def test_verify_notices(mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, plan = scenario(model=replace(GPT, tuning=LOWER)), Plan(data_parallel=2, zero_stage=1)
    forget_steps()
    mutate(monkeypatch)
    try:
        assert quantity in failed(toy, plan)
    finally:
        forget_steps()


@pytest.mark.parametrize("model", [replace(GPT, num_layers=1), replace(MOE, num_layers=1, num_dense_layers=0)], ids=["dense", "experts"])
def test_verify_notices_an_adapter_that_is_not_scaled(model: TransformerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    right = adapters._up
    forget_steps()
    monkeypatch.setattr(adapters, "_up", lambda base, summed, group, stem, scale: right(base, summed, group, stem, 1.0))
    try:
        assert "loss, by hand" in failed(scenario(model=replace(model, tuning=ADAPTED["fused"])), Plan())
    finally:
        forget_steps()


def test_verify_notices_scales_of_4_bits_that_are_not_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(LLAMA, num_layers=1, tuning=replace(PACKED, double_quantization=False))
    monkeypatch.setattr(Tuning, "packed_bytes", bare.tuning.packed_bytes)
    assert "lasting bytes, by hand" in failed(scenario(model=replace(bare, tuning=PACKED)), Plan())


@pytest.mark.parametrize(
    ("tuning", "plan", "said"),
    [
        ({"lora_rank": 4, "lora_targets": ["q_proj", "linear_qkv"]}, {}, "q_proj and linear_qkv name one linear layer"),
        ({"lora_rank": 4, "lora_targets": "gate_proj"}, {}, "has no gate_proj"),
        ({"lora_rank": 4, "freeze": "embedding"}, {}, "goes with adapters as base alone"),
        ({"quantization": "nf4", "freeze": "layers"}, {}, "is of what adapters stand beside; give lora_rank"),
        ({"lora_rank": 4, "quantization": "nf4"}, {"zero_stage": 3}, "keeps them whole"),
        ({"lora_rank": 4, "quantization": "nf4"}, {"precision": "fp8_current"}, "beside which quantization = nf4 is not built"),
        ({"freeze": "embedding", "lora_alpha": 8}, {}, "lora_alpha is of adapters, which lora_rank asks for"),
        ({"lora_rank": 4, "double_quantization": True}, {}, "double_quantization is of the scales of quantization"),
        ({"lora_rank": 4, "lora_targets": []}, {}, "lora_targets names no layer"),
        ({"lora_rank": 3}, {"tensor_parallel": 2}, "does not divide lora_rank = 3"),
        ({"lora_rank": 4, "lora_target": "attention"}, {}, r"did you mean 'lora_targets'"),
    ],
)
def test_adapters_that_cannot_be_are_refused(tuning: dict[str, object], plan: dict[str, int], said: str) -> None:
    tiny = {"model": {"base": "tiny-gpt", "num_layers": 4}, "cluster": {"node": "dgx-a100-80gb"}}
    batch = {"global_batch": 16, "sequence_length": 8}
    with pytest.raises(ScenarioError, match=said):
        parsim.from_mapping({**tiny, "batch": batch, "plans": {"a": plan}, "tuning": tuning})


@pytest.mark.parametrize(
    ("plan", "freeze", "said"),
    [
        ({"pipeline_parallel": 2}, ["embedding", "layers 0..1"], "the first stage has no trained weights"),
        ({}, "base", "nothing is trained"),
        ({}, ["layers 3..4"], "names no layers of the model, which are 0 to 3"),
        ({}, ["layer 3"], "unknown part to freeze"),
    ],
)
def test_what_cannot_be_frozen_is_refused(plan: dict[str, int], freeze: object, said: str) -> None:
    tiny = {"model": {"base": "tiny-gpt", "num_layers": 4}, "cluster": {"node": "dgx-a100-80gb"}}
    batch = {"global_batch": 16, "sequence_length": 8}
    with pytest.raises(ScenarioError, match=said):
        parsim.from_mapping({**tiny, "batch": batch, "plans": {"a": plan}, "tuning": {"freeze": freeze}})


@pytest.mark.parametrize(
    "wrong",
    [
        *(Tuning(("zz",)), Tuning(("layers 0..9",)), Tuning((BASE,), -4), Tuning(lora_rank=4), Tuning(("norms",), quantization="nf4")),
        *(Tuning((BASE,), 4, 8.0, 0.0, ()), Tuning((BASE,), 4, math.nan, 0.0, _OF_ALL), Tuning((BASE,), 4, 8.0, 1.5, _OF_ALL)),
        *(Tuning((BASE,), 4, 8.0, 0.0, ("zz",)), Tuning((BASE,), 4, 8.0, 0.0, _OF_ALL, "int8"), Tuning((BASE,), 4, 8.0, 0.0, (ALL,))),
    ],
    ids=str,
)
def test_a_tuning_by_hand_is_held_to_what_a_file_may_say(wrong: Tuning) -> None:
    with pytest.raises(ParsimError, match=r"tuning\b"):
        estimate(scenario(model=replace(GPT, num_layers=2, tuning=wrong)), Plan())
