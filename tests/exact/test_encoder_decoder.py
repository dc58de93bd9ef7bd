"""Encoder-decoder models: the contract on every way to split them that is built, counts of others, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import stages_of
from parsim.estimator.memory import dynamic_bytes
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.model.spec import JOINT
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.report.results import about
from parsim.scenario import from_mapping
from parsim.scenario.rows import read
from parsim.schedules.phase import SPLIT, WHOLE
from parsim.step.check import faults as step_faults
from parsim.step.stages import parts_of
from parsim.verify import verify_plan
from support import STACK, STACKS, enough, every_other, scenario

TRANSLATOR = EncoderDecoderSpec.of(
    name="toy", num_layers=4, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=8
)
NORMS_FIRST = replace(TRANSLATOR, num_layers=3, encoder_layers=1, norm_last=False, positions="learned", tied_embedding=False)
BATCH = Batch(8, 8, source_length=4)
PLANS = {
    "alone": Plan(micro_batch=2),
    "dp": Plan(data_parallel=4, gradient_sync="master"),
    "tp": Plan(tensor_parallel=4),
    "sp": Plan(tensor_parallel=2, sequence_parallel=True, recompute="selective"),
    "zero2": Plan(data_parallel=2, tensor_parallel=2, zero_stage=2),
    "zero3": Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, zero_stage=3, recompute="full"),
    "every second": Plan(data_parallel=2, zero_stage=1, recompute="full", recompute_every=2),
    "in backward": Plan(data_parallel=2, micro_batch=4, optimizer_in_backward=True),
}


def failures(model: EncoderDecoderSpec, plan: Plan, number: int) -> set[str]:
    toy = scenario(model=model, batch=replace(enough(plan, most=8), source_length=4), stack=STACKS[number])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


NORMS = {"norms last": TRANSLATOR, "norms first": NORMS_FIRST}


@pytest.mark.parametrize("case", every_other(NORMS, range(len(STACKS)), "{}-{}".format))
def test_translators_keep_the_contract_on_every_stack(case: tuple[str, int]) -> None:
    assert not failures(NORMS[case[0]], PLANS["sp"], case[1])


@pytest.mark.parametrize("name", PLANS)
def test_translators_keep_the_contract_however_they_are_split(name: str) -> None:
    number = [*PLANS].index(name) % len(STACKS)
    assert not failures(NORMS_FIRST if number % 2 else TRANSLATOR, PLANS[name], number)


@pytest.mark.parametrize("model", [TRANSLATOR, NORMS_FIRST], ids=["norms last", "norms first"])
@pytest.mark.parametrize("phases", [WHOLE, SPLIT])
def test_steps_of_translators_are_sound(model: EncoderDecoderSpec, phases: tuple[object, ...]) -> None:
    toy = scenario(model=model, batch=BATCH)
    for plan in PLANS.values():
        assert not step_faults(stages_of(toy, plan).workload.step, phases)  # type: ignore[arg-type]


def test_the_memory_is_held_once_however_many_layers_read_it() -> None:
    """A source that is twice as long adds as much for each layer, and its memory once."""
    kept = []
    for decoder_layers in (1, 2, 3):
        model = replace(NORMS_FIRST, num_layers=1 + decoder_layers)
        flights = [dynamic_bytes(stages_of(scenario(model=model, batch=replace(BATCH, source_length=n)), Plan())) for n in (4, 8)]
        kept.append(int((flights[1][0] - flights[0][0]).item()))
    each = kept[1] - kept[0]
    assert kept[2] - kept[1] == each
    # Of a decoder layer, in bf16: keys and values of 4 more tokens, and their scores, probabilities, mask and what is dropped.
    heads, tokens, width, more = 4, 8, 12, 4
    assert each == 2 * 2 * more * width + heads * tokens * more * (2 + 2 + 1)


# Vaswani et al. 2017 (arXiv:1706.03762), table 3: parameters in millions; what base has more or less than others of its width.
@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"num_layers": 4, "encoder_layers": 2}, 36),
        ({"num_layers": 8, "encoder_layers": 4}, 50),
        ({"num_layers": 16, "encoder_layers": 8}, 80),
        ({"ffn_hidden_size": 1024}, 53),
        ({"ffn_hidden_size": 4096}, 90),
    ],
)
def test_variants_of_the_transformer_differ_by_the_published_parameters(changes: dict[str, int], millions: int) -> None:
    base = read("models", "transformer-base")
    assert abs(num_parameters(replace(base, **changes)) - num_parameters(base) - (millions - 65) * 1e6) < 1e6  # both are rounded


@pytest.mark.parametrize(("name", "millions"), [("transformer-base", 65), ("transformer-big", 213)])
def test_the_transformer_has_about_the_published_parameters(name: str, millions: int) -> None:
    """Of either the paper says 'about 37000' tokens; its counts agree with no one vocabulary: 65 takes 40,800, 213 takes 35,800."""
    assert abs(num_parameters(read("models", name)) / 1e6 - millions) < 0.03 * millions


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("norm_last", [True, False])
def test_the_transformer_has_the_parameters_of_torch(norm_last: bool) -> None:
    import torch

    theirs = torch.nn.Transformer(norm_first=not norm_last, device="meta")  # 512 wide, 6 layers a stack; a norm behind either, always
    base = replace(read("models", "transformer-base"), norm_last=norm_last)
    table, last_norms = 37000 * 512, 2 * 2 * 512
    assert num_parameters(base) - table + last_norms * norm_last == sum(each.numel() for each in theirs.parameters())


def test_flops_of_a_step_are_those_of_either_sequence() -> None:
    """Base at 30 source and 20 target tokens: 6 FLOPs a weight and token of its own, 12 a width and pair, half of the causal ones."""
    square, mlp, norms = 512**2 + 512, 2 * 512 * 2048 + 2560, 2 * 512
    encoder, decoder = 6 * (4 * square + mlp + 2 * norms), 6 * (6 * square + mlp + 3 * norms) + 37000 * 512
    of_memory = 6 * 2 * square
    weights = 6 * (30 * (encoder + of_memory) + 20 * decoder)
    pairs = 6 * (30 * 30 + 20 * 30), 6 * 20 * 20
    whole, unmasked = model_flops_per_token(read("models", "transformer-base"), 20, 30)
    assert whole == (weights + 12 * 512 * sum(pairs)) // 20
    assert whole - unmasked == 12 * 512 * pairs[1] // 2 // 20


def test_what_is_not_built_is_refused_in_a_sentence() -> None:
    (fault,) = faults(Plan(tensor_parallel=4, sequence_parallel=True), TRANSLATOR, replace(BATCH, source_length=6), 4, stack=STACK)
    assert "tensor_parallel = 4 does not divide source_length = 6" in str(fault)
    with pytest.raises(ParsimError, match="encoder_layers = 4 leaves no layer to one of the stacks"):
        replaced(encoder_layers=4)
    with pytest.raises(ParsimError, match="num_experts = 4 is not built in encoder-decoder models"):
        replaced(num_experts=4)


def replaced(**figures: int) -> EncoderDecoderSpec:
    stated = {"name": "toy", "num_layers": 4, "hidden_size": 12, "num_heads": 4, "vocab_size": 60, "max_positions": 8}
    return EncoderDecoderSpec.of(**{**stated, **figures})


def test_a_source_is_for_a_model_that_reads_one() -> None:
    batch = {"global_batch": 8, "sequence_length": 16, "source_length": 8}
    with pytest.raises(ParsimError, match='source_length = 8, but model "tiny-gpt" has no encoder'):
        from_mapping({"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": batch})


def test_the_joint_of_two_stacks_lies_with_the_layer_behind_it() -> None:
    layout = (("embedding", 1), ("encoder_layer", 2), (JOINT, 1), ("layer", 2), ("head", 1))
    assert [*parts_of(layout, [2, 2], 1)] == [(("embedding", 1), ("encoder_layer", 2)), ((JOINT, 1), ("layer", 2), ("head", 1))]
    assert [*parts_of(layout, [1, 3], 1)][1] == (("encoder_layer", 1), (JOINT, 1), ("layer", 2), ("head", 1))
    assert [*parts_of(layout, [4], 2)] == [
        (("embedding", 1), ("kept_encoder_layer", 1), ("encoder_layer", 1), (JOINT, 1), ("kept_layer", 1), ("layer", 1), ("head", 1))
    ]


def test_what_is_trained_is_told_with_the_length_of_sources() -> None:
    assert about(scenario(model=TRANSLATOR, batch=BATCH))["batch"] == "8 sequences of 8 tokens with sources of 4 in bf16"
    assert about(scenario(model=TRANSLATOR, batch=Batch(8, 8)))["batch"] == "8 sequences of 8 tokens with sources of 8 in bf16"
