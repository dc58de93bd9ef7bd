"""What `parsim export` writes and prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from parsim.errors import ParsimError
from parsim.report.console import log, log_files, say
from parsim.report.files import prepare, write
from parsim.report.manners import OK
from parsim.targets import export_plan

if TYPE_CHECKING:
    from parsim.report.console import Output
    from parsim.scenario.source import Source
    from parsim.targets import Launch


def show_export(source: Source, plan: str, to: str, output: Output, out: Path | None, *, force: bool = False) -> int:
    """Write the files of an export, or print them where no place is named for them.

    Raises:
        ParsimError: a file is there with other content, and nobody says `force`; nothing is written then.
    """
    launch = export_plan(source.load(), plan, to)
    if out:
        made: dict[str, str | bytes] = {**launch.files, **{name: make() for name, make in launch.data.items()}}
        if not force and (edited := _edits(out, made)):
            what = f"{', '.join(edited)} {'has' if len(edited) == 1 else 'have'} other content than this export and would be lost"
            raise ParsimError(f"{out}: {what}", remedy="Name another folder with -o, or write over what is there with --force.")
        prepare(out)
        log_files(out, [write(out / name, content) for name, content in made.items()])
    document = {"target": launch.target, "version": launch.version, "command": launch.command, "files": dict(launch.files)}
    output.show({**document, "notes": list(launch.notes)}, (), lambda: _tell(launch, with_files=not out))
    return OK


def _edits(out: Path, made: Mapping[str, str | bytes]) -> list[str]:
    """The files that are there with other content: edited since, or of another plan."""
    found = []
    for name, content in made.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        path = out / name
        if path.is_file() and (path.stat().st_size != len(data) or path.read_bytes() != data):
            found.append(name)
    return found


def _tell(launch: Launch, *, with_files: bool) -> None:
    if with_files:
        for name, text in launch.files.items():
            say(f"# {name}\n{text}")
        for name in launch.data:
            log(f"{name} holds numbers; -o DIR writes it")
    say(launch.command)
    for note in launch.notes:
        log(note)
