"""A checkpoint is whole or not there, of one run, and nothing else is touched in its folder; what is wrong with it is a sentence."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import CheckpointError, EndedRun, ParsimError
from parsim.executor import checkpoints, shards
from parsim.executor.curve import points_of
from parsim.executor.run import Execution, execute
from parsim.parallel.plan import Batch, Plan
from parsim.report.learning import CurvesAsked, time_to_loss, words_of_time_to_loss
from parsim.scenario import Disturbance
from support import GPT, scenario, tiered

PLAN = Plan(2)
TOY = scenario(model=replace(GPT, num_layers=1), batch=Batch(2, 4))


def run(folder: Path | str | None, steps: int, **options: Any) -> Execution:
    return execute(options.pop("scenario", TOY), options.pop("plan", PLAN), num_steps=steps, checkpoint=folder, **options)


@functools.cache
def whole(steps: int) -> Execution:
    return run(None, steps)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    run(folder, 4, checkpoint_every=2)
    return folder


@pytest.fixture
def kept(written: Path, tmp_path: Path) -> Path:
    """Checkpoints after steps 2 and 4."""
    return Path(shutil.copytree(written, tmp_path / "kept"))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def files(*steps: int) -> list[str]:
    return sorted(["parsim.lock", *(f"step-{step}/{name}" for step in steps for name in ("manifest.json", "rank-0.npz", "rank-1.npz"))])


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def test_the_last_two_are_kept_and_one_stands_at_the_end(tmp_path: Path) -> None:
    run(tmp_path, 7, checkpoint_every=2)
    assert names(tmp_path) == files(6, 7)
    assert run(tmp_path, 7, checkpoint_every=2, resume=True).losses == whole(7).losses  # nothing is left to do
    assert run(tmp_path, 9, resume=True, precision="float64").losses == whole(9).losses  # more steps are no other run


def test_losses_of_steps_before_are_told_again(kept: Path) -> None:
    told: list[tuple[int, float]] = []
    found = run(kept, 5, resume=True, progress=lambda step, loss, _: told.append((step, loss)))
    assert told == list(enumerate(whole(5).losses)) and found == whole(5) and found.went_on_after == 4


def test_a_run_that_finds_nothing_begins(tmp_path: Path) -> None:
    assert run(tmp_path / "new", 2, resume=True) == whole(2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "there is a checkpoint after step 4 already"),
        ({"resume": True, "seed": 1}, "is of another run: its seed is 0, here 1"),
        ({"resume": True, "precision": "float32"}, "its precision is 'float64', here 'float32'"),
        ({"resume": True, "plan": Plan(1)}, "its data_parallel is 2, here 1"),
        ({"resume": True, "plan": replace(PLAN, zero_stage=1)}, "its zero_stage is 0, here 1"),
        ({"resume": True, "scenario": scenario(model=TOY.model, batch=Batch(4, 4))}, "its batch is another"),
        ({"resume": True, "scenario": scenario(model=replace(TOY.model, num_layers=2), batch=TOY.batch)}, "its model is another"),
        ({"resume": True, "scenario": replace(TOY, disturbance=Disturbance(slow_devices={1: 1.5}))}, "its disturbance is another"),
        ({"from_step": 3}, "there is no checkpoint after step 3"),
    ],
)
def test_another_run_is_refused_and_told_what_differs(kept: Path, options: dict[str, Any], said: str) -> None:
    before = names(kept)
    with pytest.raises(CheckpointError, match=said):
        run(kept, 6, **options)
    assert names(kept) == before
    assert run(kept, 6, resume=True) == whole(6)


def test_steps_before_a_run_went_on_have_no_wall_seconds() -> None:
    gone_on = replace(whole(4), wall_s=((0.25, 0.5), (0.125, 0.75)))
    points = points_of(gone_on, [{"validation_loss": None, "accuracy": None}] * 4)
    assert [point.wall_s for point in points] == [None, None, 0.25, 1.0]
    assert [point.virtual_s for point in points] == [ps / 1e12 for ps in whole(4).ends_ps]
    found = time_to_loss(points, CurvesAsked(9.0, wall=True)) | words_of_time_to_loss(points[:1] * 12, CurvesAsked(9.0, wall=True))
    assert found == {"to_loss": None, "wall, to loss 9": "2 sequences"}


def test_fewer_steps_than_lie_behind_are_refused(kept: Path) -> None:
    with pytest.raises(CheckpointError, match="the run is at step 4 already, and 3 steps are asked for"):
        run(kept, 3, resume=True)


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match="checkpoints need a folder"):
        run(None, 2, resume=True)
    with pytest.raises(ParsimError, match="checkpoints need a folder"):
        run("", 2)
    with pytest.raises(CheckpointError, match="no checkpoints can be kept there: embedded null byte"):
        run(tmp_path / "nul\0", 2)
    with pytest.raises(ParsimError, match="checkpoint_every = 0 must be from 1"):
        run(tmp_path, 2, checkpoint_every=0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut": ("rank-1.npz", cut, r"rank-1.npz has [\d,]+ bytes of"),
    "a bit": ("rank-0.npz", flip, "rank-0.npz has another checksum than when it was written"),
    "lost": ("rank-0.npz", Path.unlink, "rank-0.npz cannot be read .No such file"),
    "a pipe": ("rank-0.npz", to_pipe, "rank-0.npz"),
    "no JSON": ("manifest.json", lambda path: path.write_bytes(b"\xff{"), "manifest.json is no manifest"),
    "deep": ("manifest.json", lambda path: path.write_text("[" * 100_000), "manifest.json is no manifest"),
    "of another form": ("manifest.json", lambda path: path.write_text('{"format": 1}'), "manifest.json is no manifest"),
}


@pytest.mark.parametrize("how", [tiered(each, each, slow=each not in ("cut", "a bit", "deep")) for each in DAMAGES])
def test_damage_is_told_and_the_checkpoint_before_it_offered(kept: Path, how: str) -> None:
    name, damage, said = DAMAGES[how]
    damage(kept / "step-4" / name)
    with pytest.raises(CheckpointError, match=f"the checkpoint after step 4 is damaged: {said}") as caught:
        run(kept, 5, resume=True)
    assert "The one after step 2 is whole: --resume --from-step 2 (from_step=2) goes on from there." in str(caught.value)
    assert run(kept, 5, from_step=2, checkpoint_every=2) == whole(5)
    assert names(kept) == files(4, 5)


def test_where_all_is_damaged_nothing_is_offered(kept: Path) -> None:
    for step in (2, 4):
        cut(kept / f"step-{step}" / "rank-0.npz")
    with pytest.raises(CheckpointError, match="No other is whole: begin anew in another folder"):
        run(kept, 5, resume=True)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it was run",)


def hostile(path: Path, how: str) -> None:
    """A file that its manifest vouches for."""
    own = dict(np.load(path))
    first = next(name for name in own if "/" in name)
    if how == "pickle":
        own[first] = np.array([Bomb()])
    elif how == "shape":
        own[first] = own[first].reshape(-1)[:1]
    (np.savez_compressed if how == "compressed" else np.savez)(path, **own)
    if how == "no zip":
        path.write_bytes(b"PK" * 1000)
    data = path.read_bytes()
    seal = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge(path.parent, lambda told: told["shards"].__setitem__(0, seal))


@pytest.mark.parametrize("how", ["pickle", "shape", "compressed", "no zip"])
def test_a_forged_file_is_refused_and_nothing_of_it_run(kept: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept)
    hostile(kept / "step-4" / "rank-0.npz", how)
    with pytest.raises(CheckpointError, match="is no part of a checkpoint of this plan"):
        run(kept, 5, resume=True)
    assert not (kept / "it was run").exists()


def test_what_a_kill_leaves_is_removed_and_what_others_put_there_is_not(kept: Path, tmp_path: Path) -> None:
    (kept / "step-6").mkdir()
    for name in ("step-6/rank-0.npz", "step-6/rank-1.npz.12.tmp", "step-6/notes.txt", "step-4/manifest.json.7.tmp", "thesis.tex", "step-x"):
        (kept / name).write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (kept / "step-2" / "rank-7.npz").symlink_to(elsewhere)
    run(kept, 5, resume=True, checkpoint_every=5)
    assert names(kept) == sorted([*files(4, 5), "step-2/rank-7.npz", "step-6/notes.txt", "step-x", "thesis.tex"])
    assert elsewhere.read_text() == "mine"


def test_a_folder_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "rank-0.npz").write_text("mine")
    with pytest.raises(CheckpointError, match="step-2: is no checkpoint, and nothing that parsim left"):
        run(tmp_path, 2)
    assert (tmp_path / "step-2" / "rank-0.npz").read_text() == "mine"


def test_a_folder_that_holds_other_things_is_somebody_elses(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError, match=r"no checkpoints are kept beside files of others: it holds 'a.yaml' and 1 more"):
        run(tmp_path, 2)
    assert names(tmp_path) == ["a.yaml", "b.yaml"]


def test_no_symlink_stands_for_a_checkpoint(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (kept / "step-9").symlink_to(tmp_path / "other")
    with pytest.raises(CheckpointError, match="step-9: is no folder that parsim made"):
        run(kept, 5, resume=True)
    assert not any((tmp_path / "other").iterdir())


def test_a_folder_belongs_to_one_run_at_a_time(kept: Path) -> None:
    def second(step: int, loss: float, score: object) -> None:
        with pytest.raises(CheckpointError, match="another run keeps its checkpoints there now"):
            run(kept, 6, resume=True)

    assert run(kept, 6, resume=True, progress=second) == whole(6)


def test_a_place_that_cannot_be_written_to_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/kept")):
        with pytest.raises(CheckpointError, match="no checkpoints can be kept there"):
            run(folder, 2, progress=lambda *_: pytest.fail("a step ran"))


@pytest.mark.parametrize("after", [tiered(each, str(each), slow=each not in (2, 6)) for each in range(7)])
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(kept: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the writes of a checkpoint fails once: the files of two ranks, the names of folders, and the manifest."""
    right, calls = os.fsync, list[int]()

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == after + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EndedRun, match="the run ended: a checkpoint cannot be written: the disk is full") as caught:
        run(kept, 6, resume=True)
    monkeypatch.undo()
    at = 5 if after == 6 else 4  # the names of the last are not on the disk yet; the checkpoint is there
    assert f"The checkpoint after step {at} is whole: --resume (resume=True) goes on from there." in str(caught.value)
    assert names(kept) == (files(2, 4, 5) if after == 6 else files(2, 4))
    assert run(kept, 6, resume=True) == whole(6)


