"""The picture of the imports that the README shows is the one that its command draws today."""

from __future__ import annotations

import html
import re
from pathlib import Path

import picture
import pytest
from test_imports import ROOT

from parsim.plain import csv_text

FOLDER = ROOT / picture.OUT
README = (ROOT / "README.md").read_text()


def test_the_shipped_picture_is_golden_what_the_imports_are_today() -> None:
    text = csv_text(picture.edges())
    assert (FOLDER / "imports.csv").read_text() == text, "run: python tests/architecture/picture.py"
    assert text.encode() in (FOLDER / "imports.png").read_bytes()
    assert text in html.unescape((FOLDER / "imports.svg").read_text())


def test_an_import_more_changes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv_text(picture.edges())
    monkeypatch.setattr(picture, "imports", lambda path: [("parsim.data.digits", 1)])
    assert csv_text(picture.edges()) != before


@pytest.mark.slow  # the shipped one is golden
def test_the_command_writes_all_three_files_alike_each_time(tmp_path: Path) -> None:
    first, second = (picture.save(tmp_path / name) for name in ("first", "second"))
    assert [path.name for path in first] == ["imports.csv", "imports.png", "imports.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_readme_says_of_every_package_what_it_answers_and_how_to_draw_them() -> None:
    rows = re.findall(r"^\| (`(?:parsim|kernels)/.*?) \|", README, re.MULTILINE)
    named = {Path(name).stem for row in rows for name in re.findall(r"`(\S+?)`", row)}
    assert named == {str(name) for row in picture.edges() for name in (row["package"], row["imports"])}
    assert f"]({picture.OUT}/imports.png)" in README and "python tests/architecture/picture.py" in README
