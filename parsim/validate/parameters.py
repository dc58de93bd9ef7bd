"""The fitted figures of the catalog, and of the code: what each rests on, whether validation scores it on its own rows, and its errors.

fits.csv says this of every figure that is a fit; the figure itself stands in the catalog, once, or is a constant of a module (code).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module, resources
from numbers import Number
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from parsim import catalog

_CODE: Final = "code"  # the kind of constants of modules


class Parameter(Struct, frozen=True):
    """Figures of a row that were fitted together.

    Errors are medians of |predicted / measured - 1|, of labels the share that is told wrong; None where nobody computed one.
    """

    name: str  # as stacks/simumax: sustained_factor.b200
    value: Mapping[str, Any]  # by key, as the catalog has it
    of: str  # what was measured: steps, peaks (of memory), labels (of what fitted in it), kernels or collectives
    num_rows: int | None  # measurements; None: not stated
    sources: tuple[str, ...]  # of them
    scored: bool  # whether `validate` is scored on these very rows, whose errors are then no evidence
    error: float | None  # on them
    left_out_error: float | None  # of each without its like
    left_out_by: str  # source, group (a model of a source; of labels, and a sequence length), shape or device: left out with a row
    evidence: str  # what is said of its source

    @property
    def num_figures(self) -> int:
        """Numbers in the value."""
        return sum(_count(each) for each in self.value.values())

    @property
    def is_code(self) -> bool:
        """Whether it is a constant of a module."""
        return self.name.startswith(_CODE)


def parameters() -> tuple[Parameter, ...]:
    """All fitted parameters, those of training steps first.

    >>> next(each.value for each in parameters() if each.name == "stacks/vtrain-deepspeed: host_launch")
    {'host_launch': '25 us'}
    """
    return tuple(_parameter(line) for line in _lines())


def _lines() -> Iterator[Mapping[str, str]]:
    yield from csv.DictReader((resources.files(__package__) / "fits.csv").read_text(encoding="utf-8").splitlines())


def _parameter(line: Mapping[str, str]) -> Parameter:
    keys = line["keys"].split()
    row = _constants(line["row"], keys) if line["kind"] == _CODE else _row(line["kind"], line["row"])
    return Parameter(
        name=f"{line['kind']}/{line['row']}: {', '.join(keys)}",
        value={key: functools.reduce(lambda value, part: value[part], key.split("."), row) for key in keys},
        of=line["of"],
        num_rows=int(line["rows"]) if line["rows"] else None,
        sources=tuple(line["sources"].split("; ")),
        scored=line["scored"] == "yes",
        error=float(line["error"]) if line["error"] else None,
        left_out_error=float(line["left_out_error"]) if line["left_out_error"] else None,
        left_out_by=line["left_out_by"],
        evidence=line["evidence"] or str(row["source"][keys[0].split(".")[0]]),
    )


def _constants(module: str, names: Sequence[str]) -> Mapping[str, Any]:
    found = {name: getattr(import_module(module), name) for name in names}
    return {name: asdict(each) if isinstance(each, Struct) else each for name, each in found.items()}


@functools.cache
def _row(kind: str, name: str) -> Mapping[str, Any]:
    return catalog.row(kind, name)


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_count(each) for each in value.values())
    if isinstance(value, list):
        return sum(_count(each) for each in value)
    return int(isinstance(value, Number) or (isinstance(value, str) and value[:1].isdigit()))
