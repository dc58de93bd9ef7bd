"""What `parsim import` writes and prints."""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from parsim.plain import flat
from parsim.report.console import log, raw, say, show_table
from parsim.report.files import prepare_file, write
from parsim.report.manners import OK
from parsim.targets.jobs import import_source, said_of

if TYPE_CHECKING:
    from parsim.report.console import Output
    from parsim.scenario.source import Source
    from parsim.targets.jobs import ImportedJob


def show_import(source: Source, target: str, plan: str, output: Output, out: Path | None) -> int:
    """Write the scenario of a job, or print it where no place is named, with what of the job it does not say."""
    if out:
        if os.path.lexists(out):
            raise FileExistsError(errno.EEXIST, "is there already, and is not written over; name another file", str(out))
        prepare_file(out)
    job = import_source(source, target, plan, out.resolve().parent if out else None)
    if out:
        write(out, job.text)
    document = {**job.to_dict(), "out": str(out) if out else None, "command": _next(out)}
    output.show(document, (), lambda: _tell(job, source, out))
    return OK


def _next(out: Path | None) -> str:
    return f"parsim run {out}" if out else "parsim run SCENARIO, once it is written with -o SCENARIO"


def _tell(job: ImportedJob, source: Source, out: Path | None) -> None:
    if not out:
        raw(job.text)
        log(f"next: {_next(out)}")
        return
    say(f"{source}: a {'model' if job.layers else 'job'} of {job.target} {job.version}".rstrip())
    if job.layers:
        show_table([{name: str(value) for name, value in each.row().items()} for each in job.layers], left=("layer", "then"))
    stated = job.document["plans"][job.plan]
    say(f"plan {job.plan}: {', '.join(f'{key} = {value}' for key, value in flat(stated).items()) or 'all of it by default'}")
    for path, why in job.assumed.items():
        value = functools.reduce(lambda inner, key: inner[key], path.split("."), job.document)
        say(f"assumed: {path} = {value} ({why})")
    for each in job.left:
        say(f"not carried over: {source}{said_of(each)}")
    say(f"wrote {out}; next: {_next(out)}")
