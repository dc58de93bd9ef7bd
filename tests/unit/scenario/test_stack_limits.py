"""A plan that its stack cannot run is told with the reason and a stack that can, and left out of a search only where asked."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim import catalog
from parsim.parallel.plan import Plan, Stack
from parsim.parallel.stack_limits import LIMITS, reasons
from parsim.planner import plan as ranked
from parsim.scenario import Scenario, from_mapping
from parsim.scenario.rows import read
from support import GPT


@pytest.mark.parametrize(
    ("stack", "plan", "said"),
    [
        # DeepSpeed#823: an assertion of deepspeed/runtime/pipe/engine.py.
        ("megatron-deepspeed-2022", {"zero_stage": 2, "pipeline_parallel": 2}, "cannot shard gradients or parameters under a pipeline"),
        ("megatron-deepspeed-2022", {"zero_stage": 3, "pipeline_parallel": 2}, "cannot shard gradients or parameters under a pipeline"),
        ("megatron-deepspeed-2022", {"zero_stage": 1, "pipeline_parallel": 2}, ""),
        ("megatron-deepspeed-2022", {"zero_stage": 2}, ""),
        (
            "megatron-deepspeed-2021",
            {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"},
            "cannot interleave chunks",
        ),
        # megatron/training/arguments.py: the layers of a stage are divisible by its chunks; 32 layers are 16 chunks of 2.
        ("megatron-core", {"pipeline_parallel": 4, "virtual_pipeline": 3, "schedule": "interleaved_1f1b"}, "unequal numbers of layers"),
        ("megatron-core", {"pipeline_parallel": 4, "virtual_pipeline": 4, "schedule": "interleaved_1f1b"}, ""),
        ("megatron-core", {"pipeline_parallel": 5}, ""),
        ("megatron-2022", {"pipeline_parallel": 5}, "unequal numbers of layers"),
        ("megatron-2022", {"pipeline_parallel": 2, "layers_per_stage": (15, 17)}, "unequal numbers of layers"),
        (
            "megatron-2022",
            {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"},
            "cannot interleave a pipeline of 2 ranks",
        ),
        ("megatron-2022", {"zero_stage": 1}, ""),
        ("megatron-2022", {"zero_stage": 3}, "cannot shard gradients or parameters (zero_stage above 1); torchtitan can"),
        ("megatron-2021", {"zero_stage": 1}, "cannot shard over replicas"),
        ("megatron-2021", {"tensor_parallel": 2, "sequence_parallel": True}, "cannot run sequence parallelism"),
        ("megatron-2022", {"pipeline_parallel": 2, "schedule": "gpipe"}, "cannot run schedules of another kind"),
        (
            "megatron-core",
            {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
            "cannot split a backward in two, as its schedule does; zero-bubble-2023 can",
        ),
        ("zero-bubble-2023", {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"}, ""),
        ("llm-foundry-0.4", {"tensor_parallel": 2}, "cannot split a layer"),
        ("llm-foundry-0.4", {"pipeline_parallel": 2}, "cannot run a pipeline"),
        ("torchtitan", {"zero_stage": 2, "pipeline_parallel": 5}, ""),
        ("deepspeed", {"zero_stage": 2, "pipeline_parallel": 2}, "cannot shard gradients or parameters under a pipeline"),
        ("deepspeed", {"zero_stage": 3}, ""),
        ("hf-trainer", {"pipeline_parallel": 4}, "cannot run a pipeline"),  # docs/source/usage_guides/deepspeed.md
        ("lightning", {"pipeline_parallel": 4}, "cannot run a pipeline"),
        ("jax-xla", {"pipeline_parallel": 4}, "cannot start a backward before the last forward"),  # MaxText: gPipe and circular
        ("jax-xla", {"pipeline_parallel": 4, "schedule": "gpipe"}, ""),
        ("jax-xla", {"pipeline_parallel": 4, "virtual_pipeline": 2, "schedule": "breadth_first"}, ""),
        ("nanotron", {"zero_stage": 2}, "cannot shard gradients or parameters (zero_stage above 1)"),  # its README: ZeRO-1
        ("nanotron", {"pipeline_parallel": 2, "schedule": "gpipe"}, ""),  # AllForwardAllBackwardPipelineEngine
        ("nanotron", {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"}, "cannot split a backward"),
        ("torchtitan", {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "zero_bubble_v"}, ""),
        ("torchtitan", {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "v_half"}, "cannot run zero_bubble_h2, v_half or v_min"),
        ("zero-bubble-2023", {"pipeline_parallel": 17, "virtual_pipeline": 2, "schedule": "v_min"}, ""),  # 34 with embedding and head
        ("zero-bubble-2023", {"pipeline_parallel": 17, "virtual_pipeline": 2, "schedule": "dual_pipe_v"}, "cannot run dual_pipe_v"),
        ("torchtitan", {"pipeline_parallel": 2, "schedule": "dual_pipe"}, "cannot hold two copies of the model on a pipeline (dual_pipe)"),
        ("aleph-alpha", {"pipeline_parallel": 2, "schedule": "gpipe"}, "cannot run schedules of another kind"),
        ("internevo", {"pipeline_parallel": 2, "schedule": "gpipe"}, "cannot run schedules of another kind"),
    ],
)
def test_a_stack_says_what_it_cannot_run(stack: str, plan: dict[str, Any], said: str) -> None:
    found = reasons(Plan(**plan), replace(GPT, num_layers=32), read("stacks", stack))
    assert len(found) == bool(said) and all(said in each for each in found)
    assert all(each.startswith(f"{stack} ") for each in found)


def test_every_stack_of_the_catalog_states_its_limits_and_why() -> None:
    for name in catalog.names("stacks"):
        row = catalog.row("stacks", name)
        assert "limits" in row and row["source"].get("limits"), name


def test_embedding_and_head_count_as_layers_where_a_stack_counts_them() -> None:
    stack = Stack("mine", layer_split="embedding_and_head", limits=("even_stages",))
    assert reasons(Plan(pipeline_parallel=4), replace(GPT, num_layers=30), stack) == ()  # 7 8 8 7, with the ends 8 8 8 8
    assert reasons(Plan(pipeline_parallel=4), replace(GPT, num_layers=32), stack) != ()


ALL_KINDS = {"ring", "contiguous", "all_gather", "ulysses", "ulysses_ring"}


# NVIDIA/TransformerEngine@d0067d0d, context_parallel.py (attn_forward_func_with_cp): windows with a2a and all_gather, sinks with a2a.
@pytest.mark.parametrize(
    ("stack", "figures", "kinds"),
    [
        ("megatron-core", {}, ALL_KINDS),
        ("nemo", {"sliding_window": 4}, {"all_gather", "ulysses"}),
        ("megatron-bridge-26.06", {"sliding_window": 4, "attention_sinks": True}, {"ulysses"}),
        ("nemo", {"positions": "alibi"}, set()),  # dot_product_attention/utils.py, get_attention_backend
        ("torchtitan", {"sliding_window": 4}, ALL_KINDS),
    ],
)
def test_transformer_engine_splits_windows_and_sinks_by_few_context_kinds(stack: str, figures: dict[str, Any], kinds: set[str]) -> None:
    model, row = replace(GPT, **figures), read("stacks", stack)
    found = {kind: reasons(Plan(context_parallel=4, context_kind=kind), model, row) for kind in ALL_KINDS}
    assert {kind for kind, said in found.items() if not said} == kinds
    assert all("cannot split a sequence but by context_kind" in each for said in found.values() for each in said)
    assert not reasons(Plan(context_kind="ring"), model, row)


def test_the_planner_splits_a_sequence_otherwise_where_the_stack_cannot_by_its_own_kind() -> None:
    settings = {"cluster": {"node": {"base": "hgx-h100-80gb", "devices_per_node": 4}}, "batch": {"global_batch": 4, "sequence_length": 512}}
    row = {"base": "llama3-8b", "name": "mine", "num_layers": 2, "sliding_window": 64, "attention_sinks": True, "source": "a test"}
    scenario = from_mapping({"model": row, "stack": "megatron-core", **settings, "plans": {"any": {"context_parallel": "auto"}}})
    found = ranked(scenario, top=None, runnable=True)
    assert {each.plan.context_kind for each in found.rows if each.plan.context_parallel > 1} == {"ulysses"}


@pytest.mark.parametrize("name", [name for name in LIMITS if LIMITS[name].can])
def test_the_stack_that_can_has_no_such_limit(name: str) -> None:
    assert LIMITS[name].can in catalog.names("stacks") and name not in read("stacks", LIMITS[name].can).limits


def open_scenario() -> Scenario:
    return from_mapping(
        {
            "model": "tiny-gpt",
            "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
            "batch": {"global_batch": 8, "sequence_length": 16},
            "stack": "megatron-deepspeed-2022",
            "plans": {"open": {"pipeline_parallel": 2, "zero_stage": [1, 2]}},
        }
    )


def test_a_search_leaves_out_what_the_stack_cannot_run_where_asked() -> None:
    whole, runnable = ranked(open_scenario()), ranked(open_scenario(), runnable=True)
    assert {each.plan.zero_stage for each in whole.rows} == {1, 2} and {each.plan.zero_stage for each in runnable.rows} == {1}
