"""What a row may need that is not built yet: one line a feature.  To build a feature is to remove its line.

Where a registry or the catalog knows what there is, it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Final, get_args

from parsim import catalog, schedules
from parsim.model.op_kinds import KINDS
from parsim.parallel.plan import KEYS
from parsim.scenario.rows import MATMULS_ONLY, StackRow, dtypes
from parsim.validate.defaults import attention_of
from parsim.validate.table import TableRow

Predicate = Callable[[TableRow], bool]


def _other_than(column: str, *built: str) -> Predicate:
    return lambda row: row.says(column) not in ("", *built)


def _above(column: str, most: int) -> Predicate:
    return lambda row: row.counts.get(column, 0) > most


# By the name of a feature, with cells in braces: whether a row needs it.
FEATURES: Final[Mapping[str, Predicate]] = {
    "workload {workload}": _other_than("workload", "pretrain", "sft", "ci"),
    "mlp {mlp}": _other_than("mlp", *KINDS),
    "experts": _above("num_experts", 0),
    "context_parallel": _above("context_parallel", 1),
    "expert_parallel": _above("expert_parallel", 1),
    "offload": _other_than("offload", "no"),
    "matmuls in {dtype} with other storage": lambda row: row.says("dtype") in MATMULS_ONLY,
    "recompute {recompute}": _other_than("recompute", *KEYS["recompute"].legal),
    "attention {attention}": lambda row: attention_of(row) not in ("", *get_args(StackRow.model_fields["attention"].annotation)),
    "schedule {schedule}": lambda row: row.says("schedule") not in ("", *schedules.names()),
    "dtype {dtype}": lambda row: row.says("dtype") not in ("", *MATMULS_ONLY, *dtypes()),
    "accelerator {accelerator}": lambda row: row.says("accelerator") not in ("", *catalog.names("accelerators")),
}


def replicas(row: TableRow) -> int | None:
    """Data-parallel ranks of a row, stated or left over by the other axes; None where neither is known.

    >>> replicas(TableRow({}, {"num_devices": 64, "tensor_parallel": 8}, {}, ()))
    8
    """
    inner = prod(row.counts.get(axis, 1) for axis in ("tensor_parallel", "pipeline_parallel", "context_parallel"))
    stated, devices = row.counts.get("data_parallel"), row.counts.get("num_devices")
    return stated if stated or not devices else max(1, devices // inner)


def missing_features(row: TableRow) -> list[str]:
    """Names of the features that a row needs and that are not built yet."""
    return [name.format_map(row.text) for name, needs in FEATURES.items() if needs(row)]
