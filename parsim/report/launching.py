"""What `parsim export` writes and prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parsim.report.console import log, log_files, say
from parsim.report.files import prepare, write
from parsim.report.manners import OK
from parsim.targets import export_plan

if TYPE_CHECKING:
    from parsim.report.console import Output
    from parsim.scenario.source import Source
    from parsim.targets import Launch


def show_export(source: Source, plan: str, to: str, output: Output, out: Path | None) -> int:
    """Write the files of an export, or print them where no place is named for them."""
    launch = export_plan(source.load(), plan, to)
    if out:
        prepare(out)
        made: dict[str, str | bytes] = {**launch.files, **{name: make() for name, make in launch.data.items()}}
        log_files(out, [write(out / name, content) for name, content in made.items()])
    document = {"target": launch.target, "version": launch.version, "command": launch.command, "files": dict(launch.files)}
    output.show({**document, "notes": list(launch.notes)}, (), lambda: _tell(launch, with_files=not out))
    return OK


def _tell(launch: Launch, *, with_files: bool) -> None:
    if with_files:
        for name, text in launch.files.items():
            say(f"# {name}\n{text}")
        for name in launch.data:
            log(f"{name} holds numbers; -o DIR writes it")
    say(launch.command)
    for note in launch.notes:
        log(note)
