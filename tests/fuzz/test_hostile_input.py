"""Whatever somebody gives the command line ends within 10 s and 2 GiB in a clear error or an answer, and nothing of it is run."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from fuzz import drive, watched_run
from fuzz.watched_run import End, Kind
from support import tiered

_A_CHUNK = 50
_CHUNKS = [tiered(range(first, first + _A_CHUNK), f"{first}", slow=True) for first in range(1000, 3000, _A_CHUNK)]


@pytest.mark.parametrize("seeds", [tiered(range(20), "a few", slow=False), *_CHUNKS])
def test_every_command_ends_in_an_error_or_an_answer_on_hostile_input(seeds: range, tmp_path: Path) -> None:
    ends = {seed: drive.case(seed, tmp_path / str(seed)) for seed in seeds}
    wrong = {seed: (end.arguments, end.faults, end.err[-400:]) for seed, end in ends.items() if end.faults}
    assert not wrong, wrong
    assert {end.kind for end in ends.values()} >= {Kind.ANSWER, Kind.ERROR}, watched_run.tell([*ends.values()])
    lost = {seed: end.err for seed, end in ends.items() if end.kind is Kind.ERROR and not watched_run.names_a_command(end)}
    assert not lost, f"errors without a way out: {lost}"


def _end(here: Path, *arguments: str) -> End:
    (here / "here").mkdir(exist_ok=True)
    return watched_run.run(arguments, here / "here")


def test_what_is_no_file_of_results_is_neither_waited_for_nor_read_without_end(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    os.mkfifo(here / "pipe.json")
    (here / "zero.json").symlink_to("/dev/zero")
    with (here / "sparse.csv").open("wb") as file:
        file.truncate(20 * 2**30)
    own_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for arguments in (
        ("compare", "pipe.json:a", "pipe.json:b"),
        ("compare", "zero.json:a", "zero.json:b"),
        ("calibrate", "--from", "pipe.json", "--accelerator", "h100"),
        ("plot", "sparse.csv", "--x", "a", "--y", "b"),
    ):
        end = _end(tmp_path, *arguments)
        assert end.kind is Kind.ERROR and not end.faults, end
        assert end.peak_bytes < max(2**29, 1.02 * own_bytes)  # until it runs, a process counts the pages of the one that starts it


def test_a_long_file_is_told_what_a_short_one_is(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "deep.yaml").write_text("a: " + "[" * 60_000 + "]" * 60_000)
    (here / "many.yaml").write_text(f"a: [{','.join('1' * 300_000)}]")
    (here / "plain.yaml").write_text("".join(f"key{i}: {i:060}\n" for i in range(2_000)))
    said = [_end(tmp_path, "check", name) for name in ("deep.yaml", "many.yaml", "plain.yaml")]
    assert not any(end.faults for end in said), said
    assert "nested more than 40 levels deep" in said[0].out and "unfolds to too many values" in said[1].out
    assert "plain.yaml:1:1: key0: unknown key" in said[2].out and "2003 errors" in said[2].err
    assert len(said[2].out.splitlines()) == 1000


def test_the_driver_sees_what_a_command_must_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parsim import cli

    def misbehave() -> None:
        Path("stray.txt").write_text("x")
        Path("/dev/null").open("w").close()
        os.system("touch OWNED")
        raise RuntimeError("lost")

    monkeypatch.setattr(cli, "main", misbehave)
    faults = " ".join(_end(tmp_path, "run").faults)
    for each in ("ends with status 70", "Traceback", "leaves", "stray.txt", "starts os.system", "a payload"):
        assert each in faults, faults
    monkeypatch.setattr(cli, "main", lambda: [bytes(2**28) for _ in range(64)])
    assert "MemoryError" in " ".join(_end(tmp_path, "run").faults)
