"""`parsim` as a program.

Its commands stand in parsim.commands.  Each reads its arguments, calls the library, and hands the result to parsim.report.  Only typer,
rich and the errors are imported at the top, so that `parsim --help` is quick; a command imports what it uses.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from copy import copy
from io import TextIOBase
from typing import TextIO

import typer

from parsim.commands import advise, ask, catalog, choose, execute, launch, predict, size, start, sweep
from parsim.commands.app import app
from parsim.commands.completing import words
from parsim.report.light import lighten
from parsim.report.manners import FAILED, OK, Ended, leave, status

__all__ = [
    "advise",
    "app",
    "ask",
    "catalog",
    "choose",
    "execute",
    "launch",
    "main",
    "predict",
    "size",
    "start",
    "sweep",
]  # a file of commands adds them to app when it is imported


_COMPLETE = "_PARSIM_COMPLETE"  # set where a shell asks what may stand next


def main() -> None:
    """The command line as a program."""
    lighten("".join(sys.argv[1:2]))
    sys.stdout, sys.stderr = sys.stdout or _Closed(), sys.stderr or _nowhere()  # None where the shell closed them
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    code = status(_run) or OK
    gc.freeze()  # what is left ends with the process, which would look through all of it for cycles: a tenth of `parsim run --json`
    raise SystemExit(code)


class _Closed(TextIOBase, TextIO):
    """A stdout that the shell closed: whoever answers there is told that nobody reads it."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "is closed", "stdout")


def _nowhere() -> TextIO:
    """A stream that nobody reads, open until the process ends."""
    return open(os.devnull, "w")


def _program(asked: str = "") -> typer.Typer:
    """The command that is asked for alone, or all: of each that it is given typer makes the parameters, for a thirtieth of `parsim run`."""
    own = [each for each in app.registered_commands if asked == (each.name or getattr(each.callback, "__name__", ""))] if asked else []
    if not own:
        return app
    program = copy(app)
    program.registered_commands = own
    return program


def _run() -> int:
    try:
        asked = sys.argv[1:2] or (words()[1:2] if _COMPLETE in os.environ else ())
        _program(*asked)(prog_name="parsim")
    except SystemExit as end:
        if isinstance(end.code, str):
            raise  # a text, which the interpreter prints before it ends with 1
        code = end.code or OK
        return leave() if code == FAILED and not isinstance(end, Ended) else code  # so typer ends where nobody reads its help any more
    return OK


if __name__ == "__main__":
    main()
