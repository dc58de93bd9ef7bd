"""A command of `parsim` run on hostile input in a process of its own: within 10 s and 2 GiB, and watched at what it writes and starts.

The commands, and what each takes, are those that the program itself registers: a new one is driven as soon as it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, get_args, get_origin

from msgspec import Struct
from typer.utils import get_params_from_function

from fuzz import hostile
from parsim.cli import app
from parsim.report.examples import EXAMPLES

MOST_S: Final = 10  # of the processor: a busy machine makes no command slow
_WALL_S: Final = 90
MOST_BYTES: Final = 2 * 2**30
_MOST_TEXT: Final = 300_000
_SEEDS: Final = hostile.seeds()
# What a command needs so that it is asked about files and not left to measure or train for minutes.
_ALWAYS: Final = {"execute": ("--steps", "2"), "calibrate": ("--seconds", "1"), "sweep": ("--no-resume",)}
_NEEDED: Final = {"calibrate": ("measured",), "size": ("tokens", "within"), "export": ("target", "to")}
# What options may well be given.
_GOOD: Final = {
    **{
        "--model": ("tiny-gpt", "llama3-8b", "bert-base"),
        "--node": ("a100-40gb", "dgx-h100", "one-cpu-generic"),
        "--fabric": ("ib-hdr-8rail",),
    },
    **{"--tokens": ("1B", "1T"), "--within": ("30 days",), "--budget": ("1 MUSD",), "--headroom": ("10%",), "--limit": ("step_time=20s",)},
    **{"--objective": ("mfu", "cost"), "--swap": ("node=hgx-h200", "cluster.fabric.nic.bandwidth=2x"), "--where": ("model=22B", "id=1")},
    **{"--dtype": ("bf16", "fp8"), "--stack": ("torchtitan", "megatron-core"), "--x": ("tensor_parallel",), "--y": ("pipeline_parallel",)},
    **{"--value": ("step_s", "mfu"), "--date": ("2026-11-30",), "--accelerator": ("a100",), "--space": ("search", "open")},
    **{"--to": ("megatron-lm", "torchtitan@0.2.2", "deepspeed", "keras", "tensorflow", "maxtext"), "--example": ("mlp", "gpt")},
}
_KINDS: Final = {
    "SCENARIO": ("scenario",) * 7 + ("config", "config", "lengths", "row", "table", "foreign"),
    "TABLE": ("table",) * 5 + ("log", "scenario"),
    "FILE": ("log", "table", "sweep", "scenario", "row", "foreign", "config", "results", "results"),
}
_PLANS: Final = ("master", "tensor", "full", "one", "pipeline", "step", "mfu", "forward")
_NUMBERS: Final = (
    "0",
    "1",
    "2",
    "3",
    "8",
    "16",
    "64",
    "-1",
    "999999",
    "9" * 19,
    "9" * 400,
    "9" * 5000,
    "1e400",
    "nan",
    "inf",
    "0x10",
    "",
    "1.5",
    "٣",
    "1e9",
)
_PLACES: Final = ("out", "out/deep/er", "out", "out", "good.yaml", "/dev/full", "/proc/1/x", "", "out/\udcff", "o" * 300, "out/new\nline")
_PATHS: Final = (
    "batch.global_batch",
    "model.num_layers",
    "cluster.node.accelerator.hbm_capacity",
    "plans.tensor",
    "name",
    "a.b.c",
    "stack",
    "batch.dtype",
)
_NAMED: Final = ("config", "lengths", "row")
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAY_WRITE: Final = ("/dev/null", "/dev/full", "/dev/shm", "/dev/tty", "/proc/1")  # the last: where an option said so, and nobody may
_MAY_LEAVE: Final = ("reports", "out", "machine.yaml", "my-cluster.yaml", "mine.yaml", "scenario.yaml")
_MAY_LEAVE += tuple(f"{file}.yaml" for file, _ in EXAMPLES.values())
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


def commands() -> dict[str, Callable[..., object]]:
    """The functions of all commands, by name."""
    return {each.name or getattr(each.callback, "__name__", ""): each.callback for each in app.registered_commands if each.callback}


def case(seed: int, folder: Path) -> End:
    """The end of a command that is drawn, with its files, from a seed."""
    random = Random(seed)
    here = folder / "here"
    here.mkdir(parents=True)
    (here / "good.yaml").write_bytes(_SEEDS["scenario"][0])
    known = sorted(name for name, function in commands().items() if _takes_words(function))
    name = known[seed % len(known)]
    draw = _Draw(here, random, good_file=random.random() < 0.25, good_words=random.random() < 0.6)
    return run((name, *draw.arguments(name, commands()[name])), here, full=random.random() < 0.04)


def _takes_words(function: Callable[..., object]) -> bool:
    """Whether a command is given more than flags."""
    return any(meta.annotation is not bool for meta in get_params_from_function(function).values())


class _Draw:
    """Arguments of one command, and the files that they name, in a folder."""

    def __init__(self, here: Path, random: Random, *, good_file: bool, good_words: bool) -> None:
        self.here, self.random, self.good_file, self.good_words = here, random, good_file, good_words
        self.plans: Sequence[str] = _PLANS

    def arguments(self, name: str, function: Callable[..., object]) -> Iterator[str]:
        """What stands behind the name of the command."""
        yield from _ALWAYS.get(name, ())
        positional: list[str] = []
        for key, meta in get_params_from_function(function).items():
            info: Any = meta.default
            shape = (info.metavar or "").upper()
            declared = [each for each in info.param_decls or () if each.startswith("-")]
            if type(info).__name__ == "ArgumentInfo":
                positional += self.positional(shape, "list" in str(meta.annotation))
            elif key in _NEEDED.get(name, ()) or self.random.random() < (0.05 if self.good_words else 0.15):
                option = declared[0].split("/")[0] if declared else f"--{key.replace('_', '-')}"
                yield from (option, *self.value(meta.annotation, shape, option))
        yield from (["--"] if any(each.startswith("-") for each in positional) else []) + positional

    def positional(self, shape: str, many: bool) -> list[str]:
        if shape.startswith("FILE:PLAN"):
            if self.random.random() < 0.5:
                return [self.file("SCENARIO"), *self.random.choices(self.plans, k=2)]
            return [f"{self.file('FILE')}:{self.random.choice(self.plans)}" for _ in range(2)]
        if any(word in shape for word in _KINDS):
            return [self.file(shape) for _ in range(1 + (many and self.random.random() < 0.2))]
        if "PLAN" in shape:
            return [self.random.choice(self.plans)] if self.good_words else [self.word()]
        return [self.word()] if self.random.random() < 0.7 else []

    def value(self, annotation: Any, shape: str, option: str) -> list[str]:
        """The text of an option's value; none of a flag."""
        kinds = {annotation, *get_args(annotation)}
        if bool in kinds:
            return []
        if self.good_words and option in _GOOD:
            return [self.random.choice(_GOOD[option])]
        if choices := [each for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]:
            return [self.random.choice((*choices, "guess"))]
        if kinds & {int, float}:
            return [self.random.choice(_NUMBERS[1:7] if self.good_words else _NUMBERS)]
        if shape == "DIR" or option in ("--out", "--cache", "--output"):
            return [self.random.choice(_PLACES)]
        if any("Path" in str(each) for each in kinds):
            return [self.file(shape)]
        if shape == "PATH=VALUE":
            return [
                f"{self.random.choice(_PATHS)}={self.random.choice(hostile.LIKELY if self.good_words else hostile.WORDS)}".replace("\0", "")
            ]
        return [self.word()]

    def word(self) -> str:
        known = (*self.plans, "models", "nodes", "dgx-a100-80gb", "tiny-gpt", "a100", "step", "mfu", "forward")
        word = self.random.choice(known if self.good_words else (*known, *self.random.sample(hostile.WORDS, 12)))
        return word.replace("\0", "")[:100_000]  # no argument of a program is longer, or holds a NUL

    def file(self, shape: str) -> str:
        """The path to a damaged file of a kind that goes there; of what scenarios name, to a good scenario that names it."""
        random, here = self.random, self.here
        kinds = next((kinds for word, kinds in _KINDS.items() if word in shape), _KINDS["FILE"])
        kind = random.choice(kinds[: len(kinds) // 2] if self.good_file else kinds)
        raw = random.choice(_SEEDS[kind])
        self.plans = hostile.names_in(raw) if kind == "scenario" else _PLANS
        folder = here / f"f{len([*here.iterdir()])}"
        folder.mkdir()
        if self.good_file:
            (folder / (name := f"good{hostile.SUFFIXES[kind]}")).write_bytes(raw)
            path = str(folder / name)
        else:
            name = hostile.place(folder, hostile.damage(raw, random), hostile.SUFFIXES[kind], random)
            path = str(folder / name[2:]) if name.startswith("./") else name
        path = f"./{os.path.relpath(path, here)}" if path.startswith(str(here)) and random.random() < 0.5 else path
        return path if kind not in _NAMED or shape == "FILE" else self.scenario_that_names(kind, path, folder)

    def scenario_that_names(self, kind: str, path: str, folder: Path) -> str:
        """A good scenario, but for the file that it names."""
        at = json.dumps(os.path.join(self.here, path))[1:-1]
        packing = self.random.choice(("packed", "padded"))
        old, new = {
            "config": ("model: {", f'model: "hf:{at}"\n#'),
            "row": ("  node: {", f'  node: "file:{at}"\n  #'),
            "lengths": ("dtype: bf16", f'dtype: bf16, packing: {packing}, lengths: "file:{at}"'),
        }[kind]
        (folder / "names.yaml").write_text(_SEEDS["scenario"][0].decode().replace(old, new), encoding="utf-8", errors="replace")
        self.plans = hostile.names_in(_SEEDS["scenario"][0])
        return str(folder / "names.yaml")


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
    status, used = _wait(child)
    out, err, seen = (path.read_text("utf-8", "replace") for path in logs.values())
    faults = [*_faults_of_status(status, time.monotonic() - begin), *_faults_of_text(status, out, err, "--json" in arguments and not full)]
    allowed = [here / each for each in _MAY_LEAVE]
    allowed += [here / value for option, value in pairwise(arguments) if option in ("--out", "-o", "--cache")]
    faults += [*_faults_of_files(before, _files(here), allowed), *_faults_seen(seen, here)]
    faults += ["was run: a payload" for each in (*here.rglob(hostile.OWNED), *here.parent.glob(hostile.OWNED))]
    code = os.waitstatus_to_exitcode(status)
    kind = Kind.FAULT if faults else {0: Kind.ANSWER, 1: Kind.NOTHING_FITS}.get(code, Kind.ERROR)
    return End(arguments, kind, tuple(faults), out, err, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, full)


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


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    """The status of the child, which is killed with all that it started where it does not end."""
    end = time.monotonic() + _WALL_S
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers that it left
    return status, used


def _faults_of_status(status: int, wall_s: float) -> Iterator[str]:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        is_slow = code in (-signal.SIGXCPU, -signal.SIGKILL) and wall_s < _WALL_S
        yield f"takes more than {MOST_S} s of the processor" if is_slow else f"hangs, or dies of {signal.Signals(-code).name}"
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
        path = os.path.join(here, values[0])
        if event in _STARTS and not any(each in str(values) for each in _MAY_START):
            yield f"starts {event} {values}"
        elif event not in _STARTS and not values[0].isdigit() and not path.startswith((*_MAY_WRITE, str(here.parent))):
            yield f"{event} of {path}"


def tell(ends: Sequence[End]) -> str:
    """How many commands ended how."""
    by_kind = {kind.value: sum(end.kind is kind for end in ends) for kind in Kind}
    slowest, largest = max(end.cpu_s for end in ends), max(end.peak_bytes for end in ends)
    return f"{len(ends)} commands: {by_kind}; slowest {slowest:.1f} s, largest {largest / 2**20:.0f} MiB"


def names_a_command(end: End) -> bool:
    """Whether an error says what to ask next; that of a shell's closed or full stdout need not."""
    return bool(re.search(r"\bparsim [a-z]|pip install|\bparsim -h", end.err)) or "stdout: " in end.err or end.is_cut
