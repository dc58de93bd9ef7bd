"""A sweep that is killed loses nothing that was finished, leaves no worker behind, and ends with the same bytes when it is run again."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_points import BASE
from typer.testing import CliRunner

from parsim.cli import app

SWEEP = f"scenario: base.yaml\nover: {{batch.global_batch: {[8 * n for n in range(1, 23)]}}}\n"
NUM_ASKED, LIMIT_S = 44, 120
FILES = ("results.csv", "results.jsonl")


def laid_out(place: Path) -> Path:
    (place / "base.yaml").write_text(BASE)
    (place / "s.yaml").write_text(SWEEP)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sweep that nobody killed."""
    there = laid_out(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        done = CliRunner().invoke(app, ["sweep", "s.yaml", "-o", "whole"])
    assert figures(done.exit_code, done.stderr) == (NUM_ASKED, 0)
    return {name: (there / "whole" / name).read_bytes() for name in FILES}


def begin(place: Path, out: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "parsim", "sweep", "s.yaml", "-o", out, *options]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(sweep: subprocess.Popen[str]) -> tuple[int, int]:
    """What it estimated, and what it took from its cache."""
    _, said = sweep.communicate(timeout=LIMIT_S)
    return figures(sweep.returncode, said)


def figures(status: int, said: str) -> tuple[int, int]:
    assert status == 0, said
    found = re.search(r"(\d+) estimated, (\d+) rows from the cache", said)
    assert found, said
    return int(found[1]), int(found[2])


def num_kept(path: Path) -> int:
    if not path.exists():
        return 0
    with sqlite3.connect(path) as file:
        try:
            return int(file.execute("SELECT count(*) FROM results").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet
            return 0


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(happens: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not happens():
        assert time.monotonic() - start < LIMIT_S
        time.sleep(0.02)


@pytest.mark.skipif(
    not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(), reason="asks Linux for the children of a process"
)
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_sweep_that_ends_early_goes_on_where_it_was(place: Path, whole: dict[str, bytes], how: signal.Signals) -> None:
    killed = begin(place, "resumed", "--workers", "2")
    until(lambda: num_kept(place / "resumed/cache.sqlite") >= 8)
    workers = children(killed.pid)
    assert len(workers) >= 2
    killed.send_signal(how)
    _, said = killed.communicate(timeout=LIMIT_S)
    assert "Traceback" not in said
    assert killed.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    kept = num_kept(place / "resumed/cache.sqlite")
    assert 8 <= kept < NUM_ASKED
    assert not any((place / "resumed" / name).exists() for name in FILES)
    assert end(begin(place, "resumed")) == (NUM_ASKED - kept, kept)
    assert {name: (place / "resumed" / name).read_bytes() for name in FILES} == whole


def test_two_sweeps_at_once_share_a_cache(place: Path, whole: dict[str, bytes]) -> None:
    both = [begin(place, name, "--cache", "shared.sqlite") for name in ("one", "two")]
    for each in both:
        end(each)
    assert num_kept(place / "shared.sqlite") == NUM_ASKED
    assert all((place / name / "results.csv").read_bytes() == whole["results.csv"] for name in ("one", "two"))
