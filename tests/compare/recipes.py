"""What becomes of public recipes: `python tests/compare/recipes.py SOURCE CHECKOUT [--ref REF]`.

SOURCE is one of SOURCES, CHECKOUT a clone of its repository.  Each recipe of REF is imported as `parsim import` does, on more and more
devices until its step is predicted and fits, and reports/recipes/SOURCE.csv has a row for each: what became of it, on how many devices,
and why.  reports/recipes/README.md counts them and names the commit.  Nothing of a checkout is run.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

import parsim
from parsim.errors import ParsimError
from parsim.report.files import write
from parsim.targets.maxtext import benchmarks
from parsim.targets.recipes import Reader
from parsim.targets.target import Left
from parsim.targets.torchtitan.registry import jobs_in

PLACE: Final = Path(__file__).parents[2] / "reports" / "recipes"
FITS, SHORT, ALONE, UNREAD, ILLEGAL = "fits", "does not fit", "no model", "not read", "not legal"


class Origin(Struct, frozen=True):
    """Where recipes lie: folders of a repository; `ref` where not its HEAD, `model` what files are given that say none."""

    target: str  # "": whichever launcher reads a file
    repository: str
    under: tuple[str, ...]
    ref: str = "HEAD"
    model: str = ""


_BRIDGE, _TITAN, _MAXTEXT = "NVIDIA-NeMo/Megatron-Bridge", "pytorch/torchtitan", "AI-Hypercomputer/maxtext"
_STAND_IN: Final = "llama3-8b"
_STAND_INS: Final = {"bert": ("bert-large", 128), "gpt": ("gpt2-medium", 1024), "": (_STAND_IN, 2048)}  # by a word of a path; tokens
SOURCES: Final = {
    "torchtitan": Origin("torchtitan", _TITAN, ("torchtitan",)),
    **{f"torchtitan-{tag}": Origin("torchtitan", _TITAN, ("torchtitan",), f"v{tag}") for tag in ("0.1.0", "0.2.0", "0.2.2")},
    "maxtext": Origin("maxtext", _MAXTEXT, ("src/maxtext/configs",)),
    "maxtext-scripts": Origin("maxtext", _MAXTEXT, ("tests/end_to_end", "scripts", "src/maxtext/trainers")),
    "maxtext-benchmarks": Origin("maxtext", _MAXTEXT, ("benchmarks",)),
    "maxtext-0.1.0": Origin("maxtext", _MAXTEXT, ("src/MaxText/configs", "benchmarks"), "maxtext-v0.1.0"),
    "maxtext-2025-04": Origin("maxtext", _MAXTEXT, ("MaxText/configs", "benchmarks"), "pre-module-v0.1.0"),
    "megatron-bridge": Origin("megatron-bridge", _BRIDGE, ("src/megatron/bridge/recipes",)),
    "megatron-bridge-perf": Origin("megatron-bridge", _BRIDGE, ("src/megatron/bridge/perf_recipes",)),
    "deepspeed-examples": Origin("", "deepspeedai/DeepSpeedExamples", ("training", "applications", "benchmarks"), model=_STAND_IN),
    "accelerate": Origin("", "huggingface/accelerate", ("examples",), model=_STAND_IN),
    "trl": Origin("", "huggingface/trl", ("examples", "trl/accelerate_configs"), model=_STAND_IN),
    "alignment-handbook": Origin("", "huggingface/alignment-handbook", ("recipes/accelerate_configs",), model=_STAND_IN),
    "axolotl-examples": Origin("accelerate", "axolotl-ai-cloud/axolotl", ("examples",)),
    "axolotl": Origin("", "axolotl-ai-cloud/axolotl", ("deepspeed_configs",), model=_STAND_IN),
}
_NODES: Final[Mapping[str, tuple[str, int]]] = {  # by a word of the recipe's name, with the devices of a node
    **{"gb200": ("gb200-nvl72", 72), "gb300": ("gb300-nvl72", 72), "b200": ("hgx-b200", 8), "a4": ("hgx-b200", 8)},
    **{"b300": ("hgx-b300", 8), "vr200": ("gb300-nvl72", 72), "r100": ("hgx-b300", 8)},  # Rubin's are no rows: as much memory
    "a3ultra": ("hgx-h200", 8),
}
_SLICES: Final[Mapping[str, tuple[str, int]]] = {
    **{"v5p": ("tpu-v5p-8x8x8", 512), "v5e": ("tpu-v5e-16x16", 256), "v6e": ("tpu-v6e-16x16", 256), "v4": ("tpu-v4-4x4x4", 64)},
    "trillium": ("tpu-v6e-16x16", 256),
}
_USUAL: Final = ("hgx-h100-80gb", 8)
_NO_MODEL: Final = re.compile(r"no such model|unknown model|says no model|model\.\w+: missing|cannot read the file")
_UNREAD: Final = re.compile(r"no known launcher reads it|finds no job in it|is no recipe|does too much|gives no configuration|it has \d+ ")
_OF_ALL: Final = re.compile(r"= (\d+), but the cluster has")  # devices that degrees multiply to
_ENDS: Final = (".py", ".toml", ".yml", ".yaml", ".sh")
_ENDS_OF_ANY: Final = (".yml", ".yaml", ".sh", ".json", ".slurm")  # where any launcher may read a file
_OF_JOBS: Final = re.compile(r"zero_optimization|train_micro_batch|distributed_type|train_batch_size|\bdeepspeed |accelerate launch")
# What is not built -> how a refusal says it; the first that fits counts.
_LACKS: Final = {
    "layers of linear attention (Qwen3.5, Qwen3-Next: Gated DeltaNet)": "linear attention",
    "what reads images or sounds, beside a text model": "reads images|several images|sounds",
    "sparse attention behind an indexer (DeepSeek-V3.2 and V4, GLM-5)": "indexer",
    "diffusion": "diffusion",
    "several modules for a later token, or one that runs several times": r"mtp_layers: must be at most 1",
    "gates of attention's heads (Step 3.5, Muse)": "gates of attention",
    "embeddings of each layer (Gemma 4 E2B, E4B)": "embeddings of each layer",
    "adapters beside Mamba layers": "in_proj|beside Mamba layers",
    "stages of a pipeline without a layer": r"layers_per_stage\.\d+: must be above 0|are more than the \d+ layers",
    "sequences cut over ranks of Mamba layers": "Mamba layers hand a state on",
}
_ROWS: Final = ("file", "recipe", "outcome", "devices", "step_s", "why")


Given = Mapping[str, str | int]


class Outcome(Struct, frozen=True):
    """What became of a recipe."""

    outcome: str
    devices: int = 0
    step_s: float = 0.0
    why: str = ""


def recipes(origin: Origin, root: Path) -> Iterator[tuple[Path, str]]:
    """The files with the function of each recipe; "" where the file is one."""
    target = origin.target
    for path in sorted(path for under in origin.under for path in (root / under).rglob("*") if path.is_file()):
        if target == "megatron-bridge" and path.suffix == ".py":
            names = Reader(path.read_text(), str(path)).functions()
            yield from ((path, name) for name in names if name.endswith("config") and not name.startswith(("default", "get_")))
        elif target == "torchtitan" and path.name == "config_registry.py":
            yield from ((path, name) for name in jobs_in(path.read_text(), str(path)))
        elif target == "maxtext" and path.name.endswith("_model_configs.py"):
            yield from ((path, name) for name in benchmarks.jobs_in(path.read_text(), str(path)))
        elif _is_recipe(target, path):
            yield path, ""


def _is_recipe(target: str, path: Path) -> bool:
    """Whether a file as a whole is one of a launcher, or may be of any."""
    ends = {"torchtitan": (".toml",), "maxtext": (".yml", ".yaml", ".sh"), "accelerate": (".yml", ".yaml")}
    if target:
        return path.suffix in ends.get(target, ())
    return path.suffix != ".py" and _OF_JOBS.search(path.read_text(errors="replace")) is not None


def tried(origin: Origin, path: Path, function: str, given: Given) -> Outcome:
    """What became of it on the node that it names, or that has its precision."""
    name = f"{path.name} {function}".lower()
    known = {**_NODES, **(_SLICES if origin.target == "maxtext" else {})}
    node = next((found for word, found in known.items() if re.search(rf"(^|[^a-z0-9]){word}([^a-z0-9]|$)", name)), _USUAL)
    node = _SLICES["v6e"] if origin.target == "maxtext" and "trillium" in name else node
    found = tried_on(origin, path, function, given, *node)
    return tried_on(origin, path, function, given, *_NODES["b200"]) if "has no peak for" in found.why and node == _USUAL else found


def tried_on(origin: Origin, path: Path, function: str, given: Given, node: str, of_node: int) -> Outcome:
    """The first number of devices on which it fits, or the last word on it."""
    stated = re.search(r"(\d+)gpu", function)
    counts = [int(stated[1])] if stated else [of_node * n for n in ((1, 2, 4) if of_node > 8 else (1, 8, 32, 128))] + [1]
    said, fixed = Outcome(UNREAD), 0
    for count in counts:
        beside = {"node": node, "num_devices": count, **given}
        try:
            job = parsim.import_job(f"{path}::{function}" if function else path, target=origin.target, **beside)  # type: ignore[arg-type]
            found = parsim.estimate(job.scenario, job.plan)
        except ParsimError as error:
            said = said if said.outcome == SHORT else refused(str(error), count)
            if not fixed and (stated := _OF_ALL.search(str(error))):
                counts.append(fixed := int(stated[1]))
            if said.outcome in (ALONE, UNREAD):
                break
            continue
        if found.fits or count > said.devices or said.outcome != SHORT:
            left = "; ".join(f"{each.key} = {each.value}" for each in job.left if _saves(each))
            beside_it = f"; not carried over: {left}"[:200] if left and not found.fits else ""
            said = Outcome(FITS if found.fits else SHORT, count, found.step_s, f"{node}{beside_it}")
        if found.fits:
            break
    return said


def _saves(left: Left) -> bool:
    """Whether what was not carried over sends something to the host."""
    return "host" in left.why or "offload" in str(left.value) or ("offload" in left.key and left.value not in (False, None))


def refused(text: str, count: int) -> Outcome:
    """Which kind of refusal it is, in one line without the machine's paths."""
    line = " | ".join(re.sub(r"/\S*/", "", each).strip() for each in text.splitlines())[:300]
    if _UNREAD.search(text):
        return Outcome(UNREAD, 0, 0.0, line)
    return Outcome(ALONE if _NO_MODEL.search(text) else ILLEGAL, count, 0.0, line)


