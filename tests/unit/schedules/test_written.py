"""A schedule written in a scenario file: read, checked action by action, and drawn where it cannot run."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from parsim import scenario
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan

FILE = """\
    model: {{num_layers: 4, hidden_size: 64, ffn_hidden_size: 256, num_heads: 4, vocab_size: 512, max_positions: 64, source: made up}}
    cluster: {{node: dgx-a100-80gb}}
    batch: {{global_batch: 8, sequence_length: 64}}
    plans:
      a: {{pipeline_parallel: 2, tensor_parallel: 4, micro_batch: 4,
          schedule: {schedule}}}
"""
GPIPE = ("0F0 0F1 0B1 0B0", "1F0 1F1 1B1 1B0")


def file(folder: Path, schedule: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(dedent(FILE).format(schedule=schedule))
    return path


@pytest.mark.parametrize(
    "schedule",
    [
        '["0F0 0F1 0B1 0B0", "1F0 1F1 1B1 1B0"]',
        '{rank 0: "0F0 0F1 0B1 0B0", rank 1: "1F0 1F1 1B1 1B0"}',
        '{1: "1F0 1F1  1B1 1B0 ", rank 0: " 0F0 0F1 0B1 0B0"}',
    ],
)
def test_a_written_schedule_is_read_in_any_of_its_forms(tmp_path, schedule):
    found = scenario.load(file(tmp_path, schedule))
    assert found.plan("a").schedule == GPIPE and not found.spaces
    assert hash(found.plan("a")) == hash(found.plan("a"))


def test_a_written_schedule_is_priced_as_the_named_one_with_its_order(tmp_path):
    written = scenario.load(file(tmp_path, '["0F0 0F1 0B1 0B0", "1F0 1F1 1B1 1B0"]'))
    named = Plan(tensor_parallel=4, pipeline_parallel=2, micro_batch=4, schedule="gpipe")
    assert estimate(written, "a").step_s == estimate(written, named).step_s
    assert estimate(written, "a").peak_bytes == estimate(written, named).peak_bytes


def test_a_list_of_names_is_still_a_choice_for_the_planner(tmp_path):
    assert scenario.load(file(tmp_path, "[1f1b, gpipe]")).spaces["a"].axes["schedule"] == ("1f1b", "gpipe")


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (
            '["0F0 0F1 0B0 0B1", "1F0 1B1 1F1 1B0"]',
            "plans.a.schedule: rank 1 waits for ever: 1B1 needs 1F1\n  rank 0 | 0F0 0F1 0B0 0B1\n  rank 1 | 1F0 1B1 1F1 1B0   <-- here",
        ),
        ('["0F0 0F1 0B0", "1F0 1B0 1F1 1B1"]', "plans.a.schedule: rank 0 lacks 0B1: it runs stages 0 forward (F) and backward (B) once"),
        (
            '["0F0 0F1 0B0 0B1 0B2", "1F0 1B0 1F1 1B1"]',
            "rank 0 cannot run 0B2: it runs stages 0 forward (F) and backward (B) once for",
        ),
        ('["0F0 0F1 0B0 0B1"]', "the schedule is written for 1 ranks, but pipeline_parallel = 2"),
        ('["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1Z1"]', "rank 1: '1Z1' is no action"),
        ('{rank 0: "0F0 0F1 0B0 0B1", rank 2: "1F0 1B0 1F1 1B1"}', "the written schedule has no rank 1, but rank 2"),
        ('{rank 0: "0F0 0F1 0B0 0B1", 0: "1F0"}', "the keys of a written schedule are rank 0, rank 1, ..., a second time"),
        ('{stage 0: "0F0 0F1 0B0 0B1"}', "the keys of a written schedule are rank 0, rank 1, ..., not 'stage 0'"),
        ("{rank 0: [0F0]}", "the actions of rank 0 must be text, not a list"),
        ("{}", 'a schedule is written as {rank 0: "0F0 0B0", rank 1: "1F0 1B0"}'),
        ('["0F0 0B0", 3]', "the actions of rank 1 must be text, not 3"),
        ("interleaved_2f2b", "unknown schedule 'interleaved_2f2b'; known: "),
    ],
)
def test_a_schedule_that_cannot_run_is_a_fault_at_its_line(tmp_path, schedule, said):
    path = file(tmp_path, schedule)
    (fault,) = scenario.check(path)
    assert str(fault).startswith(f"{path}:6:7: plans.a.schedule: ") and said in str(fault)


def test_the_json_schema_allows_both_forms():
    text = str(scenario.schema()["definitions"]["PlanSection"]["properties"]["schedule"])
    assert "patternProperties" in text and "^(rank )?[0-9]+$" in text
