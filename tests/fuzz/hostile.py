"""Files that nobody should have to read, each drawn from a seed: good ones of all kinds that commands read, damaged in all ways we know."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

OWNED: Final = "OWNED"  # the file that each payload would make, were it run
_RUN: Final = (
    f'!!python/object/apply:os.system ["touch {OWNED}"]',
    f'!!python/object/new:subprocess.Popen [["touch", "{OWNED}"]]',
    "!!python/name:os.system",
    f"__import__('os').system('touch {OWNED}')",
    f"$(touch {OWNED})",
    f"`touch {OWNED}`",
    f"'; touch {OWNED}; '",
    f"${{{{ touch {OWNED} }}}}",
)
_SCALARS: Final = (
    *(
        "0",
        "-1",
        "1",
        "1e400",
        "-1e400",
        "1e-400",
        ".inf",
        "-.inf",
        ".nan",
        "nan",
        "NaN",
        "1_000",
        "0x7fffffffffffffff",
        "1e308",
        "2.5",
        "1/0",
    ),
    *(
        "9" * 19,
        "9" * 400,
        "9" * 5000,
        "-" + "9" * 5000,
        "0." + "0" * 400 + "1",
        "1:30:00",
        "2026-11-30",
        "0o17",
        "+",
        "~",
        "null",
        "true",
        "yes",
    ),
    *(
        "''",
        '"\\ud800"',
        '"\\0"',
        '"\\U0001F600"',
        "[]",
        "{}",
        "[[]]",
        "{a: {b: {c: d}}}",
        "*nowhere",
        "&a *a",
        "!!binary aGk=",
        "!!set {a}",
    ),
    *(
        "x" * 5000,
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "file:/dev/zero",
        "hf:/dev/zero",
        "hf:..",
        "file:",
        "hf:",
        "auto",
        "[1, 2, auto]",
    ),
    *(
        "1 B",
        "-1 GB/s",
        "1e400 GB",
        "9" * 400 + " TB/s",
        "1 parsec",
        "1e-300 s",
        "10%",
        "101%",
        "2x",
        "999999999x",
        "(1)",
        "[bold]x[/]",
        "\x1b[31mred",
    ),
    *_RUN,
)
LIKELY: Final = (
    *(
        "1",
        "2",
        "3",
        "4",
        "7",
        "8",
        "16",
        "64",
        "1000",
        "100000",
        "1000000",
        "0.5",
        "1e3",
        "true",
        "false",
        "auto",
        "[1, 2]",
        "none",
        "full",
    ),
    *(
        "bf16",
        "fp8",
        "fp32",
        "adamw",
        "sgd",
        "1f1b",
        "gpipe",
        "tiny-llama",
        "gpt2-small",
        "dgx-a100-80gb",
        "h100",
        "1 GB",
        "1 TB/s",
        "3 us",
        "80 GiB",
    ),
)
_LAUGHS: Final = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
_MERGES: Final = "m0: &m0 {k0: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}\n" for i in range(1, 26))
_SNIPPETS: Final = (
    _LAUGHS,
    _MERGES,
    "self: &self {again: *self}\n",
    "merge: &merge {<<: *merge}\n",
    "? [a, b]\n: c\n",
    "---\nmodel: second\n...\n",
    "%YAML 9.9\n---\n",
    "%TAG ! tag:evil,2000:\n",
    "\t- tab\n",
    "plans: {}\n",
    "model: tiny-gpt\nmodel: tiny-llama\n",
    "name: '" + "n" * 10000 + "'\n",
    "- " * 2000 + "\n",
    "deep: " + "[" * 3000 + "]" * 3000 + "\n",
    "deep: " + "{a: " * 1500 + "1" + "}" * 1500 + "\n",
    "k: |\n" + "  x\n" * 5000,
    "".join(f"k{i}: {i}\n" for i in range(5000)),
    *(f"x: {each}\n" for each in _RUN),
)
_VALUE: Final = re.compile(rb"(?<=[:=,\[] )[^\s,\]}{]+|(?<=,)[^\s,]+|(?<=\": )[^\s,\]}]+")


def damage(raw: bytes, random: Random) -> bytes:
    """The file after one to three accidents, or after changes that leave most files good."""
    if random.random() < 0.4:
        for _ in range(random.randint(1, 2)):
            raw = _value(raw, random, LIKELY)
        return raw
    for _ in range(random.choice((1, 1, 2, 3))):
        raw = random.choice(_DAMAGES)(raw, random)[:6_000_000]
    return raw


def _cut(raw: bytes, random: Random) -> bytes:
    return raw[: random.randrange(len(raw) + 1)]


def _flip(raw: bytes, random: Random) -> bytes:
    found = bytearray(raw)
    for _ in range(random.choice((1, 1, 3, 20))):
        if found:
            found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found)


def _drop(raw: bytes, random: Random) -> bytes:
    begin = random.randrange(len(raw) + 1)
    return raw[:begin] + raw[begin + random.randrange(40) :]


def _swap_lines(raw: bytes, random: Random) -> bytes:
    lines = raw.splitlines(keepends=True)
    random.shuffle(lines)
    return b"".join(lines)


def _value(raw: bytes, random: Random, scalars: Sequence[str] = ()) -> bytes:
    places = [*_VALUE.finditer(raw)]
    if not places:
        return raw
    place = random.choice(places)
    return raw[: place.start()] + random.choice(scalars or _SCALARS).encode("utf-8", "surrogatepass") + raw[place.end() :]


def _key(raw: bytes, random: Random) -> bytes:
    return re.sub(rb"\w+(?=\"?:)", lambda found: found[0] if random.random() < 0.9 else random.choice(_SCALARS).encode()[:60], raw)


def _insert(raw: bytes, random: Random) -> bytes:
    lines = raw.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines) + 1), random.choice(_SNIPPETS).encode())
    return b"".join(lines)


def _repeat(raw: bytes, random: Random) -> bytes:
    return raw * random.choice((2, 2, 50, 2000))


def _encode(raw: bytes, random: Random) -> bytes:
    text = raw.decode("utf-8", "replace")
    how = random.randrange(9)
    if how < 4:
        return text.encode(("utf-16", "utf-16-le", "utf-32", "cp037")[how], "replace")
    return (
        b"\xef\xbb\xbf" + raw,
        raw.replace(b"\n", random.choice((b"\r\n", b"\r", b"\x00", b"\xe2\x80\xa8", b"\x85"))),
        text.replace("a", "ä").encode("latin-1", "replace"),
        text.replace("e", "\ud83d", 1).encode("utf-8", "surrogatepass"),
        raw.replace(b" ", b"\xc2\xa0", 3),
    )[how - 4]


_DAMAGES: Final[tuple[Callable[[bytes, Random], bytes], ...]] = (
    *(_cut, _flip, _drop, _swap_lines, _key, _insert, _insert, _repeat, _encode),
    *(_value,) * 6,
)


def place(folder: Path, raw: bytes, suffix: str, random: Random) -> str:
    """A path to a file with this content, or to something that is no such file."""
    name = random.choice(("mine", "mine", "mine", "mine", "a b", "new\nline", "-o", "ü", "[red]", "x" * 200, "%s{0}")) + suffix
    path = folder / name
    how = random.randrange(90)
    match how:
        case 0:
            path.symlink_to(path.name)
        case 1:
            path.symlink_to(
                random.choice(("/dev/zero", "/dev/full", "/dev/null", "/proc/self/mem", "/proc/self/fd", ".", "nowhere", "/dev/urandom"))
            )
        case 2:
            path.mkdir()
        case 3:
            os.mkfifo(path)
        case 4:
            path.write_bytes(raw)
            path.chmod(0)
        case 5:
            (folder / "real").write_bytes(raw)
            path.symlink_to("real")
        case 6:
            return random.choice(
                ("/dev/zero", "/dev/full", "/dev/null", "/proc/self/mem", "/dev/urandom", "/", "", "nowhere", "~", "x" * 5000, "a\udcffb")
            )
        case 7:
            path.write_bytes(random.randbytes(random.choice((1, 100, 5_000_000))) if random.random() < 0.5 else b"\n" * 5_000_000)
        case 8:
            with path.open("wb") as file:
                file.truncate(20 * 2**30)  # sparse: more than any memory
        case _:
            path.write_bytes(raw)
    return str(path) if random.random() < 0.5 else f"./{path.name}"


def damage_folder(folder: Path, random: Random) -> None:
    """Something happens to a file or folder below: it is torn, changed, gone, another's, or no file at all."""
    path = random.choice(sorted(each for each in folder.rglob("*") if not each.is_symlink()) or [folder])
    if path.is_dir():
        match random.randrange(3):
            case 0:
                path.rename(path.with_name(random.choice(("step-1", "step-999999999999", "other", "step--1", "x" * 200))))
            case 1:
                path.rename(aside := folder.parent / f"aside{random.random()}")
                path.symlink_to(aside)
            case _:
                (path / random.choice(("mine.txt", "rank-9.npz", "manifest.json.1.tmp", "a\nb"))).write_text("of somebody else")
        return
    raw = path.read_bytes()
    match random.randrange(7):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.symlink_to(random.choice(("/dev/zero", "/etc/hostname", "nowhere", path.name)))
        case 2:
            path.unlink()
            os.mkfifo(path)
        case 3:
            with path.open("ab") as file:
                file.truncate(20 * 2**30)
        case _:
            path.write_bytes(damage(raw, random) if path.suffix == ".json" else _flip(_cut(raw, random), random))


WORDS: Final = _SCALARS


def names_in(raw: bytes) -> list[str]:
    """What may be plans of a scenario."""
    return re.findall(r"^ {2}(\w+): *\{", raw.decode("utf-8", "replace"), re.MULTILINE) or ["full"]
