"""What runs again where a row's recompute is custom: modules or a policy that its notes name, else the smallest recomputation that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate_legal
from parsim.model.blocks import CORE_ATTENTION
from parsim.model.op import Op
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Stack
from parsim.parallel.recomputation import ops_of
from parsim.scenario import Scenario
from parsim.scenario.left_open import RECOMPUTE, Assumed
from parsim.validate.table import TableRow

CUSTOM: Final = "custom"
_PROJECTIONS: Final = ("query_proj", "key_proj", "value_proj")
_DOTS: Final = (*_PROJECTIONS, "out_proj")
_MLP: Final = ("mlpwi", "mlpwo")
# What MaxText's policies keep of a layer beside its input.  Source: AI-Hypercomputer/maxtext@e591f30cb, src/maxtext/layers/decoders.py.
POLICIES: Final = {
    "minimal_with_context": (*_DOTS, *_MLP, "context"),
    "minimal_flash": (*_DOTS, *_MLP, "context"),
    "minimal": (*_DOTS, *_MLP),
    "save_dot_with_context_except_mlp": (*_DOTS, "context"),
    "save_dot_except_mlpwi": (*_DOTS, "mlpwo"),
    "save_dot_except_mlp": _DOTS,
    "save_qkv_proj": _PROJECTIONS,
    "save_out_proj": ("out_proj",),
    "full": (),
}
_TO_HOST: Final = ("qkv_proj_offloaded", "minimal_offloaded")
# What the recipes of a source keep of a layer where a row says nothing, on the device or on the host, whose transfers are beside compute.
# Source: AI-Hypercomputer/tpu-recipes, the README of each, or the run_recipe.sh beside it: remat_policy custom, or qkv_proj_offloaded.
KEPT_OF_SOURCE: Final = {
    **{f"tpu-recipes training/trillium/{name}": _DOTS for name in ("Llama3.1-8B", "Mistral-7B", "Mixtral-8x7B", "Mixtral-8x22B")},
    **{f"tpu-recipes training/trillium/{name}": _PROJECTIONS for name in ("Llama3.1-70B", "Llama2-70B")},
    "tpu-recipes training/v5p/Llama3.1-405B": ("context", "mlpwo"),
    "tpu-recipes training/ironwood/llama3.1-70b": (*_PROJECTIONS, "context"),
    "tpu-recipes training/ironwood/llama3.1-405b": ("key_proj", "value_proj", "mlpwo"),
}
# By the beginning of an op's name: what MaxText calls its result, which holds what is written over it, too.
_NAMED: Final = {
    **{"q_": "query_proj", "k_": "key_proj", "v_": "value_proj", "kv_": "key_proj", "out_": "out_proj", "attention_": "out_proj"},
    **{"gate_": "mlpwi", "up_": "mlpwi", **dict.fromkeys(("down_", "mlp_", "unpermute", "add_"), "mlpwo")},
}


def custom_recomputation(row: TableRow, model: ModelSpec, stack: Stack) -> dict[str, str | tuple[str, ...]]:
    """The keys of a plan for what the notes of a row name, or its source keeps; none where its recompute is another, or neither says.

    Raises:
        ParsimError: the policy keeps activations on the host.
    """
    if not row.says("recompute"):
        kept = next((kept for held, kept in KEPT_OF_SOURCE.items() if held in row.says("source")), None)
        return {} if kept is None else {"recompute": "none", "recompute_ops": _again(ops_of(model, stack), kept)}
    if row.says("recompute") != CUSTOM:
        return {}
    if found := re.search(r"modules[ =:]*(?:\[([^]]*)\]|([\w+]+))", row.says("notes")):
        return {"recompute_modules": tuple(re.findall(r"\w+", found[1] or found[2] or ""))}
    policy = _policy(row.says("notes"))
    if policy in _TO_HOST:
        raise ParsimError(f"needs offload of activations: policy {policy}")
    return recomputation_of(policy, model, stack) if policy else {}


def recomputation_of(policy: str, model: ModelSpec, stack: Stack) -> dict[str, str | tuple[str, ...]]:
    """The keys of a plan for a policy, by what it keeps; one that keeps nothing, or all, is a word of recompute."""
    kept = POLICIES.get(policy)
    return {"recompute_ops": _again(ops_of(model, stack), kept)} if kept else {"recompute": policy}


def _policy(notes: str) -> str:
    """The MaxText policy that notes name; one whose name is a plain word only where they say that it is a policy; "": none."""
    said = re.search(r"policy\W{1,3}(\w+)", notes)
    if said and said[1] in (*POLICIES, *_TO_HOST):
        return said[1]
    words = set(re.findall(r"\w+", notes))
    return next((name for name in (*POLICIES, *_TO_HOST) if "_" in name and name in words), "")


def _again(ops: list[Op], kept: tuple[str, ...]) -> tuple[str, ...]:
    """The ops of layers whose results are not kept, each once; what an MLP ends with is never among them, since no gradient reads it."""
    return tuple(dict.fromkeys(op.name for op in ops if op.kind != "relabel" and _name_of(op) not in (*kept, "mlpwo")))


def _name_of(op: Op) -> str:
    """What MaxText calls the result of an op; "" where it has no name there, so that no policy keeps it."""
    if op.tag == CORE_ATTENTION:
        return "context"
    name = re.sub("^(shared|experts)_", "", op.name)
    return next((found for start, found in _NAMED.items() if name.startswith(start)), "")


def least_recomputation(scenario: Scenario, plan: str, names: Sequence[str]) -> Scenario:
    """Where nobody says what runs again: the first of the names with which the plan fits, else the last, which is said."""
    for name in names:
        plans = {plan: replace(scenario.plan(plan), recompute=name)}
        tried = replace(scenario, plans=plans)
        if estimate_legal(tried, plans[plan]).fits:
            break
    return replace(tried, assumed=(*scenario.assumed, Assumed("recompute", name)))


def usual_recomputation(scenario: Scenario, plan: str) -> Scenario:
    """Where nobody says whether anything runs again: the first of RECOMPUTE that fits; where none does, the first."""
    tried = least_recomputation(scenario, plan, RECOMPUTE)
    fits = estimate_legal(tried, tried.plan(plan)).fits
    return tried if fits else least_recomputation(scenario, plan, RECOMPUTE[:1])
