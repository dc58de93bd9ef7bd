"""A result is found by the figures that it follows from: each changes the key, and no name does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim import estimate, from_mapping, plain
from parsim.errors import ScenarioError
from parsim.estimator.result import Estimate
from parsim.plain import figures
from parsim.scenario import Scenario
from parsim.sweeps import key
from parsim.sweeps.key import keys_of
from support import scenario

CASES: dict[str, dict[str, Any]] = {
    "a100": {"model": "gpt3-13b", "cluster": {"node": "dgx-a100-80gb", "num_nodes": 2, "fabric": "ib-hdr-8rail"}},
    "h100": {"model": "llama3-8b", "cluster": {"node": "dgx-h100", "num_nodes": 2, "fabric": "ib-ndr-8rail"}, "stack": "torchtitan"},
    "sites": {
        "model": "llama3-8b",
        "cluster": {
            **{"node": "dgx-h100", "num_nodes": 6, "fabric": "ib-ndr-8rail", "num_sites": 2},
            "site_link": {"bandwidth": "800 Gb/s", "latency": "5 ms"},
        },
        "batch": {"global_batch": 48, "sequence_length": 2048},
    },
}


def case(name: str, **others: Any) -> Scenario:
    plans = {"a": {"tensor_parallel": 8, "pipeline_parallel": 2, "recompute": "selective"}, "any": {"tensor_parallel": "auto"}}
    return from_mapping({"batch": {"global_batch": 16, "sequence_length": 2048}, "plans": plans, **{**CASES[name], **others}})


def replaced(value: Any, kind: type, change: Any, own: str = "", *, here: bool = True) -> Iterator[Any]:
    """The value with one leaf of a type changed, for each of them; `own`: only in fields of this name."""
    if isinstance(value, Struct):
        found = list[Any]()
        for name, each in asdict(value).items():
            for new in replaced(each, kind, change, own, here=own in ("", name)):
                with contextlib.suppress(ScenarioError):  # numbers that do not go with the others, as sites that divide no nodes
                    found.append(replace(value, **{name: new}))
        yield from found
    elif isinstance(value, dict):
        yield from ({**value, name: new} for name, each in value.items() for new in replaced(each, kind, change, own, here=here))
    elif isinstance(value, tuple):
        for n, each in enumerate(value):
            yield from ((*value[:n], new, *value[n + 1 :]) for new in replaced(each, kind, change, own, here=here))
    elif type(value) is kind and here:
        yield change(value)


def variants(scenario: Scenario, kind: type, change: Any, own: str = "") -> Iterator[Scenario]:
    for part in ("model", "cluster", "batch", "stack"):
        for new in replaced(getattr(scenario, part), kind, change, own):
            yield replace(scenario, **{part: new})


@pytest.mark.parametrize("name", CASES)
def test_every_number_that_a_scenario_holds_changes_the_key(name: str) -> None:
    own = case(name)
    before = keys_of(own, ["a", "any"])
    others = [*variants(own, int, lambda each: each + 1), *variants(own, float, lambda each: each * 1.5 + 0.125)]
    others += variants(own, bool, lambda each: not each)
    assert len(others) > 60
    for other in others:
        after = keys_of(other, ["a", "any"])
        assert after["a"] != before["a"] and after["any"] != before["any"]


@pytest.mark.parametrize("word", ["name", "source"])
@pytest.mark.parametrize("name", CASES)
def test_no_name_or_source_changes_the_key_or_the_estimate(name: str, word: str) -> None:
    own = case(name, stack="torchtitan")  # one without factors by the name of an accelerator
    before, predicted = keys_of(own, ["a", "any"]), without_intervals(estimate(own, "a"))
    others = list(variants(own, str, lambda each: f"{each}!", word))
    assert len(others) > 5
    for other in others:
        assert keys_of(other, ["a", "any"]) == before
        assert without_intervals(estimate(other, "a")) == predicted


def without_intervals(predicted: Estimate) -> Estimate:
    """How far off comparable runs were goes by the names of stack and accelerator."""
    return replace(predicted, step_interval_s=None, peak_interval_bytes=None, fit_probability=None)


@pytest.mark.parametrize(("figure", "value"), [("sustained_factor", 0.5), ("graphs", "all")])
def test_what_a_stack_has_for_an_accelerator_is_found_by_name_and_stands_in_the_key(figure: str, value: object) -> None:
    own = scenario()
    device = own.cluster.node.accelerator
    tuned = replace(own, stack=replace(own.stack, **{figure: {device.name: value}}))
    renamed = replace(tuned, cluster=replace(own.cluster, node=replace(own.cluster.node, accelerator=replace(device, name="other"))))
    assert keys_of(tuned, ["best"]) != keys_of(renamed, ["best"])


def test_a_plan_changes_only_its_key_and_that_of_the_best_of_all() -> None:
    first = case("a100")
    other = replace(first, plans={"a": replace(first.plans["a"], micro_batch=2), "b": first.plans["a"]})
    before, after = keys_of(first, ["a", "any"]), keys_of(other, ["a", "b", "any"])
    assert after["b"] == before["a"] != after["a"]  # by what it is, not what it is called
    assert after["any"] != before["any"]  # plans that a scenario names take part


def test_an_alias_is_the_row_that_it_means() -> None:
    alias = {**CASES["a100"], "cluster": {**CASES["a100"]["cluster"], "node": "hgx-a100-80gb"}}
    assert keys_of(case("a100", **alias), ["a"]) == keys_of(case("a100"), ["a"])


def test_another_model_version_finds_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys_of(case("a100"), ["a"])
    monkeypatch.setattr(key, "MODEL_VERSION", key.MODEL_VERSION + 1)
    assert keys_of(case("a100"), ["a"])["a"] != before["a"]


def test_figures_keep_kinds_apart() -> None:
    assert figures({"b": 1, "a": (1.0, None)}) == [["a", [1.0, None]], ["b", 1]]


def test_a_key_that_left_out_a_figure_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant of the key: one that takes a latency for a word."""
    monkeypatch.setattr(plain, "_WORDS", ("name", "source", "latency_s"))
    own = case("a100")
    others = variants(own, float, lambda each: each * 1.5 + 0.125)
    assert any(keys_of(other, ["a"]) == keys_of(own, ["a"]) for other in others)
