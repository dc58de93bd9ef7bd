"""How the command line ends: a user's mistake is a sentence on stderr and status 2, never a traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec

from parsim.errors import ParsimError
from parsim.report.ways_out import way_out

P = ParamSpec("P")
OK, FAILED, WRONG, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141  # the last two as a shell tells SIGINT and SIGPIPE
_NAME: Final = "parsim"


class Ended(SystemExit):
    """A command has ended, with its status: one that typer chooses is another SystemExit."""


def command(work: Callable[P, int]) -> Callable[P, None]:
    """`work` as a command: what it returns is the exit status, and what goes wrong in it is told in words."""

    @functools.wraps(work)
    def polite(*args: P.args, **kwargs: P.kwargs) -> None:
        raise Ended(status(lambda: work(*args, **kwargs), work.__name__.partition("_")[0]))

    polite.__annotations__ = {**work.__annotations__, "return": None}
    return polite


def status(work: Callable[[], int], asked: str = "") -> int:
    """The exit status of `work`, the command that was asked for."""
    try:
        result = work()
        with stdout_named():
            sys.stdout.flush()
        return result
    except ParsimError as error:
        # Faults of a file open with file:line:column, as editors want it.
        text = str(error) if getattr(error, "faults", ()) else f"{type(error).__name__}: {error}"
        return _complain(text, way_out(error, text, asked))
    except BrokenPipeError:
        return leave()
    except KeyboardInterrupt:
        sys.stderr.write(f"{_NAME}: interrupted\n")
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(text := f"{place}{error.strerror or error}", way_out(error, text, asked))
    except MemoryError:
        return _complain(f"{_NAME}: this takes more memory than there is", f"  Next: ask for less; {_NAME} doctor says how much there is.")


@contextlib.contextmanager
def stdout_named() -> Iterator[None]:
    """A stdout that takes no more is named in the error."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "stdout"
        raise


def unwind() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, so that workers and their shared memory are put away."""
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave() -> int:
    """The status when nobody reads stdout any more; the interpreter's last flush then goes nowhere."""
    with contextlib.suppress(OSError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOBODY_READS


def _complain(text: str, next_command: str) -> int:
    sys.stderr.write(f"{text}\n" + f"{next_command}\n" * bool(next_command))
    return WRONG
