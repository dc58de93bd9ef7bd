"""The text of a job's file, bounded: nothing of it is run, and what is no text is named for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parsim.errors import ParsimError
from parsim.scenario.read_files import read_bytes

MOST_BYTES: Final = 4_000_000
# How files that are no text begin -> what they are.
_KINDS: Final = {
    b"\x80\x02": "a pickle, which can run anything when it is loaded, and is never loaded here",
    b"\x80\x03": "a pickle, which can run anything when it is loaded, and is never loaded here",
    b"\x80\x04": "a pickle, which can run anything when it is loaded, and is never loaded here",
    b"\x80\x05": "a pickle, which can run anything when it is loaded, and is never loaded here",
    b"PK\x03\x04": "an archive, of which only Keras' (NAME.keras) is read",
    b"\x89HDF": "an HDF5 file; save the model as NAME.keras, or its model.to_json()",
    b"\x1f\x8b": "compressed; unpack it first",
    b"\x7fELF": "a program",
}
_WANTED: Final = "Give the text that the launcher reads: its command line, YAML, TOML or JSON."


def raw_of(path: Path, *, whole: bool = True) -> bytes:
    """What the file holds; not `whole`: at most its first MOST_BYTES.

    Raises:
        ParsimError: it is larger, or cannot be read.
    """
    try:
        raw = read_bytes(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise ParsimError(f"cannot be read: {getattr(error, 'strerror', '') or error}", str(path), _WANTED) from None
    if whole and len(raw) > MOST_BYTES:
        raise ParsimError(f"is larger than {MOST_BYTES} bytes, which no job's file is", str(path), _WANTED)
    return raw


def text_of(raw: bytes, path: Path) -> str:
    """The same as text.

    Raises:
        ParsimError: it is none.
    """
    for start, kind in _KINDS.items():
        if raw.startswith(start):
            raise ParsimError(f"is {kind}", str(path), _WANTED)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParsimError(f"byte 0x{raw[error.start]:02x} at {error.start} is not UTF-8", str(path), _WANTED) from None
    if "\0" in text:
        raise ParsimError("holds bytes that are no text", str(path), _WANTED)
    if not text.strip():
        raise ParsimError("is empty", str(path), _WANTED)
    return text
