from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from parsim import plain
from parsim.report import files


def test_a_file_is_written_whole_in_a_folder_that_did_not_exist(tmp_path: Path) -> None:
    path = files.write(tmp_path / "new" / "results.json", "{}\n")
    assert path.read_bytes() == b"{}\n"
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_a_written_file_has_the_mode_that_the_user_gives_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    path = files.write(tmp_path / "results.csv", "plan\n")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failing_write_leaves_the_old_file_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write(tmp_path / "results.json", "old")

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_csv_quotes_what_needs_it_and_writes_booleans_as_json_does() -> None:
    text = plain.csv_text([{"plan": 'a, "b"', "fits": True, "measured_step_s": None}])
    assert text == 'plan,fits,measured_step_s\n"a, ""b""",true,\n'


def test_json_has_no_number_that_other_readers_reject() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.json_text({"step_s": float("nan")})


@pytest.mark.parametrize("name", ["../../etc", "/root", "..", "a/b", ""])
def test_no_scenario_name_leads_out_of_the_reports_folder(name: str) -> None:
    place = files.folder(name)
    assert len(place.parts) == 2
    assert place.parts[0] == "reports"
    assert place.parts[1] not in ("", ".", "..")


def test_a_place_where_not_even_root_can_write_is_refused_at_once(tmp_path: Path) -> None:
    assert files.prepare(tmp_path / "new") == tmp_path / "new" and not list((tmp_path / "new").iterdir())
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(PermissionError, match="no permission to write there"):
        files.prepare_file(Path("/proc/mine.yaml"))
