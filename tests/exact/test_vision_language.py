"""A vision tower before a decoder: the contract with every way to split a step that is built, whatever is frozen; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import count
from parsim.errors import ParsimError
from parsim.executor import values
from parsim.executor.run import execute
from parsim.model.adapters import ALL, each_target
from parsim.model.families import vision_language
from parsim.model.families.vision_language import VisionLanguageSpec
from parsim.model.op import Gradient
from parsim.model.op_kinds import COSTS
from parsim.model.parameters import model_flops_per_token, num_parameters, num_trained_parameters
from parsim.model.tuning import Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.tuning_faults import tuning_faults
from parsim.scenario import Scenario, load
from parsim.schedules.phase import Phase
from parsim.step.lower import lower
from parsim.step.structure import Structure
from support import STACK, STACKS, covering, forget_steps, reds, scenario, tiered, with_features

CLIP = VisionLanguageSpec.of(
    **{"name": "toy", "num_layers": 4, "vision_layers": 2, "hidden_size": 12, "ffn_hidden_size": 16, "num_heads": 4, "head_dim": 4},
    **{"vocab_size": 60, "max_positions": 8, "vision_hidden_size": 8, "vision_ffn_hidden_size": 16, "vision_heads": 2},
    **{"num_patches": 3, "patch_size": 2, "projector_hidden_size": 8},
)
SIGLIP = replace(
    CLIP,
    **{"class_token": False, "patch_bias": True, "vision_first_norm": False, "vision_last_norm": True, "vision_activation": "gelu"},
    **{"projector": "linear", "tied_embedding": True, "embedding_scale": 2.0, "num_kv_heads": 2},
)
SEQUENCE: dict[str, object] = {"tensor_parallel": 2, "sequence_parallel": True}


def frozen(model: VisionLanguageSpec, *sides: str) -> VisionLanguageSpec:
    return replace(model, tuning=Tuning(freeze=sides))


def adapted(model: VisionLanguageSpec, *sides: str, **more: str | bool) -> VisionLanguageSpec:
    targets = each_target([ALL])
    return replace(model, tuning=Tuning(sides, lora_rank=4, lora_alpha=8.0, lora_dropout=0.1, lora_targets=targets, **more))  # type: ignore[arg-type]


CASES: dict[str, tuple[VisionLanguageSpec, dict[str, object]]] = {
    "sp zero3 full": (CLIP, {**SEQUENCE, "data_parallel": 2, "zero_stage": 3, "recompute": "full"}),
    "vision frozen, pp sp": (frozen(CLIP, "vision"), {**SEQUENCE, "pipeline_parallel": 2, "layers_per_stage": (3, 1)}),
    "projector alone, zero2": (frozen(CLIP, "vision", "language"), {"data_parallel": 2, "zero_stage": 2}),
    "adapters, tp": (adapted(CLIP, "vision", "language"), {"tensor_parallel": 2, "recompute": "full"}),
    "adapters, pp": (
        adapted(SIGLIP, "vision", "projector", "language"),
        {**SEQUENCE, "pipeline_parallel": 2, "layers_per_stage": (3, 1), "data_parallel": 2, "zero_stage": 1},
    ),
    "adapters behind a tower that learns": (adapted(CLIP, "language"), {"data_parallel": 2, "zero_stage": 3}),
    "in 4 bits": (adapted(CLIP, "vision", "language", quantization="nf4", double_quantization=True), {"tensor_parallel": 2}),
    "siglip pp": (SIGLIP, {"pipeline_parallel": 4, "micro_batch": 2}),
    "tp pp": (CLIP, {"tensor_parallel": 2, "pipeline_parallel": 2, "layers_per_stage": (1, 3)}),
    "siglip interleaved": (SIGLIP, {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"}),
    "siglip sp": (SIGLIP, SEQUENCE),
    "vision alone": (frozen(CLIP, "projector", "language"), {"pipeline_parallel": 2, "recompute": "selective"}),
    "language alone, zero3": (frozen(SIGLIP, "vision", "projector"), {"data_parallel": 2, "zero_stage": 3}),
    "language frozen": (frozen(SIGLIP, "language"), {"tensor_parallel": 2, "recompute": "full"}),
    "zbv": (CLIP, {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "zero_bubble_v"}),
    "dual pipe": (CLIP, {"pipeline_parallel": 2, "schedule": "dual_pipe", "micro_batch": 2}),
    "zbh1 sp": (SIGLIP, {"pipeline_parallel": 2, "schedule": "zero_bubble_h1", **SEQUENCE}),
    "siglip zero3 pp": (SIGLIP, {"pipeline_parallel": 2, "data_parallel": 2, "zero_stage": 3}),
}


def red(model: VisionLanguageSpec, number: int = 1, **fields: object) -> set[str]:
    plan = Plan(**fields)  # type: ignore[arg-type]
    sequences = 2 * plan.data_parallel * plan.pipeline_parallel * plan.micro_batch
    return reds(scenario(model=model, batch=Batch(sequences, 8, "bf16"), stack=STACKS[number]), plan)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(*(name, number), id=f"{name} {number}", marks=[pytest.mark.slow] if place > 2 or number != place else [])
        for place, name in enumerate(CASES)
        for number in range(len(STACKS))
    ],
)
def test_all_readers_agree(name: str, number: int) -> None:
    model, fields = CASES[name]
    assert not red(model, number, **fields)


SETS = sorted(covering(4))


@pytest.mark.parametrize("index", [tiered(index, "-".join(names), slow=index != 7) for index, names in enumerate(SETS)])
def test_each_pair_of_features_of_a_plan_keeps_the_contract_frozen_or_not(index: int) -> None:
    """A stage of one layer or none has no place for a frozen tower: legality says so, and all of it is trained there."""
    toy, plan = with_features(SETS[index], STACKS[index % len(STACKS)])
    model = SIGLIP if index % 2 else CLIP
    model = replace(model, num_layers=toy.model.num_layers, vision_layers=1, num_kv_heads=2 if "gqa" in SETS[index] else model.num_kv_heads)
    plan = replace(plan, recompute_ops=tuple(name for name in plan.recompute_ops if name != "up_bias"))
    tuned = frozen(model, *(("vision", "language") if index % 3 else ("vision",)))
    toy = replace(toy, model=model if next(faults_of(tuned, plan, toy), None) else tuned)
    assert not reds(toy, plan)


def faults_of(model: VisionLanguageSpec, plan: Plan, toy: Scenario) -> Iterator[object]:
    return iter(faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack))


@pytest.mark.parametrize("model", [tiered(CLIP, "clip", slow=False), tiered(SIGLIP, "siglip", slow=True)])
def test_a_loss_in_chunks_leaves_images_out(model: VisionLanguageSpec) -> None:
    assert not reds(scenario(model=model, stack=replace(STACK, loss_chunks=2)), Plan())


TOWER_LAYER = 4 * 8 * 8 + 4 * 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8  # matrices of attention with biases, of the MLP with biases, and two norms
DECODER = 2 * (4 * 12 * 16 + 3 * 12 * 16 + 2 * 12) + 12 + 60 * 12  # two layers, the last norm and the matrix of logits
PATCH, PROJECTOR = 12 * 8, 8 * 8 + 8 + 8 * 12 + 12


def test_parameters_are_those_of_both_stacks_and_of_what_stands_between() -> None:
    """By the names of the released code: class_embedding, position_embedding, pre_layrnorm; embed_tokens."""
    assert num_parameters(CLIP) == PATCH + 8 + 4 * 8 + 2 * 8 + 2 * TOWER_LAYER + PROJECTOR + 60 * 12 + DECODER
    assert num_trained_parameters(frozen(CLIP, "vision")) == PROJECTOR + 60 * 12 + DECODER
    assert num_trained_parameters(frozen(CLIP, "vision", "language")) == PROJECTOR
    beside = 2 * 4 * (4 * (12 + 16) + 3 * (12 + 16))  # of rank 4, of four matrices of attention and three of a gated MLP
    assert num_trained_parameters(adapted(CLIP, "vision", "language")) == PROJECTOR + beside


def test_flops_of_an_image_are_shared_out_among_the_tokens_of_its_sequence() -> None:
    """Three patches, four tokens in the tower and eight in the decoder; pixels have no gradient, and nothing below a projector alone."""
    weights = 4 * 3 * PATCH + 6 * 4 * 2 * TOWER_LAYER + 6 * 3 * PROJECTOR + 6 * 8 * DECODER
    of_tower, own = 12 * 2 * 8 * 4 * 4, 12 * 2 * 16 * 8 * 8
    assert [8 * each for each in model_flops_per_token(CLIP, 8)] == [weights + of_tower + own, weights + of_tower + own // 2]
    projector = 3 * (6 * PROJECTOR - 2 * 8 * 8)
    weights = 2 * 3 * PATCH + 2 * 4 * 2 * TOWER_LAYER + projector + 4 * 8 * DECODER
    assert 8 * model_flops_per_token(frozen(CLIP, "vision", "language"), 8)[0] == weights + of_tower // 3 + own


def test_nothing_flows_back_into_a_frozen_tower() -> None:
    def backward(model: VisionLanguageSpec) -> dict[str, bool]:
        step = lower(Structure.of(model, Batch(8, 8), Plan(), STACK))
        return {name: bool(segment.phases[Phase.B]) for name, segment in step.segments.items()}

    assert all(backward(CLIP).values())
    idle = [name for name, runs in backward(frozen(CLIP, "vision")).items() if not runs]
    assert idle == ["embedding", "bottom_frozen_vision_layer"]


@pytest.mark.slow
def test_a_decoder_spells_what_an_image_shows_however_they_are_shared_out() -> None:
    """A decoder that knows all words and sees no image is told one of ten by the letters of each: log 10 of six tokens."""
    pytest.importorskip("sklearn")
    found = load("scenarios/digit-words.yaml")
    runs = {name: execute(found, name, num_steps=steps, clocks=False).losses for name, steps in (("images", 88), ("columns_and_rows", 22))}
    assert all(abs(one - other) < 1e-5 for one, other in zip(*runs.values(), strict=False))
    assert np.mean(runs["images"][-5:]) < 0.5 * np.log(10) / 6


def test_what_is_not_built_is_refused_in_a_sentence() -> None:
    (fault,) = faults(Plan(context_parallel=2), CLIP, Batch(8, 8), 2, stack=STACK)
    assert "whose images stand whole before the text of a sequence: that is not built" in str(fault)
    assert "leaves no room for text behind the 3 tokens of an image" in CLIP.sequence_fault(3)
    for figures, said in (
        ({"sliding_window": 4}, "sliding_window = 4 is not built in vision-language models"),
        ({"vision_layers": 4}, "vision_layers = 4 leaves no layer to one of the stacks"),
        ({"vision_heads": 3}, "vision_heads = 3 does not divide vision_hidden_size = 8"),
    ):
        with pytest.raises(ParsimError, match=said):
            VisionLanguageSpec.of(**{name: getattr(CLIP, name) for name in VisionLanguageSpec.figures()} | {"name": "toy"} | figures)


@pytest.mark.parametrize(
    ("model", "tuning", "said"),
    [
        (CLIP, Tuning(freeze=("layers",)), "is built for vision, projector, language, not 'layers'"),
        (
            CLIP,
            Tuning(freeze=("base",), lora_rank=4, lora_alpha=4.0, lora_targets=("q_proj",)),
            "not 'base'; name some of these, with adapters",
        ),
        (CLIP, Tuning(freeze=("vision",), lora_rank=4, lora_alpha=4.0, lora_targets=("q_proj",)), "names no language, beside whose layers"),
        (CLIP, Tuning(freeze=("language",), lora_rank=4, lora_alpha=4.0, lora_targets=("kv_b_proj",)), 'model "toy" has no kv_b_proj'),
        (CLIP, Tuning(freeze=("vision", "projector", "language")), "freezes all weights"),
        (CLIP.decoder, Tuning(freeze=("vision",)), 'names vision of a vision-language model, but model "toy" is none'),
    ],
)
def test_only_whole_sides_are_frozen(model: VisionLanguageSpec, tuning: Tuning, said: str) -> None:
    assert any(said in each for _, each in tuning_faults(replace(model, tuning=tuning)))


def test_a_frozen_first_stage_is_refused() -> None:
    (fault,) = faults(Plan(pipeline_parallel=2), frozen(CLIP, "vision"), Batch(8, 8), 2, stack=STACK)
    assert "of its 2 layers and the embedding all are frozen, up to layer 2" in str(fault)


Patch = Callable[[pytest.MonkeyPatch], None]


def _losses_of_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(values, "IGNORED", 0)


def _patches_are_read_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "excerpt", replace(COSTS["excerpt"], picks=()))


def _the_last_patch_is_dropped(patch: pytest.MonkeyPatch) -> None:
    right = vision_language._images
    told = (("start", 0), ("length", "extent:x"), ("whole", "extent:Ti"))
    patch.setattr(
        vision_language,
        "_images",
        lambda *of: (replace(op, attributes=told) if op.name == "drop_class_token" else op for op in right(*of)),
    )


def _words_learn_from_images(patch: pytest.MonkeyPatch) -> None:
    right = vision_language._one_sequence
    text = Gradient("x1", "excerpt", attributes=(("start", 0), ("length", "extent:St")))
    patch.setattr(
        vision_language,
        "_one_sequence",
        lambda: (replace(op, gradients=(op.gradients[0], text)) if op.name == "join" else op for op in right()),  # type: ignore[index]
    )


def _heads_of_the_decoder_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(count, "query_heads", lambda queries, sizes: sizes.dims["B"] * sizes.dims["A"] * sizes.dims["R"])


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_losses_of_images, "loss, by hand"),
        (_patches_are_read_whole, "HBM bytes"),
        (_the_last_patch_is_dropped, "loss, by hand"),
        (_words_learn_from_images, "weight gradients, by hand"),
        (_heads_of_the_decoder_alone, "FLOPs"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    forget_steps()
    try:
        assert quantity in red(replace(CLIP, num_layers=2, vision_layers=1), 2)
    finally:
        forget_steps()
