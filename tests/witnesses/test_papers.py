"""Formulas that papers print, against what the Step gives, as integers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from parsim.cluster.link import CollectiveLaw
from parsim.cost import count
from parsim.cost.buckets import elements
from parsim.cost.shape import StageKind
from parsim.cost.sizes import Ints, Sizes, sizes_of
from parsim.estimator import pipeline
from parsim.estimator.estimate import estimate, stages_of
from parsim.estimator.passes import PassTime, Stages
from parsim.model.parameters import num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.schedules.phase import Phase
from parsim.step.lower import lower
from parsim.step.step import Segment
from parsim.step.structure import Structure
from parsim.step.task import Bucket, Compute
from schedule_orders import states_of
from support import CLUSTER, DTYPES, GPT, NODE, STACK, scenario

MODELS = {  # Brown et al. 2020, table 2.1; Korthikanti et al. 2022, table 3: L, h, a, v and the published size in billions
    "gpt3-6.7b": (32, 4096, 32, 50257, 6.7),
    "gpt3-175b": (96, 12288, 96, 50257, 175),
    "megatron-22b": (48, 6144, 64, 51200, 22),
    "megatron-530b": (105, 20480, 128, 51200, 530),
    "megatron-1t": (128, 25600, 160, 51200, 1008),
}


def gpt(name: str) -> TransformerSpec:
    layers, hidden, heads, vocabulary, _ = MODELS[name]
    return TransformerSpec(
        name=name, num_layers=layers, hidden_size=hidden, ffn_hidden_size=4 * hidden, num_heads=heads, num_kv_heads=heads,
        head_dim=hidden // heads, vocab_size=vocabulary, max_positions=2048,
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_12_l_h_squared_plus_13_l_h_plus_the_embeddings(name: str) -> None:
    layers, hidden, _, vocabulary, billions = MODELS[name]
    expected = 12 * layers * hidden**2 + 13 * layers * hidden + (vocabulary + 2048) * hidden  # Narayanan et al. 2021, Eq. 2
    assert num_parameters(gpt(name)) == expected + 2 * hidden  # the final norm, which Eq. 2 leaves out
    assert num_parameters(gpt(name)) / 1e9 == pytest.approx(billions, rel=0.02)  # as the papers round


def test_the_weights_of_the_step_are_the_parameters_of_the_model() -> None:
    model = replace(GPT, vocab_size=64)  # no padding
    workload = stages_of(scenario(model=model), Plan()).workload
    update = next(task for task in workload.step.finish if task.name == "update")
    assert isinstance(update, Compute) and isinstance(update.inputs[0], Bucket)
    assert int(elements(update.inputs[0], workload.sizes, workload.copies_on(0))[0]) == num_parameters(model)


def saved_bytes(tensor_parallel: int, sequence_parallel: bool, recompute: str) -> int:
    plan = Plan(tensor_parallel=tensor_parallel, sequence_parallel=sequence_parallel, recompute=recompute, micro_batch=B)
    structure = Structure.of(LAYER_MODEL, BATCH, plan, STACK)
    sizes = sizes_of(LAYER_MODEL, BATCH, Plans.of([plan]), STACK, DTYPES)
    return sum(int(sizes.num_bytes(operand)[0]) for operand in lower(structure).segments["layer"].kept[Phase.F])


S, B, H, A = 64, 2, 96, 8
LAYER_MODEL = TransformerSpec(
    name="layer",
    num_layers=1,
    hidden_size=H,
    ffn_hidden_size=4 * H,
    num_heads=A,
    num_kv_heads=A,
    head_dim=H // A,
    vocab_size=64,
    max_positions=S,
)
BATCH = Batch(B, S, "fp16")


@pytest.mark.parametrize("t", [1, 2, 4, 8])
def test_activations_of_a_layer_are_those_of_korthikanti_2022(t: int) -> None:
    """arXiv:2205.05198, table 2: activation bytes of a transformer layer."""
    scores = 5 * A * S * S * B
    if t == 1:
        assert saved_bytes(1, False, "none") == 34 * S * B * H + scores  # Eq. 1
        assert saved_bytes(1, False, "selective") == 34 * S * B * H
    else:
        assert saved_bytes(t, False, "none") == 10 * S * B * H + 24 * S * B * H // t + scores // t  # Eq. 2
        assert saved_bytes(t, True, "none") == (34 * S * B * H + scores) // t  # Eq. 4
        assert saved_bytes(t, False, "selective") == 10 * S * B * H + 24 * S * B * H // t
        assert saved_bytes(t, True, "selective") == 34 * S * B * H // t  # Eq. 6
        assert saved_bytes(t, True, "full") == 2 * S * B * H // t
    assert saved_bytes(t, False, "full") == 2 * S * B * H


def gemm_flops(segment: Segment, sizes: Sizes) -> int:
    tasks = (task for phase in (Phase.F, Phase.B) for task in segment.phases[phase])
    return sum(int(count.flops(task, sizes)[0]) for task in tasks if isinstance(task, Compute) and task.kernel == "einsum")


@pytest.mark.parametrize("name", MODELS)
def test_matmul_flops_with_full_recomputation_are_narayanan_2021_eq_3(name: str) -> None:
    """96 B s l h^2 (1 + s / 6h + V / 16 l h), arXiv:2104.04473: full recomputation runs the whole forward again."""
    layers, hidden, _, _, _ = MODELS[name]
    batch, sequence = 4, 2048
    workload = stages_of(scenario(model=gpt(name), batch=Batch(batch, sequence)), Plan(micro_batch=batch, recompute="full")).workload
    sizes, segments = workload.sizes, workload.step.segments
    vocabulary = int(sizes.dims["V"][0])
    expected = (
        96 * batch * sequence * layers * hidden**2 + 16 * batch * sequence**2 * layers * hidden + 6 * batch * sequence * hidden * vocabulary
    )
    assert layers * gemm_flops(segments["layer"], sizes) + gemm_flops(segments["head"], sizes) == expected


@pytest.mark.parametrize("dp", [2, 4])
def test_zero3_moves_exactly_one_and_a_half_times_the_bytes_of_data_parallel(dp: int) -> None:
    """Rajbhandari et al. 2020, section 7.2: 3 psi against 2 psi; with one type for parameters and gradients, and nothing to pad."""
    stack = replace(STACK, gradient_dtype="compute")
    model, batch = replace(GPT, vocab_size=64, tied_embedding=False), Batch(dp, 8)
    plain, sharded = (estimate(scenario(model=model, batch=batch, stack=stack), Plan(data_parallel=dp, zero_stage=z)) for z in (0, 3))
    norm = 4  # ZeRO also sums the gradient norm over dp: rank 0 holds the only chunk, and sends it once as a float32
    assert 2 * (sharded.sent_bytes[0]["dp"] - norm) == 3 * plain.sent_bytes[0]["dp"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_divides_states_by_the_replicas(stage: int) -> None:
    """Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter, of which stage 1, 2, 3 divide 12, 14, 16 by dp."""
    stack = replace(STACK, gradient_dtype="compute")
    model = replace(GPT, vocab_size=64, tied_embedding=False)
    memory = estimate(scenario(model=model, batch=Batch(4, 8), stack=stack), Plan(data_parallel=4, zero_stage=stage)).memory_bytes[0]
    psi = num_parameters(model)
    shared = {"parameters": stage >= 3, "gradients": stage >= 2, "optimizer": True}
    for part, each in {"parameters": 2, "gradients": 2, "optimizer": 12}.items():
        assert memory[part] == (each * psi // 4 if shared[part] else each * psi)


class Flat(Stages, frozen=True, kw_only=True):
    """Equal stages of given picoseconds, forward, backward and for a message."""

    given: tuple[int, int, int]

    def time(self, kind: StageKind, phase: Phase, *, closes: bool = False) -> PassTime:
        ps = self.members[kind].plans * 0 + self.given[self.workload.phases.index(phase)]
        return PassTime(ps, ps, ps)

    def send_ps(self, kind: StageKind, phase: Phase) -> Ints:
        return self.members[kind].plans * 0 + self.given[2]


def flat_pipeline_ps(p: int, m: int, chunks: int, *given: int) -> int:
    """The end of the last pass of equal stages of these picoseconds."""
    schedule = "1f1b" if chunks == 1 else "interleaved_1f1b"
    plan = Plan(pipeline_parallel=p, virtual_pipeline=chunks, schedule=schedule)
    found = stages_of(scenario(model=replace(GPT, num_layers=p * chunks), batch=Batch(m, 8)), plan)
    stages = Flat(found.workload, found.measures, found.members, found.num_classes, given=given)
    return int(pipeline.rank_ends([stages])[0].ends.max())


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 50), st.integers(1, 50), st.data())
def test_1f1b_with_messages_of_cost_c_has_its_closed_form(p: int, rounds: int, tf: int, tb: int, data: st.DataObject) -> None:
    """T = (m + p - 1)(tf + tb) + c [2 (p - 1) m / p + 2 (p - 2)], exact for c <= tf + tb, p >= 2, p divides m (derived for eager sends)."""
    m, c = rounds * p, data.draw(st.integers(0, tf + tb))
    step = flat_pipeline_ps(p, m, 1, tf, tb, c)
    assert step == (m + p - 1) * (tf + tb) + c * (2 * (p - 1) * rounds + 2 * (p - 2))


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 12), (8, 2, 16), (8, 4, 32)])
def test_interleaving_divides_the_bubble_by_the_chunks(p: int, v: int, m: int) -> None:
    """Bubble over ideal time is (p - 1) / (v m): Narayanan et al. 2021, section 2.2.2."""
    tf, tb = 3, 6
    ideal = m * v * (tf + tb)
    step = flat_pipeline_ps(p, m, v, tf, tb, 0)
    assert (step - ideal) * v * m == (p - 1) * ideal


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("m", [1, 2, 4, 16])
def test_1f1b_keeps_at_most_p_minus_rank_micro_batches_in_flight(p: int, m: int) -> None:
    for rank, states in enumerate(states_of("1f1b", p, 1, m)):
        assert max(in_flight[0] for in_flight, *_ in states) == min(p - rank, m)


@pytest.mark.parametrize(("optimizer", "each"), [("adamw", 12), ("adamw_8bit", 6), ("paged_adamw", 4), ("sgd_momentum", 8)])
def test_an_optimizer_keeps_its_states_and_a_float32_copy_of_half_precision_weights(optimizer: str, each: int) -> None:
    """4 bytes of master weight, and 4 + 4, 1 + 1 or 4 of states: Rajbhandari et al. 2020, section 3.1; Dettmers et al. 2022."""
    model = replace(GPT, vocab_size=64)
    memory = estimate(scenario(model=model), Plan(optimizer=optimizer)).memory_bytes[0]
    assert memory["optimizer"] == each * num_parameters(model)


def test_rank_order_puts_the_axis_that_comes_first_inside_the_node() -> None:
    """16 devices on nodes of 4: tensor parallelism over neighbours stays in a node, behind dp it crosses nodes and waits for NICs."""
    cluster = replace(CLUSTER, node=replace(NODE, law=CollectiveLaw(0.0, 0.0, 1e10, 1e10, 0.0)))  # a node much faster than its NICs
    chosen, plan = scenario(batch=Batch(16, 8), cluster=cluster), Plan(tensor_parallel=4, data_parallel=4)
    near, far = (estimate(chosen, replace(plan, rank_order=order)) for order in ("tp-dp-pp", "dp-tp-pp"))
    assert near.breakdown_s["exposed_tp"] < far.breakdown_s["exposed_tp"]
    assert near.breakdown_s["exposed_dp"] > far.breakdown_s["exposed_dp"]
    ring = replace(chosen, stack=replace(chosen.stack, collectives={"all_reduce": "ring"}))  # left alone, a group chooses by its span
    near, far = (estimate(ring, replace(plan, rank_order=order)) for order in ("tp-dp-pp", "dp-tp-pp"))
    assert near.sent_bytes == far.sent_bytes
