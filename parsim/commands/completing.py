"""What a shell offers behind an option: names of the catalog, plans of the scenario; it asks at each key, so nothing heavy is imported."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Final

_LINES: Final = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")  # where typer's functions for bash, and for other shells, put it
_MOST_BYTES: Final = 1_000_000
_KEY: Final = re.compile(r"^( *)(?:\"([^\"]+)\"|'([^']+)'|([^\s\"'#:][^:]*?)) *:(?:\s|$)")
_FLOW: Final = re.compile(r"(?:^|[{,]) *\"?([\w.-]+)\"? *: *\{")


def rows_of(*kinds: str) -> Callable[[str], list[str]]:
    """What offers the names of these kinds of rows; of all kinds where none is named."""

    def offer(incomplete: str) -> list[str]:
        from parsim import catalog

        return _begin((name for kind in kinds or catalog.kinds() for name in catalog.every_name(kind)), incomplete)

    return offer


def kinds(incomplete: str) -> list[str]:
    """Everything that `parsim list` lists."""
    from parsim.report.rows import kinds as listed

    return _begin(listed(), incomplete)


def precisions(incomplete: str) -> list[str]:
    """The recipes that batch.dtype names."""
    from parsim.parallel.precision import RECIPES

    return _begin(RECIPES, incomplete)


def examples(incomplete: str) -> list[str]:
    """What `parsim init` writes for --example."""
    from parsim.report.examples import EXAMPLES

    return _begin(EXAMPLES, incomplete)


def plans(incomplete: str) -> list[str]:
    """The plans of the scenario that stands before; none where no word is a file that can be read."""
    from parsim.scenario.read_files import read_bytes

    for word in words()[2:]:
        try:
            return _begin(plans_in(read_bytes(os.path.expanduser(word), _MOST_BYTES).decode("utf-8-sig")), incomplete)
        except (OSError, ValueError):
            continue
    return []


def words() -> list[str]:
    """The command line that a shell asks about, program and command first; none where none asks."""
    line = next((os.environ[name] for name in _LINES if name in os.environ), "")
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is still open
        return line.split()


def plans_in(text: str) -> list[str]:
    """The names under `plans:` in the text of a scenario, without a reader of YAML.

    >>> plans_in("name: a\\nplans:\\n  full: {tensor_parallel: 8}  # one\\n  'two words':\\n    micro_batch: 1\\nbatch: {}\\n")
    ['full', 'two words']
    >>> plans_in("plans: {a: {tensor_parallel: 2}, b: {}}")
    ['a', 'b']
    """
    found: list[str] = []
    depth = None
    for line in text.splitlines():
        if depth is None and line.startswith(("plans:", '"plans":')):
            depth = 0
            found += _FLOW.findall(line.partition(":")[2].strip())
        elif depth is not None and (key := _KEY.match(line)):
            if not (width := len(key[1])):
                break
            depth = depth or width
            found += [key[2] or key[3] or key[4]] if width == depth else []
    return found


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    """Those names that begin so, each once."""
    return [name for name in dict.fromkeys(names) if name.lower().startswith(incomplete.lower())]
