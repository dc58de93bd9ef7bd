"""A document is one source in however many tables it stands, and a run counts once however often it was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from parsim.confidence.runs import known_runs
from parsim.validate.compare import errors_once, validate
from parsim.validate.intervals import source_left_out
from parsim.validate.published import tables
from parsim.validate.sources import ONE_DOCUMENT, document_of, run_of, source_of
from parsim.validate.switches import optimizer_of
from parsim.validate.table import TableRow, read

SMALL = {
    **{"source_family": "a", "num_layers": "2", "hidden_size": "256", "num_heads": "4", "vocab_size": "1000", "sequence_length": "128"},
    **{"accelerator": "a100-sxm4-80gb", "num_devices": "4", "tensor_parallel": "4", "micro_batch": "1", "global_batch": "4"},
}


def row(**text: str) -> TableRow:
    return TableRow(text, {}, {}, ())


def written(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def test_two_tables_of_one_document_are_one_source() -> None:
    assert {source_of(row(source_family=family)) for pair in ONE_DOCUMENT.items() for family in pair} == set(ONE_DOCUMENT.values())
    assert not set(ONE_DOCUMENT) & {run.source for run in known_runs()}
    halves = [row(source_family="torchtitan", source=f"torchtitan repo benchmarks/{name}.md") for name in ("a", "b")]
    assert len({document_of(each) for each in halves}) == 2 and len({source_of(each) for each in halves}) == 1


def test_repeats_of_a_run_count_as_their_median(tmp_path: Path) -> None:
    runs = [{**SMALL, "id": name, "step_s": step, "notes": notes} for name, step, notes in RUNS]
    found = validate(written(tmp_path, *runs))
    assert [each.repeats for each in found.rows] == [None, "first", "first", None]
    predicted_s = found.rows[0].predicted_step_s
    assert predicted_s
    (once,) = errors_once((each.run, each.step_error) for each in found.rows[:3])
    assert once == pytest.approx(predicted_s / 0.02 - 1)
    assert found.summary["all"]["step"]["n"] == 2


RUNS = (
    *(("first", "0.01", "date 02-20"), ("second", "0.04", "date 02-21"), ("third", "0.02", "date 02-22")),
    ("another", "0.01", "with what nobody else had"),
)


def test_who_measured_is_no_other_run_and_another_plan_is() -> None:
    told = {"source": "a page", "notes": "MLPerf Training v5.1, Dell, system x"}
    assert run_of(row(**told, id="1")) == run_of(row(**{**told, "notes": "MLPerf Training v5.1, Cisco, system y"}, id="2"))
    assert run_of(row(**told)) != run_of(row(**told, tensor_parallel="2"))
    assert run_of(row(**told)) != run_of(row(**told, release="26.02"))


def test_a_row_that_is_not_shipped_is_judged_without_its_source_too() -> None:
    path = next(each for each in tables() if "nemo_bridge2" in each.name)
    shipped = read(path)[0]
    for identity in (shipped.says("id"), "of-another-table"):
        one = TableRow({**shipped.text, "id": identity}, shipped.counts, shipped.measures, ())
        assert source_left_out(one) == "nemo_bridge"
    assert source_left_out(row(source_family="mine")) == ""


def test_the_recipe_of_a_model_is_known_by_repository_and_model() -> None:
    moonlight = {"source": "NVIDIA-NeMo/Megatron-Bridge @1 some/page.md", "model_name": "Moonlight 16B"}
    assert optimizer_of(row(**moonlight)) == "precision_aware_adamw"
    assert not optimizer_of(row(**{**moonlight, "source": "another/repository"})) and not optimizer_of(
        row(**{**moonlight, "model_name": "b"})
    )
