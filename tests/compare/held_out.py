"""What share of isolated kernels' rate each stack sustains on each accelerator: fitted, shrunk, and scored on what it was not fitted on.

python tests/compare/held_out.py TABLE...: CSV files of measured steps.  Dense rows without context parallelism or adapters count.  A
factor is of a stack on an accelerator, relative to its own share, or, where GEMMs multiply in a dtype for which the stack has a share, of
stack and dtype, relative to the median of its accelerators' own.  The values in stacks.yaml and fits.csv are what this prints, that of
megatron-2022 apart, as its source says.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from parsim.confidence.shrink import Evidence, Shrunk, deviations_of, evidence, fit, left_out_logs, seen_from, shrink
from parsim.errors import ParsimError
from parsim.model.dims import LINEAR
from parsim.scenario import Scenario
from parsim.validate.case import missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s, predict
from parsim.validate.defaults import software_of
from parsim.validate.sources import document_of, run_of
from parsim.validate.table import TableRow, read

FIRST = 0.9  # a factor beside the default, through which the first secants go
ROUNDS = 2  # of secants after those
# Stacks that share what is fitted, since their rows of the catalog begin with one another's.
SHARED = {
    "bigscience-deepspeed": "megatron-deepspeed-2021",
    "nemo-mlperf": "nemo",
    "nemo-mlperf-8b": "nemo",
    "megatron-bridge": "nemo",
    "megatron-core-local": "megatron-core",
    "megatron-core-fused-loss": "megatron-core",
}
Cell = tuple[str, str]  # stack, and accelerator or dtype


class Case(NamedTuple):
    """A row that can be predicted, whose cell is known."""

    cell: Cell
    source: str
    row: TableRow
    scenario: Scenario  # with no factor of its stack for the cell
    measured_s: float
    default_s: float

    @property
    def own(self) -> float:
        """The accelerator's own share."""
        return self.scenario.cluster.node.accelerator.sustained_factor

    def step_s(self, share: float) -> float:
        """Its step where compute goes at the share."""
        factors = {**self.scenario.stack.sustained_factor, self.cell[1]: share}
        return predict(replace(self.scenario, stack=replace(self.scenario.stack, sustained_factor=factors)), self.row)[0]

    def evidence(self, share: float, usual: float) -> Evidence:
        """Beside a prediction at the usual share of its cell, by the secant from the accelerator's own to one near the answer."""
        model = self.row.says("model_name")
        row = evidence(self.source, model, self.measured_s, self.default_s, self.step_s(share), share / self.own)
        return seen_from(row, usual / self.own)


def cases(path: str) -> Iterator[Case]:
    """Of a table, those that repeat a run as one, of the median step."""
    runs: dict[tuple[str, ...], list[Case]] = {}
    for case in _rows(path):
        runs.setdefault(run_of(case.row), []).append(case)
    for repeats in runs.values():
        yield repeats[0]._replace(measured_s=median(each.measured_s for each in repeats))


def _rows(path: str) -> Iterator[Case]:
    for row in read(path):
        known = not (row.faults or missing_features(row) or missing_cells(row)) and row.says("workload") not in ("ci", "lora")
        dense = row.counts.get("num_experts", 0) < 2 and row.counts.get("context_parallel", 1) == 1
        if known and dense and (measured := measured_step_s(row)):
            try:
                yield case_of(row, path, measured)
            except ParsimError:
                continue


def case_of(row: TableRow, path: str, measured_s: float) -> Case:
    """The case of a row."""
    scenario = scenario_of(row, path)
    recipe, stack = scenario.batch.recipe, scenario.stack
    dtype = recipe.multiplied_in(LINEAR)
    key = dtype if recipe.narrows and dtype in stack.sustained_factor else scenario.cluster.node.accelerator.name
    rest = {name: share for name, share in stack.sustained_factor.items() if name != key}
    plain = replace(scenario, stack=replace(stack, sustained_factor=rest))
    name = software_of(row).stack
    return Case((SHARED.get(name, name), key), document_of(row), row, plain, measured_s, predict(plain, row)[0])


def fitted(own: Sequence[Case]) -> list[Evidence]:
    """The rows of a cell as they lie about the factor that fits them."""
    usual = usual_share(own)
    rows = [each.evidence(FIRST * usual, usual) for each in own]
    for _ in range(ROUNDS):
        factor = fit(rows)
        if abs(math.log(factor)) < 0.01:
            break
        rows = [each.evidence(factor * usual, usual) for each in own]
    return rows


def usual_share(own: Sequence[Case]) -> float:
    """That of which factors of a cell are: of an accelerator its own, of a dtype the median of its rows' accelerators."""
    return median(each.own for each in own)


def line_of(cell: Cell, own: Sequence[Case], found: Shrunk) -> str:
    """What the catalog would state of a cell, and what it rests on."""
    share = found.factor * usual_share(own)
    factor = f"{found.fitted:6.3f} {found.weight:5.2f} {found.factor:6.3f} = {share:.3f}"
    errors = f"{100 * found.default_error:5.1f} {100 * found.error:5.1f} {100 * found.left_out_error:5.1f} by {found.left_out_by or '-'}"
    return f"{cell[0]:24} {cell[1]:18} {factor}  {errors:30} {found.num_rows:4} of {', '.join(found.sources)}"


def summary(name: str, rows: Mapping[Cell, Sequence[Evidence]], logs: Callable[[Cell], Sequence[float]]) -> str:
    """Median and 90th percentile of errors, and their bias, in percent, each row by the logarithm of a factor."""
    pairs = [(row, log) for cell, own in rows.items() for row, log in zip(own, logs(cell), strict=True)]
    errors = np.array([math.expm1(-row.log_ratio - row.elasticity * log) for row, log in pairs])
    figures = (100 * float(each) for each in (*np.quantile(np.abs(errors), (0.5, 0.9)), np.median(errors)))
    return "{:28} {:6.1f} {:6.1f} {:+6.1f}".format(name, *figures) + f"  ({len(errors)})"


def main() -> None:
    """Print deviations, all factors, and errors of all rows by default, in sample and left out."""
    cells: dict[Cell, list[Case]] = {}
    for path in sys.argv[1:]:
        for case in cases(path):
            cells.setdefault(case.cell, []).append(case)
    rows = {cell: fitted(own) for cell, own in sorted(cells.items())}
    most = {cell: 1 / usual_share(own) for cell, own in cells.items()}  # times the usual share: a full rate
    deviations = deviations_of(rows.values())
    print(f"standard deviations measured here: row {deviations.row:.3f}, source {deviations.source:.3f}, stack {deviations.stack:.3f}")
    print("stack, accelerator or dtype; factor, weight, factor shrunk = share; median errors by default, in sample, left out, in %; rows")
    for cell, own in rows.items():
        print(line_of(cell, cells[cell], shrink(own, most=most[cell])))
    print("all rows: median, 90th percentile, bias, in %")
    print(summary("usual shares", rows, lambda cell: [0.0] * len(rows[cell])))
    print(summary("shrunk factors, in sample", rows, lambda cell: [math.log(shrink(rows[cell], most=most[cell]).factor)] * len(rows[cell])))
    print(summary("source or group left out", rows, lambda cell: left_out_logs(rows[cell], most=most[cell])[1]))


if __name__ == "__main__":
    main()
