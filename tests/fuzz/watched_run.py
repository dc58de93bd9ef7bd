"""A command of `parsim` run in a process of its own: within 10 s and 2 GiB with all that it starts, and what it writes is seen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fuzz import hostile
from fuzz.session import Session
from parsim.report.examples import EXAMPLES

MOST_S: Final = 10  # of the processor: a busy machine makes no command slow
_WALL_S: Final = 90
_LOOK_S: Final = 0.05
MOST_BYTES: Final = 2 * 2**30
_MOST_TEXT: Final = 300_000
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAY_WRITE: Final = ("/dev/null", "/dev/full", "/dev/shm", "/dev/tty", "/proc/1")  # the last: where an option said so, and nobody may
_MAY_LEAVE: Final = ("reports", "out", "machine.yaml", "my-cluster.yaml", "mine.yaml", "scenario.yaml")
_MAY_LEAVE += tuple(f"{file}.yaml" for file, _ in EXAMPLES.values())
_PLACES: Final = ("--out", "-o", "--cache", "--checkpoint")  # options that name where a command may write
_STARTS: Final = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect")
_MAY_START: Final = ("fc-list", "from parsim_kernels.transport import nursery")
_CHANGES: Final = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown")


class Kind(Enum):
    """How a command ended."""

    ANSWER = "answer"
    NOTHING_FITS = "answer with status 1"
    ERROR = "error"
    FAULT = "fault of parsim"


class End(Struct, frozen=True):
    """How a command on hostile input ended; `faults` is what it must not have done."""

    arguments: tuple[str, ...]
    kind: Kind
    faults: tuple[str, ...]
    out: str
    err: str
    cpu_s: float
    peak_bytes: int
    is_cut: bool  # no file took more than 100 bytes, what it prints among them


def run(arguments: Sequence[str], here: Path, *, full: bool = False) -> End:
    """How the command ends in `here`; where it is `full`, no file may grow beyond 100 bytes, as on a disk without room."""
    arguments = tuple(each.replace("\0", "") for each in arguments)
    (here.parent / "tmp").mkdir(exist_ok=True)
    before = _files(here)
    logs = {name: here.parent / name for name in ("out.txt", "err.txt", "seen.txt")}
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, here, logs, full)
    status, used, session, left = _wait(child)
    out, err, seen = (path.read_text("utf-8", "replace") for path in logs.values())
    cpu_s, peak_bytes = used.ru_utime + used.ru_stime, max(used.ru_maxrss * 1024, session.peak_bytes)
    faults = [*_faults_of_status(status, time.monotonic() - begin), *_faults_of_text(status, out, err, "--json" in arguments and not full)]
    faults += [f"leaves {len(left)} processes"] * bool(left)
    faults += [f"takes {cpu_s:.1f} s of the processor, with all that it starts"] * (cpu_s > MOST_S and not faults)
    faults += [f"takes {peak_bytes / 2**30:.1f} GiB, with all that it starts"] * (peak_bytes > MOST_BYTES)
    allowed = [here / each for each in _MAY_LEAVE]
    allowed += [here / value for option, value in pairwise(arguments) if option in _PLACES]
    faults += [*_faults_of_files(before, _files(here), allowed), *_faults_seen(seen, here)]
    faults += [f"leaves {each}" for each in (here.parent / "tmp").iterdir()]
    faults += ["was run: a payload" for each in (*here.rglob(hostile.OWNED), *here.parent.glob(hostile.OWNED))]
    code = os.waitstatus_to_exitcode(status)
    kind = Kind.FAULT if faults else {0: Kind.ANSWER, 1: Kind.NOTHING_FITS}.get(code, Kind.ERROR)
    return End(arguments, kind, tuple(faults), out, err, cpu_s, peak_bytes, full)


def _become(arguments: tuple[str, ...], here: Path, logs: dict[str, Path], full: bool) -> None:
    """Be the program, in this process, and end with it."""
    code = 70
    try:
        os.setsid()
        os.chdir(here)
        seen = os.open(logs["seen.txt"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(logs[name], os.O_CREAT | os.O_WRONLY), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
        os.environ.update(HOME=str(here.parent), TMPDIR=str(here.parent / "tmp"), COLUMNS="200", PYTHONFAULTHANDLER="")
        sys.argv, sys.dont_write_bytecode = ["parsim", *arguments], True  # half a file of bytecode breaks whoever imports it next
        for limit, most in ((resource.RLIMIT_AS, MOST_BYTES), (resource.RLIMIT_CPU, MOST_S), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(limit, (most, most))
        if full:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        sys.addaudithook(lambda event, values: _watch(seen, event, values))
        from parsim import cli

        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _watch(seen: int, event: str, values: tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = values
        if isinstance(path, int) or not ((isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & _WRITES)):
            return
    elif event not in _STARTS and event not in _CHANGES:
        return
    with contextlib.suppress(OSError):  # where there is no room, for this neither
        os.write(seen, json.dumps([event, *map(_text, values[:2])]).encode() + b"\n")


def _text(value: object) -> str:
    return os.fsdecode(value)[:5000] if isinstance(value, str | bytes | os.PathLike) else repr(value)[:500]


def _wait(child: int) -> tuple[int, resource.struct_rusage, Session, list[int]]:
    """The status of the child, which is killed with all that it started where it does not end, and the processes that it left."""
    end, session, looked = time.monotonic() + _WALL_S, Session(child), 0.0
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        if (now := time.monotonic()) > end:
            os.killpg(child, signal.SIGKILL)
        if now > looked + _LOOK_S:
            session.look()
            looked = now
        time.sleep(0.005)
    return status, used, session, session.end()


def _faults_of_status(status: int, wall_s: float) -> Iterator[str]:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        is_slow = code in (-signal.SIGXCPU, -signal.SIGKILL) and wall_s < _WALL_S
        yield "takes more of the processor than it may" if is_slow else f"hangs, or dies of {signal.Signals(-code).name}"
    elif code not in (0, 1, 2):
        yield f"ends with status {code}"


def _faults_of_text(status: int, out: str, err: str, is_json: bool) -> Iterator[str]:
    code = os.waitstatus_to_exitcode(status)
    for each in ("Traceback (most recent call last)", "MemoryError", "Exception ignored", "Warning: "):
        if each in err or each in out:
            yield f"prints {each!r}"
    if code in (1, 2) and not (out + err).strip():
        yield f"ends with {code} and says nothing"
    if code == 2 and len(out + err) > _MOST_TEXT:
        yield f"an error of {len(out + err)} characters"
    if code == 0 and is_json:
        try:
            json.loads(out)
        except ValueError:
            yield "prints no JSON"


def _files(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """All that lies in a folder, with what changes where somebody writes."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*names, *folders):
            told = os.lstat(path := Path(place) / name)
            found[path] = (told.st_mode, 0, 0) if name in folders else (told.st_mode, told.st_size, told.st_mtime_ns)
    return found


