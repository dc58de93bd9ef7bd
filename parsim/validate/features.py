"""What a row may need that is not built yet: one line a feature.  To build a feature is to remove its line.

Where a registry or the catalog knows what there is, it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

from parsim import catalog, schedules
from parsim.model.op_kinds import KINDS
from parsim.parallel.plan import KEYS
from parsim.scenario.rows import MATMULS_ONLY, StackRow, dtypes
from parsim.validate.defaults import ATTENTION
from parsim.validate.table import Row

Predicate = Callable[[Row], bool]


@dataclass(frozen=True, slots=True)
class Feature:
    """A name with cells in braces, and whether a row needs it."""

    name: str
    needed: Predicate


def _other_than(column: str, *built: str) -> Predicate:
    return lambda row: row.says(column) not in ("", *built)


def _above(column: str, most: int) -> Predicate:
    return lambda row: row.counts.get(column, 0) > most


FEATURES: Final = (
    Feature("workload {workload}", _other_than("workload", "pretrain", "sft", "ci")),
    Feature("mlp {mlp}", _other_than("mlp", *KINDS)),
    Feature("experts", _above("num_experts", 0)),
    Feature("context_parallel", _above("context_parallel", 1)),
    Feature("expert_parallel", _above("expert_parallel", 1)),
    Feature("offload", _other_than("offload", "no")),
    Feature("matmuls in {dtype} with other storage", lambda row: row.says("dtype") in MATMULS_ONLY),
    Feature("recompute {recompute}", _other_than("recompute", *KEYS["recompute"].legal)),
    Feature("attention {attention}", lambda row: ATTENTION.get(row.says("attention"), row.says("attention")) not in ("", *_attention())),
    Feature("schedule {schedule}", lambda row: row.says("schedule") not in ("", *schedules.names())),
    Feature("dtype {dtype}", lambda row: row.says("dtype") not in ("", *MATMULS_ONLY, *dtypes())),
    Feature("accelerator {accelerator}", lambda row: row.says("accelerator") not in ("", *catalog.names("accelerators"))),
)


def replicas(row: Row) -> int | None:
    """Data-parallel ranks of a row, stated or left over by the other axes; None where neither is known.

    >>> replicas(Row({}, {"num_devices": 64, "tensor_parallel": 8}, {}, ()))
    8
    """
    inner = 1
    for axis in ("tensor_parallel", "pipeline_parallel", "context_parallel"):
        inner *= row.counts.get(axis, 1)
    stated, devices = row.counts.get("data_parallel"), row.counts.get("num_devices")
    return stated if stated or not devices else max(1, devices // inner)


def missing_features(row: Row) -> list[str]:
    """Names of the features that a row needs and that are not built yet."""
    return [each.name.format_map(row.text) for each in FEATURES if each.needed(row)]


def _attention() -> tuple[str, ...]:
    kinds: tuple[str, ...] = get_args(StackRow.model_fields["attention"].annotation)
    return kinds
