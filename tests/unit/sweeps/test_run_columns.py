"""A sweep over what a run meets: failures, checkpoints, input and disturbance change keys and rows, and no other scenario's."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict, replace
from test_key import replaced

from parsim import from_mapping
from parsim.report.results import predict, table
from parsim.scenario import Scenario
from parsim.sweeps import key, sweep
from parsim.sweeps.key import keys_of

BASE: dict[str, Any] = {
    "model": "tiny-gpt",
    "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
    "batch": {"global_batch": 8, "sequence_length": 16},
    "plans": {"a": {"tensor_parallel": 2}},
}
SECTIONS: dict[str, Any] = {
    "storage": "tectonic-llama3",
    "input": "tokens-int32",
    "failures": {"rates": "llama3-h100", "restart": "8 min", "repair": "2 days", "spare_nodes": 1},
    "checkpoint": {"interval": "optimum"},
    "disturbance": {
        **{"jitter": {"kernels": {"distribution": "gamma", "cv": 0.1}}, "stragglers": {"probability": 0.1, "factor": 1.5}},
        **{"slow_devices": {1: 1.5}, "samples": 50},
    },
    "training": {"total_tokens": 1_000_000},
}


def variants(own: Scenario) -> list[tuple[str, Scenario]]:
    """The scenario with one figure of a section changed, for each of them."""
    changes = {int: lambda each: each + 1, float: lambda each: each * 1.5 + 0.125, bool: lambda each: not each}
    found = []
    for section in (*key._SECTIONS, "training"):
        for kind, change in changes.items():
            found += [(section, replace(own, **{section: new})) for new in replaced(getattr(own, section), kind, change)]
    return [*found, ("total_tokens", replace(own, total_tokens=7)), ("seed", replace(own, seed=9))]


def test_every_figure_of_a_run_changes_the_key() -> None:
    own = from_mapping({**BASE, **SECTIONS})
    before, others = keys_of(own, ["a"]), variants(own)
    assert len(others) > 40 and {section for section, _ in others} >= {*key._SECTIONS}
    assert all(keys_of(other, ["a"]) != before for _, other in others)


def test_a_scenario_without_a_run_has_the_key_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    own = from_mapping(BASE)
    before = keys_of(own, ["a"])
    monkeypatch.setattr(key, "of_run", lambda scenario: [])
    assert keys_of(own, ["a"]) == before
    assert keys_of(from_mapping({**BASE, **SECTIONS}), ["a"]) == before  # a mutant: a key that leaves these sections out


@pytest.mark.parametrize(
    ("path", "values", "column"),
    [
        ("failures.restart", ["8 min", "80 min"], "goodput"),
        ("checkpoint.interval", ["1 min", "1 h"], "goodput_interval_s"),
        ("storage", ["tectonic-llama3", "orion"], "storage_room_bytes"),
        ("input.prefetch", [0, 2], "stall_s"),
        ("disturbance.stragglers.factor", [1.5, 3], "disturbed_mean_s"),
    ],
)
def test_what_varies_in_a_section_varies_the_row(path: str, values: list[Any], column: str) -> None:
    own = {**SECTIONS, "input": {"base": "tokens-int32"}} if path.startswith("input") else SECTIONS
    one, other = sweep({**BASE, **own}, over={path: values}).rows
    assert one.figures[column] != other.figures[column]


def test_a_row_has_the_figures_of_parsim_run_and_none_where_nothing_is_stated() -> None:
    (row,) = sweep({**BASE, **SECTIONS}).rows
    (told,) = table(predict(from_mapping({**BASE, **SECTIONS})))
    shared = row.figures.keys() & told.keys()
    assert shared >= {"goodput", "time_s", "fed_step_s", "run_step_s", "disturbed_mean_s", "disturbed_p99_s"}
    assert {name: row.figures[name] for name in shared} == {name: told[name] for name in shared}
    (plain,) = sweep({**BASE, "training": SECTIONS["training"]}).rows
    assert plain.figures.keys() < row.figures.keys() and not plain.figures.keys() & {"goodput", "time_s", "run_step_s"}
    assert asdict(plain)["figures"]["step_s"] == row.figures["step_s"]