def test_what_diverges_is_kept_as_it_is(tmp_path: Path) -> None:
    """JSON knows no nan, and a rank without a part of the loss is no nan."""
    past = shards.Past([float("nan"), None, float("inf")], [1.5], [], [7], [])
    array = np.array([[np.nan, -0.0], [1.0, 2.0]], order="F")
    told = shards.write_shard(tmp_path / "step-1" / "rank-0.npz", {"a/b": array}, past)
    again = np.zeros_like(array)
    found = shards.read_shard(tmp_path / "step-1" / "rank-0.npz", {"a/b": again})
    assert again.tobytes("A") == array.tobytes("A") and repr(found) == repr(past)
    assert told.bytes == (tmp_path / "step-1" / "rank-0.npz").stat().st_size


def test_without_checksums_damage_passes_unseen(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: what the test of a flipped bit rests on."""
    monkeypatch.setattr(checkpoints, "_fault", lambda path, told: "")
    path = kept / "step-4" / "rank-0.npz"
    own = dict(np.load(path))
    first = next(name for name in own if name.endswith(".m"))
    own[first] = own[first] + 1
    np.savez(path, **own)
    assert run(kept, 6, resume=True) != whole(6)


def test_a_manifest_before_the_last_file_would_be_noticed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: a rank that tells of a file which it has not put in its place."""
    monkeypatch.setattr(shards.os, "replace", lambda source, target: None if "rank-1" in str(source) else os.rename(source, target))
    run(kept, 6, resume=True, checkpoint_every=3)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"the checkpoint after step 6 is damaged: rank-1\.npz cannot be read"):
        run(kept, 7, resume=True)
