"""Where results and log go: results on stdout, progress and log on stderr, no colour and no cut lines where nobody looks.

rich is imported where a table or a bar is drawn for somebody who looks: plain lines, JSON and CSV do without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from parsim.errors import ParsimError
from parsim.plain import csv_text
from parsim.report.files import json_text
from parsim.report.manners import stdout_named
from parsim.units import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_GAP = 2  # spaces between columns, 1 where the table would not fit
_PLAIN = 80  # columns of a plain terminal
_FOLDED = 12  # the least width of a column that folds, if a word of it is as long
_EVERY_S = 5.0  # between two lines on how far long work is
_PIPED_COLUMNS = 2000  # wide enough that no table is cut; tables take only what they need
_DRAWN: Final = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")  # what is set in the environment of a pipe behind which somebody looks


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console on stdout or stderr as it is now, as wide as the terminal or as asked.  Names from files are text, never markup."""
    from rich.console import Console

    class Pipe(Console):
        """A console whose reader may leave."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line ends quietly; rich would choose the exit status itself

    stream = sys.stderr if stderr else sys.stdout
    if width is None and not stream.isatty() and "COLUMNS" not in os.environ:
        width = _PIPED_COLUMNS
    return Pipe(file=stream, width=width, markup=False, emoji=False, highlight=False)


def say(text: str) -> None:
    """A line of results."""
    raw(f"{text}\n")


def log(text: str) -> None:
    """A line beside the results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def log_files(directory: Path, written: Sequence[Path]) -> None:
    """Say which files stand there now."""
    log(f"wrote {directory}/{{{','.join(path.name for path in written)}}}")


def raw(text: str) -> None:
    """Results for programs, as they are."""
    with stdout_named():
        sys.stdout.write(text)
        sys.stdout.flush()


class Output(Struct, frozen=True):
    """The format of results on stdout: tables for people, or JSON or CSV for programs.

    Raises:
        ParsimError: both are asked for, and there is one stdout.
        OSError: it is closed.
    """

    json: bool = False
    csv: bool = False

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise ParsimError("--json and --csv both print on stdout", remedy="Ask for one of them.")
        raw("")  # a stdout that is closed is told before the work

    def show(self, document: Mapping[str, Any], rows: Iterable[Mapping[str, object]], tables: Callable[[], None]) -> None:
        """Print the document as JSON, or the rows as CSV, or what `tables` prints."""
        if self.json:
            raw(json_text(document))
        elif self.csv:
            raw(csv_text(rows))
        else:
            tables()


def show_table(rows: Sequence[Mapping[str, str]], *, left: Sequence[str] = (), title: str = "") -> None:
    """A table with a column for every key, under its title.

    `left` columns fold where the terminal is narrow, the others never; below that the terminal itself wraps, and nothing is lost.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = {name: [name, *(row.get(name, "") for row in rows)] for name in columns}
    wide = {name: max(_widths(cells[name], "\n")) for name in columns}
    whole = sum(wide.values()) + _GAP * (len(columns) - 1)
    texts = (part for each in ([title], *cells.values()) for text in each for part in text.split("\n"))
    if _is_plain() and 0 < whole <= _PIPED_COLUMNS and all(map(str.isprintable, texts)):
        raw(f"\n{title}\n" * bool(title) + _plain_table(cells, wide, left, _GAP if whole <= _PLAIN else 1))
    else:
        _draw_table(cells, wide, left, title)


def _is_plain() -> bool:
    """Whether nobody looks at stdout, where rich would neither colour nor fold, and it takes any character."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return not sys.stdout.isatty() and not any(each in os.environ for each in _DRAWN) and encoding.lower().startswith("utf")


def _plain_table(cells: Mapping[str, Sequence[str]], widths: Mapping[str, int], left: Sequence[str], gap: int) -> str:
    """The lines that `_draw_table` prints where all columns have the widths that they want."""
    from rich.cells import cell_len

    def pad(name: str, text: str) -> str:
        text = text.rstrip()
        spaces = " " * (widths[name] - cell_len(text))
        return f"{text}{spaces}" if name in left else f"{spaces}{text}"

    def lines_of(row: Sequence[Sequence[str]]) -> list[str]:
        return [(" " * gap).join(map(pad, cells, parts)).rstrip() for parts in zip_longest(*row, fillvalue="")]

    head, *body = ([text.split("\n") for text in row] for row in zip(*cells.values(), strict=True))
    names = lines_of([each[::-1] for each in head])[::-1]  # the last lines of all beside one another
    rule = "─" * (sum(widths.values()) + gap * (len(widths) - 1))
    return "".join(f"{line}\n" for line in (*names, rule, *(line for row in body for line in lines_of(row))))


