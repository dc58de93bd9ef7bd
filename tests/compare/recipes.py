"""What becomes of public recipes: `python tests/compare/recipes.py megatron-bridge|torchtitan|maxtext CHECKOUT [--ref REF]`.

CHECKOUT is a clone of NVIDIA-NeMo/Megatron-Bridge, pytorch/torchtitan or AI-Hypercomputer/maxtext.  Each recipe of REF is imported as
`parsim import` does, on more and more devices until its step is predicted and fits, and reports/recipes/TARGET.csv has a row for each: what
became of it, on how many devices, and why.  reports/recipes/README.md counts them and names the commit.  Nothing of a checkout is run.
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
from parsim.targets.recipes import Reader
from parsim.targets.torchtitan.registry import jobs_in

PLACE: Final = Path(__file__).parents[2] / "reports" / "recipes"
FITS, SHORT, ALONE, UNREAD, ILLEGAL = "fits", "does not fit", "no model", "not read", "not legal"
REPOSITORIES: Final = {
    "megatron-bridge": ("NVIDIA-NeMo/Megatron-Bridge", "src/megatron/bridge/recipes"),
    "torchtitan": ("pytorch/torchtitan", "torchtitan"),
    "maxtext": ("AI-Hypercomputer/maxtext", "src/maxtext/configs"),
}
_NODES: Final[Mapping[str, tuple[str, int]]] = {  # by a word of the recipe's name, with the devices of a node
    **{
        "gb200": ("gb200-nvl72", 72),
        "gb300": ("gb200-nvl72", 72),
        "b200": ("hgx-b200", 8),
        "a4": ("hgx-b200", 8),
        "a3ultra": ("hgx-h200", 8),
    },
    **{"v5p": ("tpu-v5p-8x8x8", 512), "v5e": ("tpu-v5e-16x16", 256), "v6e": ("tpu-v6e-16x16", 256), "v4": ("tpu-v4-4x4x4", 64)},
}
_USUAL: Final = ("hgx-h100-80gb", 8)
_NO_MODEL: Final = re.compile(r"no such model|unknown model|says no model|model\.\w+: missing|config\.json|hub")
_ROWS: Final = ("file", "recipe", "outcome", "devices", "step_s", "why")


class Outcome(Struct, frozen=True):
    """What became of a recipe."""

    outcome: str
    devices: int = 0
    step_s: float = 0.0
    why: str = ""


def recipes(target: str, root: Path, under: str) -> Iterator[tuple[Path, str]]:
    """The files with the function of each recipe; "" where the file is one."""
    for path in sorted((root / under).rglob("*")):
        if target == "megatron-bridge" and path.suffix == ".py":
            names = Reader(path.read_text(), str(path)).functions()
            yield from ((path, name) for name in names if name.endswith("config") and not name.startswith(("default", "get_")))
        elif target == "torchtitan" and path.name == "config_registry.py":
            yield from ((path, name) for name in jobs_in(path.read_text(), str(path)))
        elif (target == "torchtitan" and path.suffix == ".toml") or (target == "maxtext" and path.suffix in (".yml", ".yaml", ".sh")):
            yield path, ""


def tried(target: str, path: Path, function: str) -> Outcome:
    """What became of it on the node that it names, or that has its precision."""
    name = f"{path.name} {function}".lower()
    node = next((found for word, found in _NODES.items() if re.search(rf"(^|[^a-z0-9]){word}([^a-z0-9]|$)", name)), _USUAL)
    found = tried_on(target, path, function, *node)
    return tried_on(target, path, function, *_NODES["b200"]) if "has no peak for" in found.why and node == _USUAL else found


def tried_on(target: str, path: Path, function: str, node: str, of_node: int) -> Outcome:
    """The first number of devices on which it fits, or the last word on it."""
    stated = re.search(r"(\d+)gpu", function)
    counts = [int(stated[1])] if stated else [of_node * n for n in ((1, 2, 4) if of_node > 8 else (1, 8, 32, 128))] + [1]
    said = Outcome(UNREAD)
    for count in counts:
        cluster = {"node": node, "num_devices": count}
        if count > of_node:
            cluster["fabric"] = "dcn-tpu" if node.startswith("tpu") else "ib-ndr-8rail"
        try:
            job = parsim.import_job(f"{path}::{function}" if function else path, target=target, **cluster)  # type: ignore[arg-type]
            found = parsim.estimate(job.scenario, job.plan)
        except ParsimError as error:
            said = said if said.outcome == SHORT else refused(str(error), count)
            if said.outcome in (ALONE, UNREAD):
                break
            continue
        said = Outcome(FITS if found.fits else SHORT, count, found.step_s, node)
        if found.fits:
            break
    return said


def refused(text: str, count: int) -> Outcome:
    """Which kind of refusal it is, in one line without the machine's paths."""
    line = " | ".join(re.sub(r"/\S*/", "", each).strip() for each in text.splitlines())[:300]
    if "no known launcher reads it" in text or "is no recipe" in text or "does too much" in text:
        return Outcome(UNREAD, 0, 0.0, line)
    return Outcome(ALONE if _NO_MODEL.search(text) else ILLEGAL, count, 0.0, line)


