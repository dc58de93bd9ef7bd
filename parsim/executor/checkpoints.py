"""The folder in which a run keeps its checkpoints: one after so many steps, complete as soon as its manifest is there, the last two kept.

    FOLDER/parsim.lock              held by the run that trains there
    FOLDER/step-40/rank-0.npz ...   what each rank has written (shards.py)
    FOLDER/step-40/manifest.json    of which run it is, the losses until then, length and checksum of each file

Nothing is removed but files of these names, in folders of these names, and no symlink is followed to one.  A folder that holds other
things, and no lock, is somebody else's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim import __version__
from parsim.errors import CheckpointError
from parsim.executor.evaluate import Score
from parsim.executor.job import RunRequest
from parsim.executor.shards import MANIFEST, WrittenShard, file_of, folder_of, seal, sync_folder, whole_file
from parsim.plain import fingerprint, to_plain
from parsim.scenario.read_files import open_bytes, read_bytes

_FORMAT: Final = 1
_KEPT: Final = 2  # checkpoints: while one is being written, another is whole
_MOST_BYTES: Final = 400_000_000  # of a manifest: the losses of some ten million steps
_STEP, _OURS = re.compile(r"step-([1-9]\d{0,9})"), re.compile(r"(manifest\.json|rank-\d+\.npz)(\.\d+\.tmp)?")
_LOCK: Final = "parsim.lock"
Curve = list[tuple[float, Score | None]]  # by step: the loss, and where it was measured the score


class Manifest(Struct, frozen=True):
    """What says that a checkpoint is complete, and of which run."""

    format: int
    ended: int  # steps
    run: dict[str, Any]
    curve: Curve
    shards: list[WrittenShard]


class Resumption(Struct, frozen=True):
    """From where a run goes on: so many steps lie behind it, with these losses."""

    ended: int = 0
    curve: Curve = msgspec.field(default_factory=list)


def identity(run: RunRequest) -> dict[str, Any]:
    """What must be the same in a run that goes on: its plan field by field, of the rest one text each; not how many steps it takes."""
    model, data = run.model, hashlib.sha256()
    for name, array in sorted(run.data.train.items()) if run.data else ():
        data.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    parts = {
        "model": run.spec,
        "cluster": model.cluster,
        "stack": model.stack,
        "batch": model.batch,
        "training": replace(run.training, epochs=1),
        "bytes of dtypes": run.dtype_bytes,
        "rounding": run.rounds_as,
    }
    if run.factors:
        parts["disturbance"] = run.factors
    plain = {"parsim": __version__, "seed": run.seed, "precision": run.precision, "data": data.hexdigest()[:16]}
    return {**plain, **{name: fingerprint(part)[:16] for name, part in parts.items()}, "plan": to_plain(run.plan)}


class CheckpointFolder:
    """The checkpoints of one run, which alone has the folder while this lives."""

    def __init__(self, run: RunRequest, num_ranks: int) -> None:
        """Makes the folder, and takes it.

        Raises:
            CheckpointError: it cannot be made, written to or looked into, it holds other things, or another run has it.
        """
        assert run.keeping
        self.path, self._run, self._num_ranks = Path(run.keeping.folder), json.loads(json.dumps(identity(run))), num_ranks
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            is_ours = os.path.lexists(self.path / _LOCK)
            others = () if is_ours else sorted(name for name in os.listdir(self.path) if name != _LOCK and not _STEP.fullmatch(name))
            if others:
                more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
                what = f"no checkpoints are kept beside files of others: it holds {others[0]!r}{more}"
                raise CheckpointError(what, str(self.path), "Name a new folder.")
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:  # a name with a NUL
            what = f"no checkpoints can be kept there: {getattr(error, 'strerror', error)}"
            raise CheckpointError(what, str(self.path), "Name a folder that can be written to.") from error
        try:
            self._take(is_ours=is_ours)
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self, *, is_ours: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            remedy = "Wait for its end, or name another folder."
            raise CheckpointError("another run keeps its checkpoints there now", str(self.path), remedy) from error
        for ended, path in () if is_ours else self._steps():
            if ended not in self.whole:
                raise CheckpointError("is no checkpoint, and nothing that parsim left", str(path), "Name another folder.")
        self._clean()

    def close(self) -> None:
        """Remove what is not whole, and let others have the folder."""
        try:
            self._clean()
        finally:
            os.close(self._lock)

    @property
    def whole(self) -> list[int]:
        """After how many steps there are complete checkpoints."""
        return sorted(ended for ended, path in self._steps() if (path / MANIFEST).is_file())

    def begin(self, *, resume: bool, from_step: int | None, num_steps: int) -> Resumption:
        """From where the run goes on; what is behind that is removed.

        Raises:
            CheckpointError: there are checkpoints, and it should not resume; the one is damaged, or of another run, or is none.
        """
        there = self.whole
        if not resume:
            if there:
                raise CheckpointError(
                    f"there is a checkpoint after step {there[-1]:,} already",
                    str(self.path),
                    "--resume (resume=True) goes on from there; or name another folder.",
                )
            return Resumption()
        if not there and from_step is None:
            return Resumption()
        if from_step is not None and from_step not in there:
            known = " and ".join(f"step {each:,}" for each in there) or "none"
            raise CheckpointError(f"there is no checkpoint after step {from_step:,}", str(self.path), f"There is: {known}.")
        ended = there[-1] if from_step is None else from_step
        try:
            found = self._check(ended)
        except CheckpointError as error:
            raise CheckpointError(error.what, error.where, self._offer(ended, there)) from error
        if wrong := self._differences(found.run):
            raise CheckpointError(f"the checkpoint after step {ended:,} is of another run: {wrong}", str(self.path), _ANOTHER)
        if ended > num_steps:
            raise CheckpointError(f"the run is at step {ended:,} already, and {num_steps:,} steps are asked for", str(self.path))
        for each in there:
            if each > ended:
                self._remove(self.path / folder_of(each))
        return Resumption(ended, found.curve)

    def commit(self, ended: int, shards: Sequence[WrittenShard], curve: Curve) -> None:
        """Make a checkpoint of what all ranks have written, and remove those that it takes the place of.

        Raises:
            CheckpointError: it cannot be written; those before it are as they were.
        """
        told = Manifest(_FORMAT, ended, self._run, curve, list(shards))
        with whole_file(self.path / folder_of(ended) / MANIFEST) as file:
            sync_folder(self.path)
            file.write(json.dumps(asdict(told), default=asdict, indent=1).encode())
        for each in self.whole[:-_KEPT]:
            self._remove(self.path / folder_of(each))

    def _steps(self) -> Iterator[tuple[int, Path]]:
        """The folders of checkpoints, complete or not."""
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if match := _STEP.fullmatch(entry.name):
                    if not entry.is_dir(follow_symlinks=False):
                        raise CheckpointError("is no folder that parsim made", entry.path, "Remove it, or name another folder.")
                    yield int(match[1]), Path(entry.path)

    def _clean(self) -> None:
        """Remove what a run that was killed left: checkpoints without a manifest, files that were being written."""
        for _, path in self._steps():
            if (path / MANIFEST).is_file():
                self._unlink(path, lambda name: name.endswith(".tmp"))
            else:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """A checkpoint: first what makes it complete; a folder in which others have put files stays with these."""
        self._unlink(path, lambda name: name == MANIFEST)
        self._unlink(path, lambda name: True)
        with contextlib.suppress(OSError):
            path.rmdir()

    def _unlink(self, folder: Path, chosen: Any) -> None:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in [*entries]:
                if _OURS.fullmatch(entry.name) and chosen(entry.name) and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)

    def _check(self, ended: int) -> Manifest:
        """The manifest of a checkpoint, whose files are as they were written."""
        folder = self.path / folder_of(ended)
        found = _manifest(ended, folder / MANIFEST)
        if found.ended != ended or len(found.curve) != ended:
            raise _damage(ended, f"{MANIFEST} speaks of step {found.ended:,}", folder)
        if not self._differences(found.run) and len(found.shards) != self._num_ranks:
            raise _damage(ended, f"{MANIFEST} speaks of {len(found.shards)} ranks", folder)
        for rank, told in enumerate(found.shards):
            if wrong := _fault(folder / file_of(rank), told):
                raise _damage(ended, f"{file_of(rank)} {wrong}", folder)
        return found

    def _offer(self, ended: int, there: Sequence[int]) -> str:
        """What to do where a checkpoint is damaged."""
        for each in sorted((each for each in there if each < ended), reverse=True):
            with contextlib.suppress(CheckpointError):
                self._check(each)
                return f"The one after step {each:,} is whole: --resume --from-step {each} (from_step={each}) goes on from there."
        return "No other is whole: begin anew in another folder."

    def _differences(self, run: Mapping[str, Any]) -> str:
        """What of this run is another than of that one; "" where nothing is."""
        own, found = {**self._run}, {**run}
        plans = [each.pop("plan", None) for each in (own, found)]
        here, there = (each if isinstance(each, dict) else {} for each in plans)
        pairs = [(name, there.get(name), here.get(name)) for name in sorted({*here, *there})]
        said = [f"its {name} is {was!r}, here {now!r}" for name, was, now in pairs if was != now]
        for name in sorted({*own, *found}):
            if (was := found.get(name)) != (now := own.get(name)):
                said.append(f"its {name} is {was!r}, here {now!r}" if name in _SHOWN else f"its {name} is another")
        return "; ".join(said)


_SHOWN: Final = ("parsim", "seed", "precision")
_ANOTHER: Final = (
    "A run goes on with the scenario, plan, seed and precision that it began with, for as many steps as you like; else name another folder."
)


def _damage(ended: int, why: str, folder: Path) -> CheckpointError:
    return CheckpointError(f"the checkpoint after step {ended:,} is damaged: {why}", str(folder))


def _manifest(ended: int, path: Path) -> Manifest:
    try:
        raw = read_bytes(path, _MOST_BYTES)
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES:,} bytes")
        found = msgspec.convert(json.loads(raw.decode()), Manifest)
    except OSError as error:
        raise _damage(ended, f"{path.name} cannot be read ({error.strerror})", path.parent) from error
    except (ValueError, RecursionError) as error:  # ValidationError of msgspec is one
        raise _damage(ended, f"{path.name} is no manifest ({error})", path.parent) from error
    if found.format != _FORMAT:
        raise CheckpointError(f"the checkpoint is of format {found.format}, and this parsim reads {_FORMAT}", str(path.parent))
    return found


def _fault(path: Path, told: WrittenShard) -> str:
    """What is wrong with a rank's file; "" for nothing."""
    try:
        with open_bytes(path, told.bytes) as file:
            size = os.fstat(file.fileno()).st_size
            if size != told.bytes:
                return f"has {size:,} bytes of {told.bytes:,}"
            return "" if seal(file) == told else "has another checksum than when it was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
