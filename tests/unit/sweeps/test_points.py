"""What a sweep asks: its points in order, and which mistakes end it and which are rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from parsim.errors import ScenarioError
from parsim.sweeps.points import read_sweep

BASE = """model: tiny-gpt
cluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}
batch: {global_batch: 8, sequence_length: 16}
plans:
  a: {tensor_parallel: 2}
  b: {pipeline_parallel: 2}
"""
SWEEP = """scenario: base.yaml
over:
  batch.global_batch: [8, 16]
  plans.a.tensor_parallel: [1, 3, 2]
"""


def files(tmp_path: Path, sweep: str = SWEEP, base: str = BASE) -> Path:
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "s.yaml").write_text(sweep)
    return tmp_path / "s.yaml"


def test_the_product_has_each_value_with_each_and_the_last_path_changes_first(tmp_path: Path) -> None:
    asked = read_sweep([files(tmp_path)])
    assert asked.name == "s"
    assert [tuple(value for _, value in each.changes) for each in asked.points] == [(8, 1), (8, 3), (8, 2), (16, 1), (16, 3), (16, 2)]
    built = asked.points[5].build()
    assert built.scenario is not None
    assert (built.scenario.batch.global_batch, built.scenario.plans["a"].tensor_parallel) == (16, 2)


def test_zip_has_the_first_with_the_first(tmp_path: Path) -> None:
    over = {"batch.global_batch": [8, 16], "plans.a.tensor_parallel": [1, 2]}
    path = files(tmp_path, f"scenario: base.yaml\ncombine: zip\nover: {over}\n")
    assert [dict(each.changes) for each in read_sweep([path]).points] == [dict(zip(over, each, strict=True)) for each in ((8, 1), (16, 2))]


def test_scenarios_are_points_of_their_own_and_what_varies_may_be_given_beside_them(tmp_path: Path) -> None:
    files(tmp_path)
    one = read_sweep([tmp_path / "base.yaml"])
    assert len(one.points) == 1 and one.points[0].changes == ()
    assert len(read_sweep([tmp_path / "base.yaml", tmp_path / "s.yaml"]).points) == 1 + 6
    assert len(read_sweep([tmp_path / "base.yaml"], over={"batch.global_batch": (8, 16)}).points) == 2
    assert len(read_sweep([{"scenario": [str(tmp_path / "base.yaml")] * 2, "over": {"seed": [1, 2, 3]}}]).points) == 6


def test_an_illegal_plan_is_a_row_and_leaves_the_others_be(tmp_path: Path) -> None:
    built = read_sweep([files(tmp_path)]).points[1].build()
    assert built.scenario is not None and list(built.scenario.plans) == ["b"]
    assert built.names("named") == ("a", "b")
    assert "tensor_parallel = 3 does not divide" in built.reason("a") and not built.reason("b")


def test_a_scenario_that_is_wrong_for_one_value_is_a_row_for_each_of_its_plans(tmp_path: Path) -> None:
    path = files(tmp_path, "scenario: base.yaml\nover: {batch.sequence_length: [16, 4096]}\n")
    good, bad = (each.build() for each in read_sweep([path]).points)
    assert good.scenario and not bad.scenario
    assert [bad.reason(name)[:22] for name in bad.names("named")] == ["batch.sequence_length:"] * 2


def test_what_is_asked_of_a_point_is_named_or_best_or_one(tmp_path: Path) -> None:
    base = BASE + "  s: {tensor_parallel: auto}\n  t: {pipeline_parallel: [1, 7]}\n"
    built = read_sweep([files(tmp_path, base=base)]).points[1].build()
    assert built.names("named") == ("a", "b")
    assert built.names("best") == ("s", "t")
    assert built.names("s") == ("s",)
    assert read_sweep([files(tmp_path)]).points[1].build().names("best") == ("best",)
    assert read_sweep([files(tmp_path)], plan="b").points[0].plan == "b"


WRONG: dict[str, tuple[str, str, str]] = {
    "path": (SWEEP.replace("batch.global_batch", "batch.globl_batch"), BASE, "did you mean 'global_batch'?"),
    "base": (SWEEP, BASE.replace("tiny-gpt", "tiny-gtp"), "base.yaml:1:1: model: unknown model 'tiny-gtp'"),
    "key of a plan": (SWEEP, BASE.replace("b: {pipeline_parallel", "b: {pipeline_paralel"), "plans.b.pipeline_paralel: unknown key"),
    "no list": ("scenario: base.yaml\nover: {seed: 1}\n", BASE, "s.yaml:2:8: over.seed: must be a list, not 1"),
    "empty list": ("scenario: base.yaml\nover: {seed: []}\n", BASE, "over.seed: must not be empty"),
    "key": (SWEEP + "combin: zip\n", BASE, "s.yaml:5:1: combin: unknown key (did you mean 'combine'?)"),
    "combine": (SWEEP + "combine: sum\n", BASE, "combine: cannot be 'sum'; legal: product, zip"),
    "lengths": (SWEEP + "combine: zip\n", BASE, "these have: batch.global_batch 2, plans.a.tensor_parallel 3"),
    "too many": (f"scenario: base.yaml\nover: {{{', '.join(f'x{n}: [1, 2]' for n in range(21))}}}\n", BASE, "makes 2,097,152 points"),
    "no file": ("scenario: bass.yaml\n", BASE, "bass.yaml: no such file"),
    "no scenario": ("over: {seed: [1]}\n", BASE, "scenario: missing; give the scenario file"),
    "yaml": ("scenario: [base.yaml\n", BASE, "not YAML"),
    "plan": (SWEEP + "plan: bb\n", BASE, "unknown plan 'bb'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_whatever_varies_ends_the_sweep_with_its_place(case: str, tmp_path: Path) -> None:
    sweep, base, said = WRONG[case]
    with pytest.raises(ScenarioError) as caught:
        read_sweep([files(tmp_path, sweep, base)])
    assert said in str(caught.value)


def test_a_value_may_be_a_row_of_its_own(tmp_path: Path) -> None:
    rows: list[Any] = ["tiny-gpt", {"base": "tiny-gpt", "num_layers": 8}]
    points = read_sweep([files(tmp_path).with_name("base.yaml")], over={"model": rows}).points
    assert [each.build().scenario.model.num_layers for each in points][1] == 8  # type: ignore[union-attr]


def test_a_scenario_whose_name_is_no_text_is_a_point_or_none(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.yaml"))
    with pytest.raises(ScenarioError, match="no such file"):
        read_sweep([path])
    path.write_text(BASE, encoding="utf-8")
    assert len(read_sweep([path]).points) == 1
