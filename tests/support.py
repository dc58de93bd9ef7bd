"""Small scenarios for tests: a toy cluster with round figures, and a GPT small enough to execute in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from parsim import schedules
from parsim.cluster.accelerator import Accelerator, AttentionLaw, ElementwiseLaw, Law
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import CollectiveLaw, Link
from parsim.cost import shape
from parsim.errors import PlanError
from parsim.estimator import worst
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.dimensions import split
from parsim.parallel.legality import faults, faults_of
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.planner import canonical
from parsim.scenario import Scenario
from parsim.scenario.rows import read
from parsim.schedules import states
from parsim.step import lower, pairs, program
from parsim.verify import verify_plan

TOY = Accelerator(
    "toy",
    {"bf16": 1e9, "fp16": 1e9, "fp32": 5e8, "fp8": 2e9, "fp8_block": 2e9, "mxfp8": 2e9, "nvfp4": 4e9, "mxfp4": 4e9},
    1e9,
    10**9,
    8,
    Law(0.8, 0.8, 3e-6, 2.0),
    AttentionLaw(((128, 0.5),), 1e-6, 0.0, 0.7, 0.8),
    ElementwiseLaw(0.8, 1e-6),
    beside=dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "shift"), 0.125),
)
LINK = Link("toy link", 1e8, 1e-6, "made up")
NODE = Node("toy node", TOY, 4, LINK, CollectiveLaw(1e-6, 1e-6, 1e8, 1e8, 0.0), LINK, 4, "switched_node")
FREE_NODE = replace(NODE, accelerator=replace(TOY, beside={}))  # whose collectives cost kernels nothing
FABRIC = Fabric("toy fabric", Link("toy nic", 5e7, 1e-6, "made up"), 4, "rail_optimised_fat_tree", 0.9, 1e-6, 1e-6, 1e-6, 0.0, 1e-6, 0.8)
CLUSTER = Cluster(NODE, 16, FABRIC)
DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1, **{name: read("dtypes", name) for name in ("fp8_block", "mxfp8", "nvfp4", "mxfp4")}}
GPT = TransformerSpec(
    name="toy gpt",
    num_layers=4,
    hidden_size=12,
    ffn_hidden_size=16,
    num_heads=4,
    num_kv_heads=4,
    head_dim=4,
    vocab_size=60,
    max_positions=8,
)
# Two of four experts a token, behind a dense layer, beside one that all tokens pass.
_LLAMA: dict[str, Any] = {"activation": "swiglu", "norm": "rms_norm", "positions": "rotary", **dict.fromkeys(("bias", "qkv_bias"), False)}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "experts_per_token": 2, "expert_ffn_hidden_size": 8}
_BESIDE: dict[str, Any] = {"shared_ffn_hidden_size": 4, "num_dense_layers": 1, "qk_norm": True, "num_kv_heads": 2}
MOE = replace(GPT, name="toy moe", num_layers=2, dropout=0.0, **_LLAMA, **_EXPERTS, **_BESIDE)
STACK = Stack("toy stack", vocab_multiple=8)


class Toy(Scenario, frozen=True):
    """A scenario whose plans may leave devices idle, and whose batch says itself how devices multiply, whatever its cluster."""

    def misfits(self) -> list[str]:
        return Scenario.misfits(replace(self, batch=replace(self.batch, one_layout=False)))

    def legal_plan(self, plan: Plan | str, where: str = "plan") -> Plan:
        chosen = self.plan(plan) if isinstance(plan, str) else plan
        if wrong := faults_of(chosen, replace(self.facts, num_devices=None)):
            raise PlanError("\n".join(map(str, wrong)), where)
        return chosen


def idle(scenario: Scenario) -> Toy:
    """The scenario, of which plans may leave devices idle."""
    return Toy(*astuple(scenario))


def scenario(
    *,
    model: ModelSpec = GPT,
    batch: Batch | None = None,
    stack: Stack = STACK,
    cluster: Cluster = CLUSTER,
    plans: dict[str, Plan] | None = None,
) -> Scenario:
    """A scenario of the toy cluster; 8 sequences of 8 tokens a step unless told otherwise."""
    batch = batch or Batch(8, 8, "bf16")
    return Toy("toy", model, cluster, batch, stack, plans or {}, {}, {}, 0, "toy", DTYPES)


def reds(toy: Scenario, plan: Plan) -> set[str]:
    """The quantities in which prediction and execution of a legal plan differ."""
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


# Every feature that the exactness contract names, as what it changes in a plan, a model or a stack.
FEATURES: dict[str, dict[str, object]] = {
    "dp": {"data_parallel": 2},
    "tp": {"tensor_parallel": 2},
    "sp": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp": {"pipeline_parallel": 2},
    "vpp": {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"},
    "zbh1": {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
    "selective": {"recompute": "selective"},
    "full": {"recompute": "full"},
    "uneven": {"pipeline_parallel": 2},
    "gqa": {},
    "untied": {},
    "master": {"data_parallel": 2, "gradient_sync": "master"},
    "sgd": {"optimizer": "sgd_momentum"},
    "adam8": {"optimizer": "adamw_8bit"},
    "zero1": {"data_parallel": 3, "zero_stage": 1},
    "zero2": {"data_parallel": 3, "zero_stage": 2},
    "zero3": {"data_parallel": 3, "zero_stage": 3},
    "hsdp1": {"data_parallel": 4, "zero_stage": 1, "zero_group": 2},
    "hsdp3": {"data_parallel": 4, "zero_stage": 3, "zero_group": 2},
    "kept": {"data_parallel": 3, "zero_stage": 3, "reshard_after_forward": False},
    "every": {"recompute": "full", "recompute_every": 2},
    "ops": {"recompute_ops": ("norm1", "norm2", "up_gemm", "up_bias", "activation")},
    "offload": {"offload_optimizer": True},
    "paged": {"optimizer": "paged_adamw_8bit"},
    "fp8": {},
}
_ZERO = ("zero1", "zero2", "zero3", "hsdp1", "hsdp3", "kept")
_ONE_OF = (
    ("sgd", "adam8", "paged"),
    ("offload", "paged"),
    ("selective", "full", "every"),
    ("full", "ops"),
    ("every", "ops"),
    ("master", *_ZERO),
    ("dp", *_ZERO),
    ("vpp", "zbh1"),
)
STACKS = (
    STACK,
    replace(STACK, tensor_overlap=True, gradient_overlap=True, scatter_gather=True, fusions=("bias", "gelu", "dropout_add")),
    replace(STACK, attention="flash", gradient_dtype="compute", fusions=("gradient_accumulation",), gradient_overlap=True),
    replace(STACK, attention="unfused", tensor_overlap=True, host_launch_s=1e-5),
)


def forget_steps() -> None:
    """What is lowered is cached, by structure, and how pipelines lie, by shape."""
    steps = (
        lower.lower,
        lower._segment,
        lower._of_loads,
        lower._blocks,
        lower._placement,
        lower._calls,
        program.receive_tasks,
        program.send_tasks,
        program.section,
    )
    steps = (*steps, pairs.hides_exchanges, pairs._receive, pairs._one, pairs._woven)
    for cached in (
        *steps,
        shape.shape_of,
        canonical._actions,
        worst.worst_ranks,
        worst.worst_states,
        schedules.columns,
        states._state_columns,
    ):
        cached.cache_clear()


def tiered(value: object, id: str, *, slow: bool) -> ParameterSet:
    """A parameter of a test, in the slow tier or in the default one."""
    return pytest.param(value, id=id, marks=[pytest.mark.slow] if slow else [])


def every_other(rows: Iterable[object], columns: Iterable[object], id: Callable[[Any, Any], str], step: int = 2) -> list[ParameterSet]:
    """Each row with each column, as one parameter: every other in the default tier, as on a chessboard, the rest in the slow one.

    Of a longer step fewer diagonals; up to the number of rows each column is met, and the other way round.
    """
    each = list(columns)
    return [tiered((row, one), id(row, one), slow=(i + j) % step > 0) for i, row in enumerate(rows) for j, one in enumerate(each)]


def examples(default: int, slow: int) -> pytest.MarkDecorator:
    """Parameters `num_examples` of a test for `hold`: a few examples in the default tier, many in the slow one."""
    return pytest.mark.parametrize("num_examples", [tiered(default, str(default), slow=False), tiered(slow, str(slow), slow=True)])


def hold(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], num_examples: int) -> None:
    """Run a check on so many examples that hypothesis draws."""
    settings(max_examples=num_examples)(given(strategy)(check))()


def enough(plan: Plan, sequence_length: int = 8, most: int = 1024) -> Batch:
    """Sequences that show all a plan does: a micro_batch that opens gradients, one that adds to them; a pipeline, twice full.

    No more than `most`, for plans whose micro_batch is all that there is.
    """
    return Batch(min(most, plan.micro_batch * split(plan, "B") * 2 * plan.pipeline_parallel), sequence_length)


def feature_sets(most: int) -> Iterator[tuple[str, ...]]:
    """All legal sets of at most so many features."""
    for size in range(1, most + 1):
        for names in combinations(FEATURES, size):
            if all(len(set(choice) & set(names)) <= 1 for choice in _ONE_OF):
                yield names


def covering(most: int) -> frozenset[tuple[str, ...]]:
    """Of these sets so few that each legal pair of features is in one; of those with a pair, the one with most pairs that no other has."""
    pairs = [names for names in feature_sets(2) if len(names) == 2]
    left, found, holders = set(pairs), set[tuple[str, ...]](), dict[tuple[str, ...], list[tuple[str, ...]]]()
    for names in feature_sets(most):
        for pair in combinations(names, 2):
            holders.setdefault(pair, []).append(names)
    for pair in pairs:
        if pair in left:
            found.add(max(holders[pair], key=lambda names: len(left.intersection(combinations(names, 2)))))
            left.difference_update(*(combinations(names, 2) for names in found))
    return frozenset(found)


def with_features(names: tuple[str, ...], stack: Stack) -> tuple[Scenario, Plan]:
    """The toy GPT under a plan that has these features."""
    fields: dict[str, object] = {}
    for name in names:
        fields.update(FEATURES[name])
    if "vpp" in names:
        fields.update(FEATURES["vpp"])
    plan = Plan(**fields)  # type: ignore[arg-type]
    model = replace(GPT, num_kv_heads=2 if "gqa" in names else 4, tied_embedding="untied" not in names)
    if "uneven" in names:
        layers = (2, 1, 1, 1) if plan.num_stages == 4 else (3, 1)
        model, plan = replace(model, num_layers=sum(layers)), replace(plan, layers_per_stage=layers)
    batch = replace(enough(plan), dtype="fp8_current" if "fp8" in names else "bf16")
    return scenario(model=model, batch=batch, stack=stack), plan
