"""Layers in which a token sees some tokens before it only, beside others that see all: the contract, counts on the page, and mutants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import count, sizes
from parsim.cost.causal import causal_pairs
from parsim.model.transformer import TransformerSpec
from parsim.model.window import Window
from parsim.parallel.legality import faults
from parsim.parallel.plan import Plan
from parsim.verify import by_hand, verify_plan
from parsim_kernels import attention
from parsim_kernels.kernels import KERNELS
from support import GPT, MOE, STACK, STACKS, enough, every_other, scenario

MODELS = {
    "every second": replace(MOE, num_layers=4, sliding_window=3, full_attention_every=2),
    "all": replace(GPT, sliding_window=2),
    "both sides": replace(
        GPT,
        name="toy modern bert",
        causal=False,
        sliding_window=3,
        full_attention_every=3,
        full_attention_from=1,
        unnormed_first=True,
        embedding_norm=True,
        norm_bias=False,
        bias=False,
        qkv_bias=False,
        activation="geglu",
        head="masked_token",
        dropout=0.0,
    ),
}
PLANS = {
    "alone": Plan(),
    "tp": Plan(tensor_parallel=2, sequence_parallel=True, recompute="selective"),
    "pp": Plan(pipeline_parallel=3, layers_per_stage=(2, 1, 1), schedule="zero_bubble_h1"),
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full"),
    **{kind: Plan(context_parallel=2, context_kind=kind) for kind in ("ring", "ulysses", "all_gather", "contiguous")},
}
ATTENTION = ("flash", "unfused", "fused_softmax")


def failures(model: TransformerSpec, plan: Plan, attention: str) -> set[str]:
    toy = scenario(model=model, batch=enough(plan), stack=replace(STACK, attention=attention))
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("case", every_other(PLANS, ["every second", "both sides"], "{}-{}".format))
def test_windows_keep_the_contract_however_attention_is_split(case: tuple[str, str]) -> None:
    plan, model = case
    assert not failures(MODELS[model], PLANS[plan], "flash")


@pytest.mark.parametrize("model", ["all", "both sides"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_windows_keep_the_contract_with_scores_that_are_stored(attention: str, model: str) -> None:
    assert not failures(MODELS[model], PLANS["tp"], attention)


@pytest.mark.parametrize("window", [Window(3), Window(70), Window(4, chunked=True), Window(64, chunked=True), Window(3, two_sided=True)])
@pytest.mark.parametrize("keys", [((0, 200),), ((0, 50), (150, 200)), ((100, 130),)])
def test_pairs_in_a_window_are_those_that_one_counts(window: Window, keys: tuple[tuple[int, int], ...]) -> None:
    queries = ((20, 90), (101, 180))
    seen = [
        (window.two_sided or q >= k) and (q // window.tokens == k // window.tokens if window.chunked else abs(q - k) < window.tokens)
        for own in queries
        for q in range(*own)
        for its in keys
        for k in range(*its)
    ]
    assert causal_pairs(queries, keys, window) == sum(seen)
    tokens = {name: sum(stop - start for start, stop in runs) for name, runs in (("q", queries), ("k", keys))}
    q, k = np.zeros((1, tokens["q"], 1, 1, 1)), np.zeros((1, tokens["k"], 1, 1))
    told = {"scale": 1.0, "query_offset": queries, "key_offset": keys, "window": window.tokens, "chunked": int(window.chunked)}
    told["two_sided"] = int(window.two_sided)
    (_, lse), flops = KERNELS["flash_attention"]((q, k, k), told)
    assert flops == 4 * sum(seen)
    by_query = np.reshape(seen, (tokens["q"], -1)).sum(axis=1)  # of equal scores the sum of exponentials counts the keys
    assert np.allclose(np.exp(lse).ravel(), by_query)


def test_a_window_leaves_each_query_as_many_keys_as_it_is_wide_but_for_the_first() -> None:
    assert causal_pairs([(0, 8192)], [(0, 8192)], Window(128)) == 8192 * 128 - 128 * 127 // 2


@pytest.mark.parametrize(("window", "diagonal"), [(Window(), 100), (Window(16), 16), (Window(500), 100), (Window(32, chunked=True), 100)])
def test_mfu_counts_twice_the_pairs_that_a_window_leaves_but_for_half_of_the_diagonal(window: Window, diagonal: int) -> None:
    """A triangle of side w has w (w + 1) / 2 pairs; a window leaves the whole one at its end once."""
    assert window.pairs(100) == 2 * causal_pairs([(0, 100)], [(0, 100)], window) - diagonal


def _counts_all_pairs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sizes, "causal_pairs", lambda queries, keys, window: causal_pairs(queries, keys))


def _counts_one_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(count, "Window", lambda tokens, *form: Window(tokens + 1, *form))


def _sees_one_more(patch: pytest.MonkeyPatch) -> None:
    right = attention._pieces
    patch.setattr(attention, "_pieces", lambda q, k, told: right(q, k, {**told, "window": told.get("window", -1) + 1}))


def _every_layer_sees_all_by_hand(patch: pytest.MonkeyPatch) -> None:
    right = by_hand.sight
    patch.setattr(by_hand, "sight", lambda run, length, window, chunk, **told: right(run, length, 0, 0, **told))


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "all pairs are counted": (_counts_all_pairs, {"FLOPs", "FLOPs, simulated"}),
    "a key more is counted": (_counts_one_more, {"FLOPs", "FLOPs, simulated"}),
    "a key more is seen": (_sees_one_more, {"FLOPs", "loss, by hand"}),
    "the formulas know no window": (_every_layer_sees_all_by_hand, {"loss, by hand", "weight gradients, by hand"}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_window_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, noticed = MUTANTS[name]
    mutate(monkeypatch)
    assert noticed <= failures(MODELS["every second"], PLANS["alone"], STACKS[2].attention)


def test_a_window_of_one_side_in_place_of_two_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._pieces
    monkeypatch.setattr(attention, "_pieces", lambda q, k, told: right(q, k, {**told, "two_sided": 0}))
    assert {"FLOPs", "loss, by hand"} <= failures(MODELS["both sides"], PLANS["alone"], "flash")


def test_a_window_of_two_sides_leaves_all_pairs_but_two_corners() -> None:
    window = Window(64, two_sided=True)
    assert window.pairs(100) == causal_pairs([(0, 100)], [(0, 100)], window) == 100**2 - 36 * 37
