"""Encoder-decoder models over a pipeline: the contract however stages are split, what crosses each boundary, and what is refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cost.count import message_bytes
from parsim.estimator.estimate import estimate, estimates, stages_of
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import lower_bound, timeline
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Send
from support import STACK, STACKS, reds, scenario, tiered

LAST = EncoderDecoderSpec.of(
    name="toy", num_layers=4, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=8
)  # norms last: what leaves the encoder's last layer is the memory
FIRST = replace(LAST, num_layers=6, encoder_layers=3, norm_last=False, positions="learned")
UNTIED = replace(FIRST, tied_embedding=False)
BATCH = Batch(8, 8, source_length=4)
INTERLEAVED = Plan(pipeline_parallel=2, virtual_pipeline=3, micro_batch=2, schedule="interleaved_1f1b")
CASES = {
    "a stage a layer": (LAST, Plan(pipeline_parallel=4, micro_batch=2)),
    "interleaved, zero 1": (FIRST, replace(INTERLEAVED, data_parallel=2, zero_stage=1)),
    "zero bubble, sp": (
        FIRST,
        Plan(pipeline_parallel=3, tensor_parallel=2, sequence_parallel=True, micro_batch=2, schedule="zero_bubble_h1"),
    ),
    "a split rank": (LAST, Plan(pipeline_parallel=2, micro_batch=2)),
    "joint in the middle": (FIRST, Plan(pipeline_parallel=3, micro_batch=2, layers_per_stage=(1, 4, 1))),
    "encoder over two stages": (UNTIED, Plan(pipeline_parallel=3, layers_per_stage=(1, 2, 3), data_parallel=2, zero_stage=2)),
    "joint on the first": (UNTIED, Plan(pipeline_parallel=3, micro_batch=2, layers_per_stage=(4, 1, 1), recompute="full")),
    "tp": (LAST, Plan(pipeline_parallel=2, tensor_parallel=2, micro_batch=2)),
    "sp, full": (FIRST, Plan(pipeline_parallel=3, tensor_parallel=2, sequence_parallel=True, recompute="full")),
    "gpipe": (FIRST, Plan(pipeline_parallel=3, micro_batch=2, schedule="gpipe", recompute="selective")),
    "deep": (UNTIED, replace(INTERLEAVED, tensor_parallel=2)),
    "shared rank": (LAST, replace(INTERLEAVED, virtual_pipeline=2)),  # the decoder begins on the rank that holds the first stage
    "zero bubble": (LAST, Plan(pipeline_parallel=4, schedule="zero_bubble_h2")),
    "zero 3": (FIRST, Plan(pipeline_parallel=2, data_parallel=2, zero_stage=3, micro_batch=2)),
    "breadth first": (FIRST, replace(INTERLEAVED, schedule="breadth_first")),
}


@pytest.mark.parametrize(
    "case",
    [
        tiered((name, number), f"{name} {number}", slow=place > 2 or number != place)
        for place, name in enumerate(CASES)
        for number in range(4)
    ],
)
def test_translators_keep_the_contract_however_a_pipeline_cuts_them(case: tuple[str, int]) -> None:
    model, plan = CASES[case[0]]
    assert not reds(scenario(model=model, batch=BATCH, stack=STACKS[case[1]]), plan)


def test_a_boundary_behind_the_encoder_carries_the_memory_beside_the_stream() -> None:
    """In either direction: the source's tokens up to the decoder, then those of both."""
    stages, itemsize = stages_of(scenario(model=FIRST, batch=BATCH), Plan(pipeline_parallel=6, micro_batch=2)), 2
    source, target = (2 * length * FIRST.hidden_size * itemsize for length in (4, 8))
    sent = {phase: [_sent(stages, stage, phase) for stage in range(6)] for phase in (Phase.F, Phase.B)}
    assert sent[Phase.F] == [source, source, source, target + source, target + source, 0]
    assert sent[Phase.B] == [0, source, source, source, target + source, target + source]


def _sent(stages: Stages, stage: int, phase: Phase) -> int:
    tasks = stages.workload.pass_of(stage, phase).epilogue
    return sum(int(message_bytes(task, stages.workload.sizes)[0]) for task in tasks if isinstance(task, Send))


@pytest.mark.parametrize(
    ("layers", "tables"), [((3, 3), [1, 1]), ((2, 4), [1, 1]), ((4, 2), [1, 1]), ((2, 2, 2), [1, 1, 1]), ((1, 1, 4), [1, 0, 1])]
)
def test_a_rank_holds_a_shared_table_once(layers: tuple[int, ...], tables: list[int]) -> None:
    """Where the source is embedded, where the target is, and where logits are made, as far as these are different ranks."""
    plan = Plan(pipeline_parallel=len(layers), layers_per_stage=layers)
    workload = stages_of(scenario(model=replace(FIRST, positions="sinusoidal"), batch=BATCH), plan).workload
    held = [workload.copies_on(rank) for rank in range(len(layers))]
    owned = {name: any(weight.name == "word.weight" for weight in each.own_weights) for name, each in workload.step.segments.items()}
    assert [sum(owned[name] * int(copies) for name, copies in each.items()) for each in held] == tables


@pytest.mark.parametrize("name", CASES)
def test_no_plan_takes_less_than_the_search_supposes(name: str) -> None:
    stages = stages_of(scenario(model=CASES[name][0], batch=BATCH), CASES[name][1])
    assert 0 < lower_bound(stages)[0] <= timeline(stages).step_ps


def test_plans_priced_together_each_have_their_own_tables() -> None:
    """The decoder begins on the first rank, on its own or on the last."""
    toy = scenario(model=FIRST, batch=BATCH)
    plans = [Plan(pipeline_parallel=3, layers_per_stage=each, micro_batch=2) for each in ((4, 1, 1), (2, 2, 2), (1, 1, 4))]
    together = estimates(toy, plans)
    assert together.step_s.tolist() == [estimate(toy, plan).step_s for plan in plans]
    assert together.peak_bytes.tolist() == [estimate(toy, plan).peak_bytes for plan in plans]


@pytest.mark.parametrize(
    ("schedule", "chunks", "said"), [("zero_bubble_v", 2, "follow one another on one rank"), ("dual_pipe", 1, "the model twice")]
)
def test_schedules_that_lay_stages_together_are_refused(schedule: str, chunks: int, said: str) -> None:
    plan = Plan(pipeline_parallel=2, virtual_pipeline=chunks, schedule=schedule)
    found = [str(each) for each in faults(plan, FIRST, BATCH, 2, stack=STACK)]
    assert any(said in each and "read what an encoder makes. Legal: " in each for each in found)
    legal = next(each for each in found if said in each).partition("Legal: ")[2].split(", ")
    assert not any(faults(replace(plan, schedule=name), FIRST, replace(BATCH, global_batch=16), 2, stack=STACK) for name in legal)
