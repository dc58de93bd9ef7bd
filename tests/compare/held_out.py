"""What GEMMs in 8 and 4 bits sustain, chosen without one source and scored on it: whether two constants of stack nemo are more than a fit.

python tests/compare/held_out.py TABLE...: CSV files of measured steps.  Of their dense rows that NeMo or Megatron-Bridge ran in a low
precision; "own": what the accelerator's GEMMs in bf16 sustain, which is no constant of the stack.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import median

from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.model.dims import LINEAR
from parsim.validate.case import missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s, predict
from parsim.validate.table import TableRow, read

SHARES = ("own", "0.85", "0.9", "0.95", "1")
Errors = dict[str, float]  # absolute, by share


def rows(path: str) -> Iterator[tuple[str, str, Errors]]:
    """Dtype of GEMMs, source and errors of each row."""
    for row in read(path):
        known = not (row.faults or missing_features(row) or missing_cells(row)) and row.says("workload") != "ci"
        if known and not row.counts.get("num_experts") and (found := errors_of(row, path)):
            yield found[0], row.says("source_family"), found[1]


def errors_of(row: TableRow, path: str) -> tuple[str, Errors] | None:
    """Of a row in a low precision; None of any other."""
    try:
        scenario = scenario_of(row, path)
        dtype, measured = scenario.batch.recipe.multiplied_in(LINEAR), measured_step_s(row)
        if not (measured and scenario.batch.recipe.narrows and scenario.stack.name.startswith(("nemo", "megatron-bridge"))):
            return None
        found = {}
        for share in SHARES:
            others = {name: value for name, value in scenario.stack.sustained_factor.items() if name != dtype}
            own = others if share == "own" else {**others, dtype: float(share)}
            asked = replace(scenario, stack=replace(scenario.stack, sustained_factor=own))
            found[share] = abs(predict(asked, row)[0] / measured - 1)
    except ParsimError:
        return None
    return dtype, found


def medians(errors: list[Errors]) -> str:
    """Medians by share, in percent."""
    return "  ".join(f"{share} {100 * median(each[share] for each in errors):5.1f}" for share in SHARES)


def main() -> None:
    """Print, of each dtype, all rows and each source held out."""
    found = [each for path in sys.argv[1:] for each in rows(path)]
    for dtype in sorted({each[0] for each in found}):
        own = [each for each in found if each[0] == dtype]
        print(f"{dtype}, {len(own)} rows, median error in %:  {medians([errors for *_, errors in own])}")
        held: list[float] = []
        for source in sorted({each[1] for each in own}):
            out, rest = ([errors for _, family, errors in own if (family == source) is here] for here in (True, False))
            if rest:
                chosen = min(SHARES, key=lambda share: median(errors[share] for errors in rest))
                held += [errors[chosen] for errors in out]
                print(f"  without {source} ({len(out)} rows) {chosen} is chosen, there:  {medians(out)}")
        if held:
            print(f"  all of them held out: {100 * median(held):.1f}")


if __name__ == "__main__":
    main()
