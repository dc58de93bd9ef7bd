"""`parsim execute --checkpoint DIR --resume`, from the command line: a run that was ended names the command that goes on."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import call, here
from test_cli_process import ENVIRONMENT, PARSIM

__all__ = ["here"]
KEPT = ("--checkpoint", "kept", "--checkpoint-every", "2")
ASKED = ("execute", "tiny.yaml", "--plan", "split", *KEPT)


def losses(text: str) -> list[str]:
    return [row["loss"] for row in csv.DictReader(io.StringIO(text))]


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PARSIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < end_s:
        time.sleep(0.005)
    assert path.exists(), process.communicate()


def test_the_run_that_goes_on_prints_the_whole_curve(here: Path) -> None:
    alone = call("execute", "tiny.yaml", "--plan", "split", "--transport", "lockstep", "--steps", "5", "--csv")
    first = call(*ASKED, "--transport", "lockstep", "--steps", "3", "--csv")
    again = call(*ASKED, "--transport", "lockstep", "--steps", "5", "--resume", "--csv")
    assert again.exit_code == first.exit_code == 0, again.stderr
    assert losses(again.stdout) == losses(alone.stdout) and len(losses(first.stdout)) == 3
    done = call(*ASKED, "--transport", "lockstep", "--steps", "5", "--resume")
    assert "went on after step 5" in done.stderr and [line for line in done.stdout.splitlines() if line.startswith("split  step 1  loss")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny.yaml", "--to-loss", "nan"), "must be a number, not nan"),
        (("tiny.yaml", "--resume"), "checkpoints need a folder"),
        (("tiny.yaml", "--checkpoint", ""), "checkpoints need a folder"),
        (("tiny.yaml", "--plan", "split", "--checkpoint", "."), "no checkpoints are kept beside files of others"),
        (("tiny.yaml", *KEPT), "checkpoints are of one plan, and here are 2"),
        (("tiny.yaml", "--plan", "split", "--checkpoint", "tiny.yaml"), "no checkpoints can be kept there: File exists"),
    ],
)
def test_what_cannot_be_kept_is_a_sentence_and_status_2(here: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call("execute", *arguments, "--transport", "lockstep")
    assert result.exit_code == 2 and said in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["a worker", "all of it", "Ctrl-C"])
def test_a_run_that_was_ended_names_the_command_that_goes_on(here: Path, whom: str) -> None:
    steps = "40"
    alone = call("execute", "tiny.yaml", "--plan", "split", "--steps", steps, "--csv")
    process = begin(*ASKED, "--steps", steps, "--csv")
    wait_for(Path("kept/step-4/manifest.json"), process)
    if whom == "a worker":
        (nursery,) = children(process.pid)
        os.kill(children(nursery)[-1], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL if whom == "all of it" else signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == {"a worker": 2, "all of it": -signal.SIGKILL, "Ctrl-C": 130}[whom], said
    shown = re.search(r"Next: (parsim execute .*--resume)", said)
    assert shown or whom == "all of it"
    command = shlex.split(shown[1])[1:] if shown else [*ASKED, "--steps", steps, "--resume"]
    again = call(*command, "--csv")
    assert again.exit_code == 0 and losses(again.stdout) == losses(alone.stdout), again.stderr
    assert sorted(os.listdir("kept")) == ["parsim.lock", "step-38", "step-40"]


@pytest.mark.slow
def test_processes_of_mpiexec_go_on_too(here: Path) -> None:
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not program:
        pytest.skip("no mpiexec")
    alone = call("execute", "tiny.yaml", "--plan", "split", "--transport", "lockstep", "--steps", "5", "--csv")
    for steps in ("3", "5"):
        command = [program, "-n", "4", *PARSIM, *ASKED, "--transport", "mpi", "--steps", steps, "--resume", "--csv"]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr
    assert losses(done.stdout) == losses(alone.stdout)
    assert sorted(os.listdir("kept")) == ["parsim.lock", "step-4", "step-5"]
    refused = subprocess.run(command[:-2], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert refused.returncode == 2 and "there is a checkpoint after step 5 already" in refused.stderr


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
def test_a_file_that_may_grow_no_further_ends_the_run_in_a_sentence(here: Path) -> None:
    call(*ASKED, "--steps", "2")
    shell = f"ulimit -f 8; exec {shlex.join([*PARSIM, *ASKED, '--steps', '6', '--resume', '--transport', 'lockstep'])}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2 and "the run ended: a checkpoint cannot be written: File too large" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and sorted(os.listdir("kept")) == ["parsim.lock", "step-2"]
    assert call(*ASKED, "--steps", "6", "--resume").exit_code == 0
