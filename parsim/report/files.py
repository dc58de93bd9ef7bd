"""Files that are either whole or as they were before: each is written beside its place and moved there in one step."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(path: Path, content: str | bytes) -> Path:
    """The path, where `content` now stands; text is UTF-8 with "\\n" at the ends of lines.

    Raises:
        OSError: it cannot be written; a file that stood there is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    _refuse_devices(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # in the same directory: moving across file systems is no single step
    try:
        _write_new(beside, data)
        os.replace(beside, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file, and nobody knows the one beside
        raise
    finally:
        beside.unlink(missing_ok=True)
    return path


def prepare(directory: Path) -> Path:
    """The directory, which exists now; asked before long work, so that it is not lost for want of a place.

    Raises:
        OSError: it cannot be made or written to, or is a file.
    """
    for each in (directory, *directory.parents):
        if each.exists() and not each.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file, not a directory", str(each))
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f".{os.getpid()}.tmp"  # root may write anywhere, and still can't in /proc
    try:
        _write_new(probe, b"")
    except OSError as error:
        raise PermissionError(error.errno, "no permission to write there", str(directory)) from None
    probe.unlink()
    return directory


def prepare_file(path: Path) -> Path:
    """The path, where a file can be written now.

    Raises:
        OSError: it is a directory or a device, or its directory cannot be made or written to.
    """
    prepare(path.absolute().parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory, not a file", str(path))
    _refuse_devices(path)
    return path


def _refuse_devices(path: Path) -> None:
    """Refuse to put a file in the place of what is none: of a pipe that somebody reads, or of /dev/null."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is a pipe or a device, and no place for a file", str(path))


def _write_new(path: Path, data: bytes) -> None:
    """A file of a name of our own; what somebody left there is removed, and no link is followed to another place."""
    path.unlink(missing_ok=True)
    with open(os.open(path, _NEW, 0o666), "wb") as file:
        file.write(data)


def json_text(document: Mapping[str, Any]) -> str:
    """The document as JSON, in the order of its keys; the same document gives the same text.

    >>> json_text({"step_s": 1.5, "plans": []})
    '{\\n  "step_s": 1.5,\\n  "plans": []\\n}\\n'
    """
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def folder(name: str) -> Path:
    """The default place of a scenario's reports, below the current directory; no name leads out of it.

    >>> folder("gpt3 175b/../x").as_posix()
    'reports/gpt3_175b_.._x'
    """
    safe = re.sub(r"[^\w.+-]+", "_", name).strip(".")
    return Path("reports") / (safe[:100] or "scenario")