def table(target: str, root: Path, under: str) -> tuple[str, Counter[str]]:
    """The rows as CSV, and how many have each outcome."""
    made, counted = io.StringIO(), Counter[str]()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow(_ROWS)
    for path, function in recipes(target, root, under):
        try:
            found = tried(target, path, function)
        except ParsimError as error:
            found = refused(str(error), 0)
        except (KeyError, ValueError, TypeError, IndexError, AssertionError) as error:  # parsim's fault, which the row says
            found = Outcome(ILLEGAL, 0, 0.0, f"parsim's fault: {type(error).__name__} {error}")
        counted[found.outcome] += 1
        step = f"{found.step_s:.4g}" if found.step_s else ""
        rows.writerow((path.relative_to(root / under), function, found.outcome, found.devices or "", step, found.why))
        print(f"{sum(counted.values())} {path.name} {function}: {found.outcome}", file=sys.stderr)
    return made.getvalue(), counted


def line_of(target: str, commit: str, counted: Counter[str]) -> str:
    """The row of the README."""
    repository, under = REPOSITORIES[target]
    counts = " | ".join(str(counted[each]) for each in (FITS, SHORT, ILLEGAL, ALONE, UNREAD))
    return f"| [{target}]({target}.csv) | {repository}, {under}, {commit[:12]} | {sum(counted.values())} | {counts} |"


def with_line(text: str, line: str) -> str:
    """The README with the row of a target in its place."""
    start = line.split("(")[0]
    kept = [each for each in text.splitlines() if not each.startswith(start)]
    return "\n".join([*kept, line]) + "\n"


def main() -> None:
    """Write the rows of one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=REPOSITORIES)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--ref", default="HEAD")
    asked = parser.parse_args()

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(asked.checkout), *words], capture_output=True, check=True).stdout

    commit = git("rev-parse", asked.ref).decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        names = git("ls-tree", "-r", "--name-only", commit).decode().split("\n")
        top = REPOSITORIES[asked.target][1].split("/")[0]
        read = [name for name in names if name.startswith(f"{top}/") and name.endswith((".py", ".toml", ".yml", ".yaml", ".sh"))]
        subprocess.run(["tar", "x", "-C", folder], input=git("archive", commit, *read), check=True)
        rows, counted = table(asked.target, Path(folder), REPOSITORIES[asked.target][1])
    write(PLACE / f"{asked.target}.csv", rows)
    readme = PLACE / "README.md"
    write(readme, with_line(readme.read_text(), line_of(asked.target, commit, counted)))


if __name__ == "__main__":
    main()
