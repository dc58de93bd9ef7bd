"""The README's table of exports that ran, written a target at a time."""

from __future__ import annotations

from msgspec.structs import replace

from compare.run_exports import BEGIN, CASES, END, ROOT, Ran, line, table

ROWS = [line(Ran(case, 2, [2.5, 1.5], (2.5, 1.5), 0.001, None)) for case in CASES]


def test_rows_of_a_case_that_ran_again_replace_its_old_ones_and_all_others_stay() -> None:
    keras = next(place for place, case in enumerate(CASES) if case.target == "keras")
    again = line(Ran(CASES[keras], 2, [2.5, 1.25], (2.5, 1.25), 0.002, None))
    unknown = line(Ran(replace(CASES[0], target="another"), 2, [2.5], (2.5,), 0.001, None))
    assert list(table([unknown, *ROWS, again]))[2:] == [*ROWS[:keras], again, *ROWS[keras + 1 :]]


def test_rows_that_run_in_another_order_stand_in_the_order_of_the_cases() -> None:
    assert list(table(ROWS[::-1]))[2:] == ROWS


def test_the_readme_has_a_row_of_every_case() -> None:
    old = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert list(table(old)) == old and len(old) == 2 + len(CASES)