def _draw_table(cells: Mapping[str, Sequence[str]], wide: Mapping[str, int], left: Sequence[str], title: str) -> None:
    """The table of these columns, each its name and its cells, on a terminal as wide as it is."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    least = {name: min(_FOLDED, max(_widths(each, None))) if name in left else wide[name] for name, each in cells.items()}
    out = console()
    gap = _GAP if sum(wide.values()) + _GAP * (len(cells) - 1) <= min(out.width, _PLAIN) else 1
    widths = _fit_widths(wide, least, out.width - gap * (len(cells) - 1))
    out = console(width=max(out.width, sum(widths.values()) + gap * (len(cells) - 1)))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for name in cells:
        table.add_column(Text(name), justify="left" if name in left else "right", overflow="fold", width=widths[name])
    for texts in [*zip(*cells.values(), strict=True)][1:]:
        table.add_row(*(Text(text, style="bold red" if text == "no" else "") for text in texts))
    if title:
        with stdout_named():
            out.print(f"\n{title}", style="bold")
    _print(out, table)


def _fit_widths(wide: Mapping[str, int], least: Mapping[str, int], room: int) -> dict[str, int]:
    """Widths of columns, the widest narrowed first, until they fit the room or can be no narrower."""
    widths = dict(wide)
    while sum(widths.values()) > room and (free := [name for name in widths if widths[name] > least[name]]):
        widths[max(free, key=lambda name: widths[name])] -= 1
    return widths


def _widths(texts: Sequence[str], separator: str | None) -> list[int]:
    """Columns on the terminal of each line (or, without separator, of each word) of the texts."""
    from rich.cells import cell_len

    return [cell_len(part) for text in texts for part in text.split(separator)] or [0]


@contextmanager
def patience(what: str, after_s: float = 0.7) -> Iterator[Callable[[float], None]]:
    """Tell on stderr, terminal or pipe, what takes longer than `after_s`, and how far it is: call what it yields with the share."""
    progress, told, ended, begin = [0.0], Event(), Event(), monotonic()

    def tell() -> None:
        text, wait_s = f"{what} ...", after_s
        while not ended.wait(wait_s):
            if 0 < (share := progress[0]) < 1:  # behind it may come what tells no share
                text += f" {percent(share)}, about {(monotonic() - begin) * (1 / share - 1):.0f} s left"
                told.set()
            if text:
                log(text)
            text, wait_s = "", _EVERY_S

    Thread(target=tell, daemon=True).start()
    try:
        yield lambda share: progress.__setitem__(0, share)
    finally:
        ended.set()
    if told.is_set():
        log(f" 100 %, done in {monotonic() - begin:.0f} s")


@contextmanager
def bar(*, watched: bool = True) -> Iterator[Callable[[str, float], None]]:
    """What to call with a task and the share of it that is done: a bar each on stderr, where somebody watches."""
    if not (watched and sys.stderr.isatty()):
        yield lambda what, done: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        tasks = {}

        def show(what: str, done: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=1.0)
            progress.update(tasks[what], completed=done)

        yield show


@contextmanager
def watch(what: str, task: str) -> Iterator[Callable[[float], None]]:
    """What to call with the share of a task that is done: `patience` and a bar tell it."""
    with patience(what) as tell, bar() as show:

        def report(done: float) -> None:
            tell(done)
            show(task, done)

        yield report


def lines(pairs: Sequence[tuple[str, str]]) -> None:
    """Pairs of label and text, the texts aligned; each may have several lines."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for label, text in pairs:
        grid.add_row(Text(f"  {label}"), Text(text))
    _print(console(), grid)


def _print(out: Console, table: Table) -> None:
    """The table without the spaces that fill its lines."""
    with stdout_named(), out.capture() as captured:
        out.print(table)
    raw("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
