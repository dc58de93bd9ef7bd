"""The way in, of `python -m parsim` and of the console script: so light that Ctrl-C ends it with 130 from the first moment."""

from __future__ import annotations

import _signal as signal  # without the enumerations of its Python half, whose import takes as long as all else here
import os


def main() -> None:
    """The command line as a program; a KeyboardInterrupt amid imports would end in a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from parsim import cli

    cli.main()


def _end(*_: object) -> None:
    os.write(2, b"parsim: interrupted\n")
    os._exit(130)  # as a shell tells SIGINT


if __name__ == "__main__":
    main()
