"""The second view of the mesh: expert axes number the ranks of a stage anew, and a weight is summed over those that replicate it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from made_up import mixture, registered
from parsim.cost.buckets import elements
from parsim.cost.sizes import sizes_of
from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.parallel.group import Group
from parsim.parallel.legality import faults
from parsim.parallel.mesh import Mesh, fastest_first
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.scenario import Scenario
from parsim.schedules.phase import Phase
from parsim.step import lower
from parsim.step.structure import Structure
from parsim.step.task import COMPUTE_STREAM, Bucket, Collective
from parsim.verify import verify_plan
from support import DTYPES, MOE, STACK, STACKS, enough, scenario, tiered

PLANS: dict[str, dict[str, object]] = {
    "dp": {"data_parallel": 2},
    "dp-rest": {"data_parallel": 4},
    "tp": {"data_parallel": 2, "tensor_parallel": 2},
    "sp": {"data_parallel": 2, "tensor_parallel": 2, "sequence_parallel": True},
    "order": {"data_parallel": 2, "tensor_parallel": 2, "rank_order": "dp-tp-pp"},
    "pp": {"data_parallel": 2, "pipeline_parallel": 2},
    "zbh1": {"data_parallel": 2, "pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
    "full": {"data_parallel": 4, "recompute": "full"},
    "zero1": {"data_parallel": 4, "zero_stage": 1},
    "zero2": {"data_parallel": 4, "zero_stage": 2},
    "zero3": {"data_parallel": 4, "zero_stage": 3},
    "kept": {"data_parallel": 4, "zero_stage": 3, "reshard_after_forward": False},
    "zero3-sp": {"data_parallel": 4, "tensor_parallel": 2, "sequence_parallel": True, "zero_stage": 3},
    "zero2-alone": {"data_parallel": 2, "zero_stage": 2},  # of the weights of experts, which nobody else holds
    "zero3-alone": {"data_parallel": 2, "zero_stage": 3},
    "hsdp": {"data_parallel": 4, "zero_stage": 3, "zero_group": 2},
    "offload": {"data_parallel": 4, "zero_stage": 1, "offload_optimizer": True},
}
EP, ETP = {"expert_parallel": 2}, {"expert_tensor_parallel": 2}
SPLITS: dict[str, dict[str, object]] = {"ep": {**EP}, "etp": {**ETP}, "ep-etp": {**EP, **ETP}}
TWO_RANKS = ("dp", "pp", "zbh1", "hsdp", "zero2-alone", "zero3-alone")  # a stage, or a group of it
CASES = [(name, split, stack) for name in PLANS for split in SPLITS for stack in (0, 1) if split != "ep-etp" or name not in TWO_RANKS]
USUAL = {(name, list(SPLITS)[index % 2 if name in TWO_RANKS else 2], index % 2) for index, name in enumerate(PLANS)}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with registered(tmp_path, monkeypatch) as name:
        yield name


def experts(package: str, plan: Plan, stack: int = 0) -> Scenario:
    return scenario(model=mixture(package), batch=Batch(4 * plan.data_parallel, 4), stack=STACKS[stack])


@pytest.mark.parametrize("case", [tiered(case, "-".join(map(str, case)), slow=case not in USUAL) for case in CASES])
def test_experts_keep_the_contract_on_every_rank(case: tuple[str, str, int]) -> None:
    name, split, stack = case
    plan = Plan(**PLANS[name], **SPLITS[split])  # type: ignore[arg-type]
    toy = scenario(model=MOE, batch=enough(plan, 4), stack=STACKS[stack])
    assert not faults(plan, toy.model, toy.batch, plan.num_devices)
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_the_ranks_of_a_stage_are_numbered_anew_in_rank_order_with_the_nearest_axis_fastest() -> None:
    degrees = {"pp": 2, "dp_replicate": 1, "edp": 2, "dp": 4, "etp": 2, "ep": 2, "tp": 2}
    for order, index in (("tp-dp-pp", lambda at: at["tp"] + 2 * at["dp"]), ("dp-tp-pp", lambda at: at["dp"] + 4 * at["tp"])):
        mesh = Mesh(degrees, fastest_first(order))
        for rank in range(16):
            at = mesh.coordinates(rank)
            assert rank == 8 * at["pp"] + 2 * at["dp"] + at["tp"] == mesh.rank_at(at)
            assert index(at) == at["etp"] + 2 * at["ep"] + 4 * at["edp"]
            assert all(
                mesh.members(each, Group(("ep",))) == mesh.members(rank, Group(("ep",))) for each in mesh.members(rank, Group(("ep",)))
            )
    mesh = Mesh(degrees, fastest_first("tp-dp-pp"))
    assert mesh.members(9, Group(("ep",))) == (9, 11) and mesh.members(9, Group(("edp",))) == (9, 13)
    assert mesh.members(9, Group(("etp",))) == mesh.members(9, Group(("tp",))) == (8, 9)


def test_a_group_of_experts_lies_on_nodes_as_its_view_says(package: str) -> None:
    plan = Plan(data_parallel=8, tensor_parallel=2, pipeline_parallel=2, expert_parallel=4, expert_tensor_parallel=2)
    sizes = sizes_of(mixture(package), Batch(16, 4), Plans.of([plan, replace(plan, rank_order="pp-tp-dp")]), STACK, DTYPES)
    strides = {axis: sizes.stride(Group((axis,))).tolist() for axis in ("etp", "ep", "edp", "tp", "dp")}
    assert {axis: first for axis, (first, _) in strides.items()} == {"etp": 1, "ep": 2, "edp": 8, "tp": 1, "dp": 2}
    assert sizes.num_devices.tolist() == [32, 32] and plan.num_devices == 32


def test_tokens_go_to_experts_by_all_to_all_and_a_tensor_parallel_expert_gathers_them_behind_it(package: str) -> None:
    plan = Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, expert_parallel=2, expert_tensor_parallel=2)
    toy = experts(package, plan)
    layer = lower.lower(Structure.of(toy.model, toy.batch, plan, toy.stack)).segments["layer"]
    there_and_back = ["ep all_to_all", "etp all_gather", "etp reduce_scatter", "ep all_to_all"]
    for tasks in layer.phases.values():
        moves = [f"{t.group.name} {t.operation}" for t in tasks if isinstance(t, Collective) and t.group.name in ("ep", "etp")]
        assert moves in (there_and_back, [])


def test_a_stack_that_overlaps_tensor_parallelism_leaves_the_collectives_of_experts_where_they_stand(package: str) -> None:
    plan = Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, expert_parallel=2, expert_tensor_parallel=2)
    toy = experts(package, plan)
    layer = lower.lower(Structure.of(toy.model, toy.batch, plan, replace(toy.stack, tensor_overlap=True))).segments["layer"]
    streams = {(t.group.name, t.stream) for t in layer.phases[Phase.B] if isinstance(t, Collective)}
    assert streams == {("ep", COMPUTE_STREAM), ("etp", COMPUTE_STREAM)}
    assert Structure.of(toy.model, toy.batch, plan, replace(toy.stack, tensor_overlap=True)).axes_beside == ("tp",)


def test_an_exchange_sends_half_of_the_rows_and_experts_are_summed_over_their_own_replicas(package: str) -> None:
    plan = Plan(data_parallel=4, expert_parallel=2)
    sent = estimate(experts(package, plan), plan).sent_bytes[0]
    rows = 4 * 4 * 6 * 2  # of 4 experts: tokens of a sequence x hidden x bf16
    assert sent["ep"] == 4 * 2 * 4 * rows // 2  # micro_batches x layers x there and back, twice
    weights = 2 * 2 * 2 * 6 * 8  # layers x experts of a rank x two matrices
    assert sent["edp"] == weights * 4  # float32, once round a ring of two


def test_zero_shards_a_weight_over_those_that_replicate_it(package: str) -> None:
    plan = Plan(data_parallel=4, zero_stage=3, expert_parallel=2)
    toy = experts(package, plan)
    step = lower.lower(Structure.of(toy.model, toy.batch, plan, toy.stack))
    groups = {weight.name: weight.group.name for weight in step.segments["layer"].weights}
    assert groups == {"spread.weight": "dp", "combine.weight": "dp", "up.weight": "edp", "down.weight": "edp"}
    shards = {w.name: w for w in step.segments["layer"].weights}
    bucket = Bucket("parameters", "shard", "compute", (("layer", shards["up.weight"]), ("layer", shards["spread.weight"])))
    sizes = sizes_of(toy.model, toy.batch, Plans.of([plan]), toy.stack, DTYPES)
    assert int(elements(bucket, sizes)[0]) == 2 * 6 * 8 // 2 + 4 * 6 // 4


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
def test_processes_do_as_lockstep_does_bit_for_bit(package: str) -> None:
    plan = Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, zero_stage=1, expert_parallel=2, expert_tensor_parallel=2)
    toy = experts(package, plan, 1)
    toy = replace(toy, model=replace(toy.model, bias=False))  # type: ignore[call-arg]
    apart, together = (execute(toy, plan, transport=way, deadline_s=120.0) for way in ("shared_memory", "lockstep"))  # type: ignore[arg-type]
    assert (apart.losses, apart.end_ps) == (together.losses, together.end_ps)
    for mine, theirs in zip(apart.weights, together.weights, strict=True):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            Plan(data_parallel=2, expert_parallel=4),
            "expert_parallel = 4 does not divide the 2 ranks of a stage. Legal products: 1, 2",
        ),
        (Plan(data_parallel=2, dimensions=(("expert_replicas", 2),)), "unknown dimension 'expert_replicas'"),
        (
            Plan(data_parallel=2, tensor_parallel=2, pipeline_parallel=2, rank_order="tp-pp-dp", expert_parallel=2),
            "rank_order = 'tp-pp-dp' puts pp between the ranks of a stage",
        ),
        (Plan(data_parallel=2, gradient_sync="master", expert_parallel=2), "gradient_sync = master updates all weights on one rank"),
    ],
)
def test_what_the_view_cannot_hold_is_a_fault(plan: Plan, said: str, package: str) -> None:
    (fault,) = faults(plan, mixture(package), Batch(8, 4), plan.num_devices)
    assert str(fault).startswith(said)