def given_of(origin: Origin, name: str) -> Given:
    """What is said beside a file of a launcher that says no model."""
    model, tokens = next(each for word, each in _STAND_INS.items() if word in name.lower())
    return {"model": model, "sequence_length": tokens} if origin.model else {}


def table(origin: Origin, root: Path) -> tuple[str, Counter[str]]:
    """The rows as CSV, and how many have each outcome."""
    made, counted = io.StringIO(), Counter[str]()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow(_ROWS)
    alone = len(origin.under) == 1
    for path, function in recipes(origin, root):
        try:
            found = tried(origin, path, function, given_of(origin, str(path.relative_to(root))))
        except ParsimError as error:
            found = refused(str(error), 0)
        except (KeyError, ValueError, TypeError, IndexError, AssertionError) as error:  # parsim's fault, which the row says
            found = Outcome(ILLEGAL, 0, 0.0, f"parsim's fault: {type(error).__name__} {error}")
        counted[found.outcome] += 1
        step = f"{found.step_s:.4g}" if found.step_s else ""
        shown = path.relative_to(root / origin.under[0] if alone else root)
        rows.writerow((shown, function, found.outcome, found.devices or "", step, found.why))
        print(f"{sum(counted.values())} {path.name} {function}: {found.outcome}", file=sys.stderr)
    return made.getvalue(), counted


