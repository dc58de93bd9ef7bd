"""Vision transformers keep the contract with every way to split a step that is built, and learn digits; what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import ScenarioError
from parsim.executor.run import execute
from parsim.model.families import vit
from parsim.model.families.vit import VitSpec
from parsim.model.op_kinds import COSTS
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import from_mapping, load
from parsim.verify import shrunk, verify_plan
from parsim_kernels import lookup
from parsim_kernels.kernels import KERNELS
from support import STACKS, forget_steps, scenario, tiered

VIT = VitSpec.of(
    **{"name": "toy vit", "num_layers": 2, "hidden_size": 12, "ffn_hidden_size": 16, "num_heads": 4, "dropout": 0.1},
    **{"num_patches": 7, "patch_size": 2, "num_channels": 3, "num_labels": 5},
)
UNDROPPED = replace(VIT, dropout=0.0, qkv_bias=False)
SEQUENCE: dict[str, object] = {"tensor_parallel": 2, "sequence_parallel": True}
CASES: dict[str, tuple[VitSpec, dict[str, object]]] = {
    "alone": (VIT, {}),
    "sp zero3 full": (VIT, {**SEQUENCE, "data_parallel": 2, "zero_stage": 3, "recompute": "full"}),
    "tp pp": (UNDROPPED, {"tensor_parallel": 2, "pipeline_parallel": 2}),
    "tp": (VIT, {"tensor_parallel": 4}),
    "sp": (UNDROPPED, SEQUENCE),
    "zbh1": (VIT, {"pipeline_parallel": 2, "schedule": "zero_bubble_h1", **SEQUENCE}),
    "dp zero1": (UNDROPPED, {"data_parallel": 2, "zero_stage": 1}),
    "zero2": (VIT, {"data_parallel": 2, "zero_stage": 2, "recompute": "selective"}),
    "master": (VIT, {"data_parallel": 2, "gradient_sync": "master"}),
}
PARTS = {"cluster": {"node": "dgx-a100-80gb"}, "plans": {"a": {}}}


def red(model: VitSpec, number: int = 1, **fields: object) -> set[str]:
    plan = Plan(**fields)  # type: ignore[arg-type]
    toy = scenario(model=model, batch=Batch(2 * plan.data_parallel * plan.pipeline_parallel, 8, "bf16"), stack=STACKS[number])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", [tiered(name, name, slow=index > 2) for index, name in enumerate(CASES)])
def test_all_readers_agree(name: str) -> None:
    model, fields = CASES[name]
    assert not red(model, [*CASES].index(name) % len(STACKS), **fields)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STACKS)))
def test_all_readers_agree_on_every_stack(number: int) -> None:
    assert not red(VIT, number, **SEQUENCE)


def test_parameters_and_flops_are_those_of_patches_and_layers() -> None:
    """By the names of the released code: patch_embeddings, cls_token, position_embeddings, encoder, layernorm, classifier."""
    matrices = 4 * 12 * 4 * 3 + 2 * 12 * 16  # four heads as wide as 3
    layer = matrices + 3 * 12 + 12 + 16 + 12 + 4 * 12
    assert num_parameters(VIT) == (12 * 12 + 12) + 12 + 8 * 12 + 2 * layer + 2 * 12 + 12 * 5 + 5
    whole, unmasked = model_flops_per_token(VIT, 8)
    assert whole == unmasked == 6 * 2 * layer + 4 * (12 * 12 + 12) + 2 * 12 * 8 * 12  # images have no gradient


def test_a_large_one_is_shrunk_to_one_that_can_be_executed() -> None:
    large = from_mapping({"model": "vit-base-patch16-224", "batch": {"global_batch": 64, "sequence_length": 197}, **PARTS})
    small = shrunk(scenario(model=large.model, batch=large.batch), Plan(tensor_parallel=2, micro_batch=8))
    assert small.was_shrunk and not small.scenario.model.sequence_fault(small.scenario.batch.sequence_length)


@pytest.mark.slow
def test_it_learns_digits_however_they_are_shared_out() -> None:
    pytest.importorskip("sklearn")
    found = load("scenarios/digit-images.yaml")
    runs = {name: execute(found, name, num_steps=44, clocks=False).losses for name in ("images", "columns_and_rows")}
    assert all(abs(one - other) < 1e-5 for one, other in zip(*runs.values(), strict=True))
    assert np.mean(runs["images"][-5:]) < 0.75 * np.log(10)  # of ten equally likely digits nothing is known at log 10


def test_what_is_not_built_is_refused_in_a_sentence() -> None:
    (fault,) = faults(Plan(context_parallel=2), VIT, Batch(8, 8), 2, stack=STACKS[2])
    assert "whose class token stands before all patches of an image: that is not built" in str(fault)
    with pytest.raises(ScenarioError, match="sequence_length = 196 is not the 197 tokens of an image"):
        from_mapping({"model": "vit-base-patch16-224", "batch": {"global_batch": 64, "sequence_length": 196}, **PARTS})
    with pytest.raises(ScenarioError, match="adapters beside patches of images are not built"):
        tuning = {"lora_rank": 8, "lora_alpha": 8}
        batch = {"global_batch": 64, "sequence_length": 197}
        from_mapping({"model": "vit-base-patch16-224", "tuning": tuning, "batch": batch, **PARTS})


Patch = Callable[[pytest.MonkeyPatch], None]


def _the_class_token_learns_nothing(patch: pytest.MonkeyPatch) -> None:
    def first(inputs, attributes, out=lookup.fresh):  # type: ignore[no-untyped-def]
        (y,), flops = lookup.first(inputs, attributes, out)
        y[...] *= "length" in attributes
        return (y,), flops

    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, "first": first})


def _patches_are_read_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "prepend_grad", replace(COSTS["prepend_grad"], picks=()))


def _labels_of_the_last_patch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vit, "FIRST_TOKEN", (("offset", 0), ("length", 8)))
    patch.setattr(lookup, "_place_of_first", lambda attributes, length: length - 1)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_the_class_token_learns_nothing, "weight gradients, by hand"),
        (_patches_are_read_whole, "HBM bytes"),
        (_labels_of_the_last_patch, "loss, by hand"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    forget_steps()
    try:
        assert quantity in red(replace(UNDROPPED, num_layers=1))
    finally:
        forget_steps()
