"""Files that nobody should have to read, each drawn from a seed: good ones of all kinds that commands read, damaged in all ways we know."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Final

import hf_configs

ROOT: Final = Path(__file__).parents[2]
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


def seeds() -> Mapping[str, list[bytes]]:
    """Good files by kind, small enough that a command answers each at once."""
    small = (
        "tiny",
        "digits-softmax",
        "tiny-moe",
        "table5-22b",
        "llama3-8b-fp8",
        "machine-translation",
        "llama2-70b-lora",
        "two-generations",
        "plan-gpt3-13b",
    )
    scenarios = [(ROOT / "scenarios" / f"{name}.yaml").read_bytes() for name in small]
    head = (ROOT / "tests" / "witnesses" / "table5.csv").read_bytes().splitlines(keepends=True)
    rank_log = "".join(
        f"{2**power:>12} {2**power // 4:>12}     float     sum      -1 {20 + 2**power / 5e4:>8.2f} {4.2:>6} {7.9:>6}      0\n"
        for power in range(12, 26, 2)
    )
    log = "# nThread 1 nGpus 8 minBytes 4096 maxBytes 33554432 step: 4(factor) warmup iters: 5 iters: 20\n# Using devices\n"
    log += f"{rank_log}# Out of bounds values : 0 OK\n"
    sweep = (ROOT / "scenarios" / "sweeps" / "tensor-by-pipeline.yaml").read_bytes().replace(b"../plan-gpt3-13b.yaml", b"good.yaml")
    row = b"node: {base: dgx-a100-80gb, devices_per_node: 4}\nstack: {base: megatron-2022}\nfabric: {base: ib-hdr-8rail}\n"
    return {
        "scenario": scenarios,
        "table": [b"".join(head[:6]), b"plan,step_s\nmaster,0.002\ntensor,0.003\n", b"m,n,k,dtype,seconds\n4096,4096,4096,bf16,0.0007\n"],
        "config": [
            json.dumps(each, indent=1).encode() for each in (hf_configs.LLAMA, hf_configs.QWEN, *list(hf_configs.PUBLISHED.values())[::9])
        ],
        "log": [log.encode()],
        "lengths": [b"tokens\n5\n8\n3\n", b"[5, 8, 3, 1]\n", b"layer,expert,tokens\n0,0,5\n0,1,3\n"],
        "sweep": [sweep],
        "row": [row, row.splitlines()[0][6:]],
        "results": [(ROOT / "reports" / "table5-175b" / name).read_bytes() for name in ("results.json", "results.csv")],
        "foreign": [each.encode() for each in FOREIGN],
    }


FOREIGN: Final = (
    '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 3}, "bf16": {"enabled": true}}\n',
    "[training]\nlocal_batch_size = 2\nseq_len = 2048\n[parallelism]\ntensor_parallel_degree = 2\npipeline_parallel_degree = 1\n",
    "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --num-layers 24 \\\n --micro-batch-size 2\n",
    "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: FULL_SHARD}\nnum_processes: 8\n",
    "base_config: base.yml\nper_device_batch_size: 2\nici_tensor_parallelism: 4\nmax_target_length: 2048\nmodel_name: llama3-8b\n",
    "def recipe():\n    cfg = base()\n    cfg.model.tensor_model_parallel_size = 2\n    cfg.train.global_batch_size = 64\n    return cfg\n",
    '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"units": 10, "activation": "softmax"}}]}}\n',
)


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


SUFFIXES: Final = {
    **{
        "scenario": ".yaml",
        "table": ".csv",
        "config": ".json",
        "log": ".log",
        "lengths": ".csv",
        "sweep": ".yaml",
        "row": ".yaml",
        "foreign": "",
        "results": ".json",
    },
}
WORDS: Final = _SCALARS


def names_in(raw: bytes) -> list[str]:
    """What may be plans of a scenario."""
    return re.findall(r"^ {2}(\w+): *\{", raw.decode("utf-8", "replace"), re.MULTILINE) or ["full"]
