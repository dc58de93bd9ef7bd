"""Runs what an export writes on this machine: each line of its command a process, several of them over ports of localhost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parsim.targets import Launch

LIMIT_S = 600


def run_export(launch: Launch, folder: Path, python: Path, num_steps: int, environment: Mapping[str, str] | None = None) -> list[Any]:
    """The lines of JSON that the first task prints; all tasks are ended behind it."""
    write_export(launch, folder)
    own = {**os.environ, "PATH": f"{python.parent.absolute()}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": "", **(environment or {})}
    lines = [line.partition("  #")[0] for line in launch.command.splitlines()]
    with contextlib.ExitStack() as stack:
        for number, line in enumerate(lines[1:], 1):
            stack.enter_context(_task(f"{line} --steps {num_steps}", folder, own, number))
        with _task(f"{lines[0]} --steps {num_steps}", folder, own, 0) as first:
            status = first.wait(LIMIT_S)
    said = (folder / "task0.out").read_text(encoding="utf-8")
    assert status == 0, (folder / "task0.err").read_text(encoding="utf-8")[-2000:]
    return [json.loads(line) for line in said.splitlines()]


def write_export(launch: Launch, folder: Path) -> None:
    """Its files, with an address of localhost for each host that they name."""
    hosts = sorted({host for text in launch.files.values() for host in re.findall(r'"(node\d+:\d+)"', text)})
    addresses = dict(zip(hosts, _free_addresses(len(hosts)), strict=True))
    for name, text in launch.files.items():
        for host, address in addresses.items():
            text = text.replace(f'"{host}"', f'"{address}"')
        (folder / name).write_text(text, encoding="utf-8")
    for name, make in launch.data.items():
        (folder / name).write_bytes(make())


@contextlib.contextmanager
def _task(line: str, folder: Path, environment: Mapping[str, str], number: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"task{number}.out").open("wb") as out, (folder / f"task{number}.err").open("wb") as err:
        task = subprocess.Popen(["bash", "-c", line], cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            yield task
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGKILL)
            task.wait()


def _free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]
