"""Arguments of a command of `parsim`, and the files that they name, drawn from a seed.

The commands, and what each takes, are those that the program itself registers: a new one is driven as soon as it is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, get_args, get_origin

from typer.utils import get_params_from_function

from fuzz import hostile
from fuzz.good_files import SUFFIXES, checkpoints, good_files
from fuzz.watched_run import End, run
from parsim.cli import app

_GOOD_FILES: Final = good_files()
# What a command needs so that it is asked about files and not left to measure or train for minutes.
_ALWAYS: Final = {"execute": ("--steps", "2"), "calibrate": ("--seconds", "1"), "sweep": ("--no-resume",)}
_NEVER: Final = {"verify": ("time",)}  # asked of good files only, with patience: it takes samples for 40 s
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
    "FILE": ("log", "table", "sweep", "scenario", "row", "foreign", "config", "results", "results", "keras", "onnx"),
    "IMPORTED": ("foreign", "foreign", "keras", "onnx", "foreign", "keras", "onnx", "scenario", "log", "config"),
}
_PLANS: Final = ("master", "tensor", "full", "one", "pipeline", "step", "mfu", "forward")
_NUMBERS: Final = (
    *("0", "1", "2", "3", "8", "16", "64", "-1", "999999", "9" * 19, "9" * 400, "9" * 5000, "1e400", "nan", "inf", "0x10", "", "1.5"),
    *("\u0663", "1e9"),
)
_PLACES: Final = (
    *("out", "out/deep/er", "out", "out", "out/new\nline", "elsewhere", "pipe", "empty", "kept", "out/../out"),
    *("good.yaml", "/dev/full", "/proc/1/x", "", "out/\udcff", "o" * 300, "loop", "good.yaml/x"),
)
_PATHS: Final = (
    *(
        "batch.global_batch",
        "batch.sequence_length",
        "batch.dtype",
        "model.num_layers",
        "model.hidden_size",
        "model",
        "plans",
        "plans.tensor",
    ),
    *("plans.tensor.micro_batch", "plans.tensor.data_parallel", "cluster.num_nodes", "cluster.fabric", "cluster.site_link.latency"),
    *("cluster.node.accelerator.hbm_capacity", "cluster.node.link.bandwidth", "cluster.num_sites", "name", "a.b.c", "stack", "seed"),
    *(
        "stack.host_launch",
        "storage",
        "storage.read_bandwidth",
        "input",
        "input.workers",
        "input.prefetch",
        "input.jitter",
        "input.request_size",
    ),
    *("failures", "failures.restart", "failures.repair", "failures.spare_nodes", "failures.elastic", "failures.rates.device"),
    *("checkpoint", "checkpoint.interval", "checkpoint.keep", "checkpoint.write_time", "checkpoint.asynchronous"),
    *("disturbance", "disturbance.jitter.kernels.cv", "disturbance.slow_devices", "disturbance.stragglers.factor", "disturbance.samples"),
    *("training.total_tokens", "training.learning_rate", "training.epochs", "data", "tuning", "batch.packing", "batch.lengths"),
)
_NAMED: Final = ("config", "lengths", "row")


def commands() -> dict[str, Callable[..., object]]:
    """The functions of all commands, by name."""
    return {each.name or getattr(each.callback, "__name__", ""): each.callback for each in app.registered_commands if each.callback}


def case(seed: int, folder: Path) -> End:
    """The end of a command that is drawn, with its files, from a seed."""
    random = Random(seed)
    here = folder / "here"
    here.mkdir(parents=True)
    (here / "good.yaml").write_bytes(_GOOD_FILES["scenario"][0])
    (folder / "beyond").mkdir()
    (here / "elsewhere").symlink_to("../beyond")
    (here / "loop").symlink_to("loop")
    (here / "empty").mkdir()
    os.mkfifo(here / "pipe")
    known = sorted(name for name, function in commands().items() if _takes_words(function))
    name = known[seed % len(known)]
    draw = _Draw(here, random, good_file=random.random() < 0.25, good_words=random.random() < 0.6)
    arguments = draw.resumed() if name == "execute" and random.random() < 0.4 else draw.arguments(name, commands()[name])
    return run((name, *arguments), here, full=random.random() < 0.04)


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
                kinds = "IMPORTED" if name == "import" and self.random.random() < 0.8 else shape
                positional += self.positional(kinds, "list" in str(meta.annotation))
            elif key in _NEVER.get(name, ()):
                continue
            elif key in _NEEDED.get(name, ()) or self.random.random() < (0.05 if self.good_words else 0.15):
                option = declared[0].split("/")[0] if declared else f"--{key.replace('_', '-')}"
                yield from (option, *self.value(meta.annotation, shape, option))
        yield from (["--"] if any(each.startswith("-") for each in positional) else []) + positional

    def resumed(self) -> list[str]:
        """Of `execute`: a run that goes on from checkpoints that something has happened to."""
        random, kept = self.random, self.here / "kept"
        for name, raw in checkpoints().items():
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            (kept / name).write_bytes(raw)
        for _ in range(random.choice((0, 1, 1, 1, 2))):
            hostile.damage_folder(kept, random)
        if self.good_file:
            name = "good.yaml"
        else:
            name = hostile.place(self.here, hostile.damage(_GOOD_FILES["scenario"][0], random), ".yaml", random)
        asked = ["--plan", random.choice(("tensor", "tensor", "tensor", "master")), "--transport", "lockstep"]
        asked += ["--steps", random.choice("4566"), "--checkpoint", "kept", *["--resume"] * (random.random() < 0.9)]
        asked += ["--from-step", random.choice(("2", "4", "3", "999999999"))] if random.random() < 0.3 else []
        return [*asked, "--", name]

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
        raw = random.choice(_GOOD_FILES[kind])
        self.plans = hostile.names_in(raw) if kind == "scenario" else _PLANS
        folder = here / f"f{len([*here.iterdir()])}"
        folder.mkdir()
        if self.good_file:
            (folder / (name := f"good{SUFFIXES[kind]}")).write_bytes(raw)
            path = str(folder / name)
        else:
            name = hostile.place(folder, hostile.damage(raw, random), SUFFIXES[kind], random)
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
        (folder / "names.yaml").write_text(_GOOD_FILES["scenario"][0].decode().replace(old, new), encoding="utf-8", errors="replace")
        self.plans = hostile.names_in(_GOOD_FILES["scenario"][0])
        return str(folder / "names.yaml")
