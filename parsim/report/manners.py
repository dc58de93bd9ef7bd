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

P = ParamSpec("P")
OK, FAILED, WRONG, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141  # the last two as a shell tells SIGINT and SIGPIPE
_NAME: Final = "parsim"


class Ended(SystemExit):
    """A command has ended, with its status: one that typer chooses is another SystemExit."""


def command(work: Callable[P, int]) -> Callable[P, None]:
    """`work` as a command: what it returns is the exit status, and what goes wrong in it is told in words."""

    @functools.wraps(work)
    def polite(*args: P.args, **kwargs: P.kwargs) -> None:
        raise Ended(status(lambda: work(*args, **kwargs)))

    polite.__annotations__ = {**work.__annotations__, "return": None}
    return polite


def status(work: Callable[[], int]) -> int:
    """The exit status of `work`."""
    try:
        result = work()
        with stdout_named():
            sys.stdout.flush()
        return result
    except ParsimError as error:
        # Faults of a file open with file:line:column, as editors want it.
        return _complain(str(error) if getattr(error, "faults", ()) else f"{type(error).__name__}: {error}")
    except BrokenPipeError:
        return leave()
    except KeyboardInterrupt:
        sys.stderr.write(f"{_NAME}: interrupted\n")
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}")


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


def _complain(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return WRONG
