"""T5: the contract on plans, biases that the layers of a stack share, and the published parameters."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from hf_configs import PUBLISHED
from parsim.cost.count import message_bytes
from parsim.errors import ParsimError
from parsim.estimator.estimate import stages_of
from parsim.estimator.memory import dynamic_bytes
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Batch, Plan
from parsim.scenario.rows import read
from parsim.schedules.phase import SPLIT, WHOLE, Phase
from parsim.step.check import faults as step_faults
from parsim.step.task import Send
from parsim.verify.encoder_by_hand import _row
from parsim_kernels import KERNELS
from support import STACKS, reds, scenario, tiered

T5 = EncoderDecoderSpec.of(
    name="toy t5",
    num_layers=4,
    hidden_size=12,
    ffn_hidden_size=16,
    num_heads=4,
    head_dim=4,  # heads are wider together than the stream
    vocab_size=60,
    max_positions=8,
    norm="rms_norm",
    norm_last=False,
    positions="relative",
    relative_buckets=8,
    relative_distance=6,
    bias=False,
    scores_scaled=False,
    dropped_inside=True,
    logit_scale=12**-0.5,
)
V1_1 = replace(T5, activation="geglu", tied_embedding=False, logit_scale=1.0)
BATCH = Batch(8, 8, source_length=4)
CASES = {
    "tp, dp": (T5, Plan(tensor_parallel=2, data_parallel=2)),
    "interleaved, zero 1": (
        V1_1,
        Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", micro_batch=2, data_parallel=2, zero_stage=1),
    ),
    "alone": (T5, Plan(micro_batch=2)),
    "sp, full": (V1_1, Plan(tensor_parallel=4, sequence_parallel=True, recompute="full")),
    "zero 3": (T5, Plan(tensor_parallel=2, data_parallel=2, zero_stage=3, recompute="selective")),
    "pipeline": (T5, Plan(pipeline_parallel=4, data_parallel=2)),
    "zero bubble": (T5, Plan(pipeline_parallel=2, tensor_parallel=2, schedule="zero_bubble_h1")),
    "a stage of both": (V1_1, Plan(pipeline_parallel=2, layers_per_stage=(1, 3), tensor_parallel=2, sequence_parallel=True)),
    "scaled": (replace(T5, scores_scaled=True, dropped_inside=False), Plan(data_parallel=2, zero_stage=2)),
}


@pytest.mark.parametrize(
    "case",
    [
        tiered((name, number), f"{name} {number}", slow=place > 1 or number != place)
        for place, name in enumerate(CASES)
        for number in range(4)
    ],
)
def test_t5_keeps_the_contract_however_it_is_split(case: tuple[str, int]) -> None:
    model, plan = CASES[case[0]]
    assert not reds(scenario(model=model, batch=BATCH, stack=STACKS[case[1]]), plan)


@pytest.mark.parametrize("phases", [WHOLE, SPLIT])
def test_steps_of_t5_are_sound(phases: tuple[object, ...]) -> None:
    for model, plan in CASES.values():
        assert not step_faults(stages_of(scenario(model=model, batch=BATCH), plan).workload.step, phases)  # type: ignore[arg-type]


def test_the_biases_of_a_stack_are_held_once_however_many_layers_add_them() -> None:
    """A decoder layer more keeps as much as one whose scores have no biases."""
    plain = replace(T5, positions="learned", relative_buckets=0, relative_distance=0)
    more = []
    for model in (T5, plain):
        kept = [
            int(
                dynamic_bytes(stages_of(scenario(model=replace(model, num_layers=each), batch=BATCH, stack=STACKS[3]), Plan()))[0][0].item()
            )
            for each in (4, 5)
        ]
        more.append(kept[1] - kept[0])
    assert more[0] == more[1]


def test_a_boundary_within_a_stack_carries_its_biases() -> None:
    """And one between stacks what the encoder made alone, of which the decoder's first stage makes the memory."""
    workload = stages_of(scenario(model=T5, batch=BATCH), Plan(pipeline_parallel=4)).workload
    sent = []
    for stage in range(3):
        (task,) = (each for each in workload.pass_of(stage, Phase.F).epilogue if isinstance(each, Send))
        sent.append(int(message_bytes(task, workload.sizes)[0]))
    source, target, heads, itemsize = 4, 8, 4, 2
    memory = source * 12 * itemsize
    assert sent == [memory + heads * source**2 * itemsize, memory, target * 12 * itemsize + memory + heads * target**2 * itemsize]


def test_rows_of_distances_are_those_of_the_mathematics() -> None:
    """32 rows up to a distance of 128, on one side of a query and on both."""
    model, table = replace(T5, relative_buckets=32, relative_distance=128), np.arange(32.0).reshape(32, 1, 1)
    for two_sided in (False, True):
        told = {"queries": 300, "keys": 300, "distance": 128, "two_sided": int(two_sided)}
        (found,), _ = KERNELS["relative_biases"]((table,), told)
        mine = {query - key: found[0, 0, query, key] for query in (0, 299) for key in range(300)}
        seen = {behind: row for behind, row in mine.items() if two_sided or behind >= 0}
        assert seen == {behind: _row(model, behind, two_sided=two_sided) for behind in seen}
        assert {row for behind, row in mine.items() if behind not in seen} <= {-np.inf}
    # Raffel et al. 2020, section 2.1: all beyond 128 share one; modeling_t5.py has 16 rows a side, of which 8 are one distance each.
    assert [_row(model, behind, two_sided=True) for behind in (0, 7, 8, 15, 16, 127, 128, -1)] == [0, 7, 8, 9, 10, 15, 15, 17]


@pytest.mark.parametrize("name", ["t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b", "flan-t5-base"])
def test_rows_of_t5_have_the_published_parameters(name: str) -> None:
    assert num_parameters(read("models", name)) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("flan-t5-small", 76_961_152), ("flan-t5-large", 783_150_080), ("flan-t5-xl", 2_849_757_184), ("flan-t5-xxl", 11_135_332_352)],
)
def test_rows_of_flan_t5_have_the_published_parameters(name: str, parameters: int) -> None:
    """google/flan-t5-*, safetensors."""
    assert num_parameters(read("models", name)) == parameters


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": "learned", "relative_buckets": 8, "relative_distance": 0}, "relative_buckets = 8 goes with positions = relative"),
        ({"relative_buckets": 7}, "relative_buckets = 7 has no row for near"),
        ({"relative_distance": 4}, "relative_distance = 4 is not above half"),
        ({"norm_last": True}, "goes with norm_last = false"),
    ],
)
def test_figures_of_relative_positions_that_do_not_fit_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        EncoderDecoderSpec.of(**{name: getattr(T5, name) for name in T5.figures()} | {"name": "toy"} | changes)
