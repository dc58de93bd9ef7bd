"""FLOPs of matmuls of a whole small LLaVA, forward and backward, as torch counts them in Hugging Face's own code, whatever is frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from parsim import scenario
from parsim.cost.count import flops
from parsim.estimator.estimate import stages_of
from parsim.model.tuning import Tuning
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import STACK
from support import scenario as toy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
flop_counter = pytest.importorskip("torch.utils.flop_counter")

pytestmark = pytest.mark.slow
PATCHES, TOKENS, IMAGE = 9, 16, 5
CONFIG: dict[str, Any] = {
    **{"model_type": "llava", "image_token_index": IMAGE, "vision_feature_layer": -1, "vision_feature_select_strategy": "default"},
    "text_config": {
        **{"model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 60},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    },
    "vision_config": {
        **{"model_type": "clip_vision_model", "hidden_size": 16, "image_size": 6, "intermediate_size": 32, "patch_size": 2},
        **{"num_attention_heads": 2, "num_hidden_layers": 3},
    },
}
THEIRS = {"vision": ("vision_tower",), "projector": ("multi_modal_projector",), "language": ("language_model", "lm_head")}


def of_theirs(frozen: tuple[str, ...]) -> int:
    """The last layer of the tower is the one whose output is taken, so that theirs has no other."""
    config = dict(CONFIG)
    built = transformers.AutoConfig.for_model(config.pop("model_type"), **config, attn_implementation="eager")
    for each in (built, built.text_config, built.vision_config):
        each._attn_implementation = "eager"
    model = transformers.AutoModelForImageTextToText.from_config(built).train()
    for name, weight in model.named_parameters():
        weight.requires_grad_(not any(part in name for side in frozen for part in THEIRS[side]))
    words = torch.zeros(1, TOKENS, dtype=torch.long)
    words[:, :PATCHES] = IMAGE
    with flop_counter.FlopCounterMode(display=False) as counter:
        model(input_ids=words, pixel_values=torch.zeros(1, 3, 6, 6)).logits.sum().backward()
    return int(counter.get_total_flops())


def of_ours(frozen: tuple[str, ...], folder: Path) -> int:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    parts = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": TOKENS}}
    model = scenario.from_mapping({"model": f"hf:{folder}/config.json", **parts}).model
    model, stack = replace(model, tuning=Tuning(freeze=frozen)), replace(STACK, attention="unfused", vocab_multiple=1)
    workload = stages_of(toy(model=model, batch=Batch(1, TOKENS, "bf16"), stack=stack), Plan()).workload
    segments = [(workload.step.segments[name], copies) for name, copies in model.layout]
    tasks = [(task, copies) for segment, copies in segments for phase in (Phase.F, Phase.B) for task in segment.phases[phase]]
    return sum(
        copies * int(flops(task, workload.sizes)[0]) for task, copies in tasks if isinstance(task, Compute) and task.kernel == "einsum"
    )


@pytest.mark.parametrize(
    "frozen", [(), ("vision",), ("vision", "language"), ("projector",), ("language",), ("vision", "projector")], ids=str
)
def test_a_llava_does_the_flops_of_theirs(frozen: tuple[str, ...], tmp_path: Path) -> None:
    assert of_ours(frozen, tmp_path) == of_theirs(frozen)
