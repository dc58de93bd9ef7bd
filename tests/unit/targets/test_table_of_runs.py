"""The README's table of exports that ran, written a target at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from msgspec.structs import replace

from compare.export_stacks import find, said
from compare.run_exports import BEGIN, CASES, END, FOUND, ROOT, Case, Ran, _cells, _timed, between, line, predicted, put, table
from parsim import units
from parsim.parallel.plan import Plan

ROWS = [line(Ran(case, 2, [2.5, 1.5], (2.5, 1.5), 0.001)) for case in CASES]


def test_rows_of_a_case_that_ran_again_replace_its_old_ones_and_all_others_stay() -> None:
    keras = next(place for place, case in enumerate(CASES) if case.target == "keras")
    again = line(Ran(CASES[keras], 2, [2.5, 1.25], (2.5, 1.25), 0.002))
    unknown = line(Ran(replace(CASES[0], target="another"), 2, [2.5], (2.5,), 0.001))
    assert list(table([unknown, *ROWS, again]))[2:] == [*ROWS[:keras], again, *ROWS[keras + 1 :]]


def test_rows_that_run_in_another_order_stand_in_the_order_of_the_cases() -> None:
    assert list(table(ROWS[::-1]))[2:] == ROWS


def test_the_readme_has_a_row_of_every_case() -> None:
    old = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert list(table(old)) == old and len(old) == 2 + len(CASES)


def test_the_command_of_the_readme_starts_where_parsim_is_installed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (settings, script) = re.findall(r"^(\S+=\S+ )?python (tests/compare/run_exports\.py)", text, re.MULTILINE)[0]
    installed = os.pathsep.join(str(ROOT / each) for each in (".", "kernels"))  # as pip install -e has it
    environment = {**os.environ, "PYTHONPATH": installed}
    for name, _, value in (each.partition("=") for each in settings.split()):
        environment[name] = f"{value}{os.pathsep}{installed}" if name == "PYTHONPATH" else value
    told = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "--readme" in told.stdout, told.stderr


def test_each_row_says_whether_its_prediction_rests_on_it() -> None:
    seen, other = (Case("pytorch", "digits-softmax", Plan(micro_batch=size), calibrates=size == 32) for size in (32, 16))
    rows = [line(Ran(case, 1, [2.5], (2.5,), seconds)) for case, seconds in ((seen, 0.004), (other, 0.006))]
    both = list(zip((seen, other), rows, strict=True))
    timed = [_timed(case, _cells(row)) for case, row in both]
    (found,) = find(timed, {"base": "one-cpu-generic"})
    assert said(found).startswith("pytorch: sustained_factor") and said(found).count("1 row") == 1
    cells = [_cells(predicted(row, case, found.predicted_s)) for case, row in both]
    assert [each[-1] for each in cells] == ["calibrated on", "left out"]
    for told, measured_s in zip(cells, (0.004, 0.006), strict=True):
        assert float(told[-2].rstrip("%")) == pytest.approx(100 * (units.parse(told[-3], "s") / measured_s - 1), abs=1)
    assert found.predicted_s[timed[0].name] < found.predicted_s[timed[1].name]  # two micro_batches are twice as many launches


def test_what_stands_between_two_marks_is_replaced_and_nothing_else() -> None:
    begin, end = FOUND
    text = f"a\n{begin}\nold\n{end}\nb\n"
    assert put(text, begin, end, "new") == text.replace("old", "new") and between(text, begin, end) == "old"
