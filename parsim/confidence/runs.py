"""Measured runs that predictions were compared with, and how far these were off.  Made by parsim/validate/residuals.py from the cases."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

from msgspec import Struct

STEP: Final = "step"
ALLOCATED: Final = "allocated"  # live tensors alone
HELD: Final = "held"  # with what the allocator, libraries and the context hold: what fills a device
FIGURES: Final = (STEP, ALLOCATED, HELD)
HEADER: Final = "id,source,stack,accelerator,kind,num_devices,num_assumed,sweep,step,step_unseen,step_left_out,allocated,held"


class ComparedRun(Struct, frozen=True):
    """One measured run; its errors are log(measured / predicted), None where it states no such figure."""

    id: str
    source: str  # the family of sources that it is from
    stack: str  # without its release
    accelerator: str  # its generation
    kind: str
    num_devices: int
    num_assumed: int
    sweep: str  # the same of runs that differ in their plans alone; "" of one that stands alone
    step: float | None = None
    step_unseen: float | None = None  # the same by figures fitted to other models, or sources where there are several
    step_left_out: float | None = None  # the same where none was fitted to its source: what it says of other stacks
    allocated: float | None = None
    held: float | None = None


@functools.cache
def known_runs() -> tuple[ComparedRun, ...]:
    """Those that parsim ships, in the order of their file."""
    text = (resources.files(__package__) / "runs.csv").read_text(encoding="utf-8")
    return tuple(_run(line) for line in text.splitlines()[2:])


def model_version() -> int:
    """The version of predictions that their errors are of, as the first line says."""
    with (resources.files(__package__) / "runs.csv").open(encoding="utf-8") as file:
        return int(file.readline().split()[-1])


def text_of(found: tuple[ComparedRun, ...], version: int) -> str:
    """The file of these runs.

    >>> print(text_of((ComparedRun("a-1", "a", "mine", "h100", "dense", 8, 0, "", step=0.125),), 3).splitlines()[2])
    a-1,a,mine,h100,dense,8,0,,0.1250,,,,
    """
    lines = (f"# errors are log(measured / predicted) of predictions of version {version}", HEADER, *map(_line, found))
    return "".join(f"{each}\n" for each in lines)


def _line(run: ComparedRun) -> str:
    known = (getattr(run, name) for name in ComparedRun.__struct_fields__)
    return ",".join("" if each is None else f"{each:.4f}" if isinstance(each, float) else str(each) for each in known)


def _run(line: str) -> ComparedRun:
    name, source, stack, accelerator, kind, devices, assumed, sweep, *errors = line.split(",")
    known = (float(each) if each else None for each in errors)
    return ComparedRun(name, source, stack, accelerator, kind, int(devices), int(assumed), sweep, *known)
