"""The cache is one sqlite file: whole chunks, several writers, and words for whatever it cannot be."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.sweeps.cache import ResultCache


def test_what_is_kept_is_found_by_the_next_that_opens_the_file(tmp_path: Path) -> None:
    with ResultCache(tmp_path / "c.sqlite") as cache:
        cache.keep([("a", "1"), ("b", "2")])
        cache.keep([("b", "3")])
    with ResultCache(tmp_path / "c.sqlite") as cache:
        assert (cache.find("a"), cache.find("b"), cache.find("c")) == ("1", "3", None)


def test_a_chunk_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with ResultCache(tmp_path / "c.sqlite") as cache:
        with pytest.raises(ParsimError, match="cannot be used as a cache"):
            cache.keep([("a", "1"), ("b", None)])  # type: ignore[list-item]
        assert cache.find("a") is None


def test_without_a_file_it_lasts_as_long_as_it_is_open() -> None:
    with ResultCache(None) as cache:
        cache.keep([("a", "1")])
        assert cache.find("a") == "1"


def test_many_writers_wait_for_one_another(tmp_path: Path) -> None:
    """Threads with connections of their own: to sqlite as good as processes."""
    wrong: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with ResultCache(tmp_path / "c.sqlite") as cache:
                for n in range(25):
                    cache.keep([(f"{number} {n}", "x"), (f"{n}", f"{n}")])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    with ResultCache(tmp_path / "c.sqlite") as cache:
        assert all(cache.find(f"{number} {n}") == "x" for number in range(4) for n in range(25))


def text(path: Path) -> None:
    path.write_text("my notes, which are no database and longer than its header")


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE results (key TEXT PRIMARY KEY, result TEXT)")


def other_format(path: Path) -> None:
    ResultCache(path).__exit__(None, None, None)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")


def torn(path: Path) -> None:
    with ResultCache(path) as cache:
        cache.keep((f"{n}", "x" * 500) for n in range(100))
    path.write_bytes(path.read_bytes()[:8192] + b"\xff" * 20_000)


FILES = {
    text: "cannot be used as a cache: file is not a database",
    other_program: "is a database of another program",
    other_format: "is the cache of another version of parsim",
    torn: "cannot be used as a cache: database disk image is malformed",
    Path.mkdir: "cannot be used as a cache: unable to open database file",
}


@pytest.mark.parametrize("make", FILES)
def test_a_file_that_is_no_cache_is_refused_in_words_and_left_alone(make: object, tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    make(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ParsimError) as caught, ResultCache(path) as cache:
        for n in range(100):
            cache.find(f"{n}")
    assert str(caught.value).startswith(f"{path}: {FILES[make]}")  # type: ignore[index]
    assert "Name another file for the cache" in str(caught.value)
    assert not path.is_file() or path.read_bytes() == before


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "missing" / "c.sqlite", Path("/proc/c.sqlite")):
        with pytest.raises(ParsimError, match=r"cannot be used as a cache: unable to open database file\n  Name another file"):
            ResultCache(path)
    ResultCache(tmp_path / "c.sqlite").__exit__(None, None, None)
    connect = sqlite3.connect  # as for one who may only read the file: root may write any
    monkeypatch.setattr(sqlite3, "connect", lambda path, **others: connect(f"file:{path}?mode=ro", uri=True, **others))
    with pytest.raises(ParsimError, match="attempt to write a readonly database"):
        ResultCache(tmp_path / "c.sqlite")