def _faults_of_files(before: dict[Path, Any], after: dict[Path, Any], allowed: Sequence[Path]) -> Iterator[str]:
    def may(path: Path) -> bool:
        return any(path == each or each in path.parents or path in each.parents for each in allowed)

    yield from (f"leaves {path}" for path in after if path not in before and not may(path))
    yield from (f"changes or removes {path}" for path, was in before.items() if after.get(path) != was and not may(path))


def _faults_seen(seen: str, here: Path) -> Iterator[str]:
    for line in filter(lambda line: line.endswith("]"), seen.splitlines()):  # the last one may be cut where there is no room
        event, *values = json.loads(line)
        if event in _STARTS and not any(each in str(values) for each in _MAY_START):
            yield f"starts {event} {values}"
        for value in values if event in ("os.rename", "os.link") else values[:1] if event not in _STARTS else ():
            path = os.path.join(here, value)
            if not value.isdigit() and not path.startswith((*_MAY_WRITE, str(here.parent))):
                yield f"{event} of {path}"


def tell(ends: Sequence[End]) -> str:
    """How many commands ended how."""
    by_kind = {kind.value: sum(end.kind is kind for end in ends) for kind in Kind}
    slowest, largest = max(end.cpu_s for end in ends), max(end.peak_bytes for end in ends)
    return f"{len(ends)} commands: {by_kind}; slowest {slowest:.1f} s, largest {largest / 2**20:.0f} MiB"


def names_a_command(end: End) -> bool:
    """Whether an error says what to ask next; that of a shell's closed or full stdout need not."""
    return bool(re.search(r"\bparsim [a-z]|pip install|\bparsim -h", end.err)) or "stdout: " in end.err or end.is_cut
