"""How measured rows are grouped: by class, family of sources, accelerator and number of devices."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from typing import Final

from parsim.parallel.precision import FP8, RECIPES
from parsim.validate.defaults import devices_of, precision_of
from parsim.validate.named import num_experts
from parsim.validate.table import TableRow

DENSE, NARROW, EXPERTS, CONTEXT, UNSTEADY, ADAPTERS = CLASSES = (
    *("dense, 16 bit", "dense, 8 and 4 bit", "experts", "context parallel", "BigScience V100", "adapters"),
)
WARNED: Final = "bigscience_v100"  # bigscience-workshop/bigscience, experiments/gpt2.md: results of this cluster vary by up to 40 %
_LEAST: Final = (1, 9, 65, 513)  # devices of a scale
SCALES: Final = ("1 to 8", "9 to 64", "65 to 512", "513 and more")


def classes_of(row: TableRow) -> tuple[str, ...]:
    """The classes in which a row is scored: that of its model and precision, and that of long sequences, too.

    >>> classes_of(TableRow({"dtype": "fp8"}, {"context_parallel": 2}, {}, ()))
    ('dense, 8 and 4 bit', 'context parallel')
    """
    long = (CONTEXT,) if row.counts.get("context_parallel", 1) > 1 else ()
    if row.says("workload") in ("lora", "qlora"):
        return (ADAPTERS,)
    if row.says("source_family") == WARNED:
        return (UNSTEADY,)
    if num_experts(row) > 1:
        return (EXPERTS, *long)
    return (NARROW, *long) if _is_narrow(precision_of(row)) else long or (DENSE,)


def class_of(row: TableRow) -> str:
    """The one class of a row whose mark has one colour.

    >>> class_of(TableRow({"dtype": "fp8"}, {"num_experts": 8, "context_parallel": 2}, {}, ()))
    'experts'
    """
    return classes_of(row)[0]


def _is_narrow(precision: str) -> bool:
    return precision == FP8 or (precision in RECIPES and bool(RECIPES[precision].narrows))


def groups_of(row: TableRow) -> Mapping[str, tuple[str, ...]]:
    """The groups that a row belongs to, by what they are of."""
    return {
        "class": classes_of(row),
        "source": (row.says("source_family") or "not stated",),
        "accelerator": (row.says("accelerator") or "not stated",),
        "devices": (scale_of(devices_of(row)),),
    }


def scale_of(devices: int | None) -> str:
    """The scale of a run.

    >>> [scale_of(each) for each in (1, 64, 10752, None)]
    ['1 to 8', '9 to 64', '513 and more', 'not stated']
    """
    return "not stated" if devices is None else SCALES[bisect(_LEAST, devices) - 1]
