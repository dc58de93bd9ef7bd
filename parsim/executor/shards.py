"""A rank's part of a checkpoint: one npz file of what its memories hold from one step to the next, whole or not there.

Which buffers last, weights.py says; which files make a checkpoint, checkpoints.py.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from parsim.errors import CheckpointError
from parsim.scenario.read_files import open_bytes
from parsim_kernels import Ledger
from parsim_kernels.signature import Array

MANIFEST: Final = "manifest.json"
_PAST: Final = "past"  # the member that is no buffer: its name has no "/"
_ANEW: Final = "Go on from another step (from_step), or begin anew in another folder."
_PIECE: Final = 1 << 20  # bytes that are hashed at once
_MOST_PAST: Final = 1 << 30
_EXCLUSIVE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What a file that is none of ours makes of zipfile and numpy.
_NO_SHARD: Final = (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, RecursionError, MemoryError)


class ShardFile(Struct, frozen=True):
    """What a manifest says of a rank's file."""

    bytes: int
    sha256: str


class Counts(Struct, frozen=True):
    """A ledger as JSON has it."""

    flops: int
    moved_bytes: dict[str, int]
    sent_bytes: dict[str, int]
    calls: list[tuple[str, str, int]]
    peak_bytes: int

    @classmethod
    def of(cls, ledger: Ledger) -> Counts:
        """What it has counted; live bytes are those of what is held."""
        calls = [(axis, operation, count) for (axis, operation), count in ledger.calls.items()]
        return cls(ledger.flops, dict(ledger.moved_bytes), dict(ledger.sent_bytes), calls, ledger.peak_bytes)

    def put(self, ledger: Ledger) -> None:
        """Let a ledger count on from there."""
        ledger.flops, ledger.moved_bytes, ledger.sent_bytes = self.flops, dict(self.moved_bytes), dict(self.sent_bytes)
        ledger.calls = {(axis, operation): count for axis, operation, count in self.calls}
        ledger.peak_bytes = self.peak_bytes


class Past(Struct, frozen=True):
    """What a rank knows of the steps until a checkpoint, beside what its memories hold."""

    losses: list[float | None]
    norms: list[float]
    own_norms: list[float]
    steps_ps: list[int]  # when each ended
    compute_ps: int  # its clock
    ends_ps: dict[str, int]
    ready_ps: dict[str, int]
    ledgers: list[Counts]  # its own, and its host's


class ShardKeeping(Struct, frozen=True):
    """What ranks are told of checkpoints: where they lie, after which steps, and from which they go on."""

    folder: str
    every: int
    num_steps: int
    start: int = 0  # steps that lie behind; 0: the run begins

    def is_due(self, ended: int) -> bool:
        """Whether there is a checkpoint after so many steps: after each `every`, and at the end."""
        return ended % self.every == 0 or ended == self.num_steps

    def path(self, ended: int, rank: int) -> Path:
        """Where a rank's part of it lies."""
        return Path(self.folder) / folder_of(ended) / file_of(rank)


def folder_of(ended: int) -> str:
    """The name of the folder of the checkpoint after so many steps.

    >>> folder_of(40)
    'step-40'
    """
    return f"step-{ended}"


def file_of(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank}.npz"


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which stands at its place on the disk when the block ends, and nowhere where it fails.

    Raises:
        CheckpointError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(beside, _EXCLUSIVE, 0o666), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
        raise CheckpointError(f"a checkpoint cannot be written: {why}", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_shard(path: Path, arrays: Mapping[str, Array], past: Past) -> ShardFile:
    """A rank's file, with all that lasts.

    Raises:
        CheckpointError: it cannot be written; what stood there is as it was.
    """
    told = np.frombuffer(json.dumps(asdict(past), default=asdict).encode(), np.uint8)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"a checkpoint cannot be written: {error.strerror}", str(path.parent)) from error
    with whole_file(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members:
            for name, array in {_PAST: told, **arrays}.items():
                with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        return seal(file)


def seal(file: IO[bytes]) -> ShardFile:
    """How long a file is, and its checksum."""
    file.seek(0)
    digest, count = hashlib.sha256(), 0
    while piece := file.read(_PIECE):
        digest.update(piece)
        count += len(piece)
    return ShardFile(count, digest.hexdigest())


def read_shard(path: Path, arrays: Mapping[str, Array]) -> Past:
    """What the rank of a file did; all that lasts is in `arrays`, as it was.

    Raises:
        CheckpointError: it cannot be read, or is no such file of this plan.
    """
    try:
        with open_bytes(path, 0) as file, zipfile.ZipFile(file) as members:
            if {each.filename for each in members.infolist()} != {f"{name}.npy" for name in (_PAST, *arrays)}:
                raise ValueError("it holds other buffers than this plan")
            past = msgspec.convert(json.loads(_member(members, _PAST, None).tobytes()), Past)
            for name, array in arrays.items():
                array[...] = _member(members, name, array)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", str(path), _ANEW) from error
    except _NO_SHARD as error:  # ValidationError of msgspec is a ValueError
        raise CheckpointError(f"is no part of a checkpoint of this plan: {error}", str(path), _ANEW) from error
    return past


def _member(members: zipfile.ZipFile, name: str, like: Array | None) -> Array:
    """A member, which has the shape and the kind of numbers of `like`, or is bytes; nothing is made that the file does not hold."""
    info = members.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{name} is not stored as it is")
    with members.open(info) as member:
        np.lib.format.read_magic(member)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(member)
        wanted: tuple[Any, Any] = (like.shape, like.dtype) if like is not None else ((min(info.file_size, _MOST_PAST),), np.dtype(np.uint8))
        if dtype != wanted[1] or (like is None and len(shape) != 1) or (like is not None and shape != wanted[0]):
            raise ValueError(f"{name} is {shape} of {dtype}, not {wanted[0]} of {wanted[1]}")
        num_bytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        if num_bytes > info.file_size or (like is None and num_bytes > _MOST_PAST):
            raise ValueError(f"{name} says that it is larger than it is")
        data = member.read()
        if len(data) != num_bytes:
            raise EOFError(f"{name} has {len(data)} bytes of {num_bytes}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
