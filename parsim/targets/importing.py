"""From a launcher's file to the keys of a scenario: each target's own table says which, and what remains is listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from parsim.errors import ParsimError
from parsim.targets.entries import Keys, Unresolved
from parsim.targets.target import TARGETS, ForeignJob, KeyValue, Left, Neighbours, Target

# A line that starts a program by deepspeed, or one that is told of it.
_BY_DEEPSPEED: Final = re.compile(r"^(?!\s*#).*((?<![\w./-])deepspeed[ \t].*\.py\b|\s--deepspeed(_config)?\b)", re.MULTILINE)


def job_of(target: Target, version: str, keys: Mapping[str, KeyValue]) -> ForeignJob:
    """What keys of a launcher say; an entry that knows how many devices there are reads them as "num_devices"."""
    given = Keys(keys)
    for key in [key for key, value in keys.items() if isinstance(value, Unresolved)]:
        given.leave(key, "it is computed there, and nothing is run to read it")
    found: dict[str, KeyValue] = {}
    for entry in target.entries(version):
        found |= dict(entry.read(given))
    num_devices = found.pop("num_devices", None)
    left = (*given.left, *(Left(key, value, "parsim has nothing that it says") for key, value in given.rest().items()))
    return ForeignJob(target.name, version, found, left, num_devices)


def read_job(text: str, name: str, target: str = "", beside: Neighbours = lambda path: None, *, asked: str = "") -> ForeignJob:
    """The job that a file says; its target is found by its form where none is named, and its version where none is asked for.

    `name` may end in ::FUNCTION, of a file that describes several; `beside` has the files of the same package, where there are some.

    Raises:
        ParsimError: no target reads it.
    """
    TARGETS.discover("parsim.targets.launchers")
    for each in (TARGETS.get(target),) if target else TARGETS.values():
        if read := each.read_with(text, name, beside) if each.read_with else each.read(text, name):
            keys, version = read
            return job_of(each, asked or version or each.versions[0], keys)
    remedy = f"Name it: --from {', '.join(TARGETS.names())}; of another, say it in what parsim init --model M --node N -o FILE writes."
    if _BY_DEEPSPEED.search(re.sub(r"\\\s*\n", " ", text)):
        remedy = "It starts a program by deepspeed: import the JSON behind --deepspeed_config, with --num-devices N."
    elif target:
        remedy = f"It reads {TARGETS.get(target).title.rpartition(': ')[2]}; without --from all launchers are tried."
    raise ParsimError(f"{target} finds no job in it" if target else "no known launcher reads it", name, remedy)
