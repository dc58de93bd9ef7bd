"""The way in, of `python -m parsim` and of the console script: so light that Ctrl-C ends it with 130 from the first moment."""

from __future__ import annotations

# The C half of signal: the enumerations of its Python half take as long to import as all else here.
import _signal as signal  # type: ignore[import-not-found]
import gc
import os

# Objects between two collections.  Imports and schemas leave none to collect: looking for some was a seventh of `parsim check`.
_FEW_COLLECTIONS = 300_000


def main() -> None:
    """The command line as a program; a KeyboardInterrupt amid imports would end in a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    gc.set_threshold(_FEW_COLLECTIONS)
    from parsim import cli

    cli.main()


def _end(*_: object) -> None:
    os.write(2, b"parsim: interrupted\n")
    os._exit(130)  # as a shell tells SIGINT


if __name__ == "__main__":
    main()
