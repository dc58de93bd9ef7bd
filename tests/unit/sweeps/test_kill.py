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

SWEEP = "scenario: base.yaml\nover: {{batch.global_batch: {}}}\n"
NUM_ASKED, LIMIT_S = 44, 120
NUM_BEGUN = 176  # of the sweep that is killed: seconds of work, so that a test that is late on a busy machine still meets it
FILES = ("results.csv", "results.jsonl")


def laid_out(place: Path) -> Path:
    (place / "base.yaml").write_text(BASE)
    for name, asked in (("s.yaml", NUM_ASKED), ("long.yaml", NUM_BEGUN)):
        (place / name).write_text(SWEEP.format([8 * n for n in range(1, asked // 2 + 1)]))
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nobody killed."""
    there = laid_out(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        done = CliRunner().invoke(app, ["sweep", "s.yaml", "-o", "whole"])
    assert figures(done.exit_code, done.stderr) == (NUM_ASKED, 0)
    return there / "whole"


@pytest.fixture(scope="module")
def whole(uncut: Path) -> dict[str, bytes]:
    return {name: (uncut / name).read_bytes() for name in FILES}


def begin(place: Path, out: str, *options: str, sweep: str = "s.yaml") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "parsim", "sweep", sweep, "-o", out, *options]
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


def kept_keys(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with sqlite3.connect(path) as file:
        try:
            return {key for (key,) in file.execute("SELECT key FROM results")}
        except sqlite3.OperationalError:  # no table yet
            return set()


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
def test_a_sweep_that_ends_early_goes_on_where_it_was(place: Path, uncut: Path, whole: dict[str, bytes], how: signal.Signals) -> None:
    killed = begin(place, "resumed", "--workers", "2", sweep="long.yaml")
    until(lambda: len(kept_keys(place / "resumed/cache.sqlite")) >= 8)
    workers = children(killed.pid)
    assert len(workers) >= 2
    killed.send_signal(how)
    _, said = killed.communicate(timeout=LIMIT_S)
    assert "Traceback" not in said
    assert killed.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    keys = kept_keys(place / "resumed/cache.sqlite")
    assert 8 <= len(keys) < NUM_BEGUN
    assert not any((place / "resumed" / name).exists() for name in FILES)
    found = len(keys & kept_keys(uncut / "cache.sqlite"))
    assert found >= 8  # points are asked in order
    assert end(begin(place, "resumed")) == (NUM_ASKED - found, found)
    assert {name: (place / "resumed" / name).read_bytes() for name in FILES} == whole


def test_two_sweeps_at_once_share_a_cache(place: Path, whole: dict[str, bytes]) -> None:
    both = [begin(place, name, "--cache", "shared.sqlite") for name in ("one", "two")]
    for each in both:
        end(each)
    assert len(kept_keys(place / "shared.sqlite")) == NUM_ASKED
    assert all((place / name / "results.csv").read_bytes() == whole["results.csv"] for name in ("one", "two"))
