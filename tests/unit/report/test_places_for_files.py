"""Where a file may be written: beside no pipe and no device, through no link that somebody left, and nowhere by halves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parsim.report.files import prepare, prepare_file, write


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "null"):
        for attempt in (lambda path=path: write(path, "x"), lambda path=path: prepare_file(path)):
            with pytest.raises(OSError, match="is a pipe or a device, and no place for a file"):
                attempt()
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "null").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["null", "pipe"]


def test_a_link_that_somebody_left_under_our_own_name_leads_nowhere(tmp_path: Path) -> None:
    (beyond := tmp_path / "beyond").write_text("theirs")
    (out := tmp_path / "out").mkdir()
    (out / f".a.csv.{os.getpid()}.tmp").symlink_to(beyond)
    (out / f".{os.getpid()}.tmp").symlink_to(tmp_path / "made")
    write(prepare(out) / "a.csv", "ours")
    assert beyond.read_text() == "theirs" and not (tmp_path / "made").exists()
    assert (out / "a.csv").read_text() == "ours" and [each.name for each in out.iterdir()] == ["a.csv"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    (beyond := tmp_path / "beyond").write_text("theirs")
    (tmp_path / "a.csv").symlink_to(beyond)
    write(tmp_path / "a.csv", "ours")
    assert beyond.read_text() == "theirs" and not (tmp_path / "a.csv").is_symlink()


def test_a_loop_of_links_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop" / "a.yaml", tmp_path / "loop" / "b" / "a.yaml"):
        with pytest.raises(OSError):
            prepare_file(path)