def line_of(name: str, origin: Origin, commit: str, counted: Counter[str]) -> str:
    """The row of the README."""
    counts = " | ".join(str(counted[each]) for each in (FITS, SHORT, ILLEGAL, ALONE, UNREAD))
    where = f"{origin.repository}, {', '.join(origin.under)}, {commit[:12]}{f' ({origin.ref})' if origin.ref != 'HEAD' else ''}"
    given = ", given a model" if origin.model else ""
    return f"| [{name}]({name}.csv) | {where}{given} | {sum(counted.values())} | {counts} |"


def page(text: str, name: str, line: str) -> str:
    """The README with the row of a source in its place, and behind the rows what recipes ask for that is not built."""
    head = text.partition("\n| [")[0]
    rows = {found[1]: each for each in text.splitlines() if (found := re.match(r"\| \[([\w.-]+)\]", each))} | {name: line}
    lines = [head, *(rows[each] for each in SOURCES if each in rows), "", "What recipes of all sources ask for that is not built:", ""]
    lines += ["| not built | recipes |", "|---|--:|", *(f"| {what} | {count} |" for what, count in lacks().most_common())]
    return "\n".join(lines) + "\n"


def lacks() -> Counter[str]:
    """How many recipes are refused for each thing that is not built."""
    counted = Counter[str]()
    for path in sorted(PLACE.glob("*.csv")):
        for row in csv.DictReader(io.StringIO(path.read_text())):
            for what, words in _LACKS.items():
                if row["outcome"] in (ALONE, ILLEGAL) and re.search(words, row["why"]):
                    counted[what] += 1
                    break
    return counted


def main() -> None:
    """Write the rows of one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--ref", default="")
    asked = parser.parse_args()
    origin = SOURCES[asked.source]

    def git(*words: str, given: str = "") -> bytes:
        return subprocess.run(["git", "-C", str(asked.checkout), *words], capture_output=True, check=True, input=given.encode()).stdout

    commit = git("rev-parse", asked.ref or origin.ref).decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        entries = [line.split(maxsplit=3)[2:] for line in git("ls-tree", "-r", commit).decode().split("\n") if line]
        there = git("cat-file", "--batch-check", given="\n".join(each for each, _ in entries)).decode().split("\n")
        names = [name for (_, name), said in zip(entries, there, strict=False) if not said.endswith("missing")]  # large files may be
        tops = tuple(f"{under.split('/')[0] if origin.target else under}/" for under in origin.under)
        read = [name for name in names if name.startswith(tops) and name.endswith(_ENDS if origin.target else _ENDS_OF_ANY)]
        subprocess.run(["tar", "x", "-C", folder], input=git("archive", commit, *read), check=True)
        rows, counted = table(origin, Path(folder))
    write(PLACE / f"{asked.source}.csv", rows)
    readme = PLACE / "README.md"
    write(readme, page(readme.read_text(), asked.source, line_of(asked.source, origin, commit, counted)))


if __name__ == "__main__":
    main()
