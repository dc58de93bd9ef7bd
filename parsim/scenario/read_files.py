"""Files that somebody names, opened so that no pipe is waited for, and read so that none fills the memory."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

_LONGEST: Final = 2**20  # bytes of a line that are handed on in one piece
_MOST_JSON: Final = 40_000_000


@contextmanager
def open_bytes(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """A file that is open to be read; of a pipe what somebody writes into it, up to one byte more than `most`.

    Raises:
        OSError: it cannot be read.
        ValueError: the path is none.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        number = file.fileno()
        if not stat.S_ISFIFO(os.fstat(number).st_mode):
            os.set_blocking(number, True)
            yield file
            return
        first = b""
        with contextlib.suppress(BlockingIOError):  # there is a writer, who has nothing ready
            if not (first := os.read(number, 1)):
                raise OSError(errno.EPIPE, "is a pipe that nobody writes into")
        os.set_blocking(number, True)
        yield io.BufferedReader(io.BytesIO(first + file.read(most + 1 - len(first))))


def read_bytes(path: str | Path, most: int) -> bytes:
    """What a file holds, or a pipe that somebody writes into; of more than `most` bytes one more than that.

    Raises:
        OSError: it cannot be read.
        ValueError: the path is none.
    """
    with open_bytes(path, most) as file:
        return file.read(most + 1)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; one of more bytes than a memory holds comes in pieces."""
    return iter(lambda: file.readline(_LONGEST), b"")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, or larger or deeper than any that parsim writes.
    """
    raw = read_bytes(path, _MOST_JSON)
    if len(raw) > _MOST_JSON:
        raise ValueError(f"larger than the {_MOST_JSON:,} bytes that are read")
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # where no pipe is waited for
