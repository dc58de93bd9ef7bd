"""Results by key in one sqlite file, which several sweeps may share: a chunk is there whole or not at all, whenever the process ends."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from parsim.errors import ParsimError

_APPLICATION: Final = 0x70617273  # "pars", by which a file of ours is known
_FORMAT: Final = 1
_PATIENCE_S: Final = 60.0  # another sweep writes a chunk in milliseconds


class ResultCache:
    """An open cache; without a path it lasts as long as the process.

    Raises:
        ParsimError: the file cannot be read or written, or is no cache.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = str(path or ":memory:")
        with self._in_words():
            # isolation_level None: transactions begin where the code says so.
            self._file = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def find(self, key: str) -> str | None:
        """The result kept under a key; None: there is none."""
        with self._in_words():
            row = self._file.execute("SELECT result FROM results WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, results: Iterable[tuple[str, str]]) -> None:
        """Keep (key, result) pairs, all or none; what stood under a key goes."""
        with self._in_words(), self._transaction():
            self._file.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", results)

    def _prepare(self) -> None:
        if self._number("schema_version"):  # there is a table, or more
            if self._number("application_id") != _APPLICATION:
                raise ParsimError("is a database of another program", self.path, "Name another file for the cache.")
            if self._number("user_version") != _FORMAT:
                remedy = "Name another file for the cache, or delete this one."
                raise ParsimError("is the cache of another version of parsim", self.path, remedy)
        with contextlib.suppress(sqlite3.OperationalError):  # another sweep is about it, or the disk cannot: then without
            self._file.execute("PRAGMA journal_mode = WAL")
        with self._transaction():  # written in any case: so a file that can only be read is found out now
            self._file.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, result TEXT NOT NULL) WITHOUT ROWID")
            self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._file.execute(f"PRAGMA user_version = {_FORMAT}")

    def _number(self, pragma: str) -> int:
        return int(self._file.execute(f"PRAGMA {pragma}").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")  # asks for the right to write at once, so that waiting for it is patient
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            remedy = "Name another file for the cache, in a directory that can be written to."
            raise ParsimError(f"cannot be used as a cache: {error}", self.path, remedy) from None
