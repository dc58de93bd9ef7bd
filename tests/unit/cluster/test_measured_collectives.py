"""The laws against public sweeps, class by class, as `tests/compare/collectives.py` prints them."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "compare" / "collectives.py"


def script() -> Any:
    spec = util.spec_from_file_location("compare_collectives", SCRIPT)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_class_of_measured_collectives_is_as_near_as_it_is_asked_to_be() -> None:
    compare = script()
    if not compare.MEASURED.exists():
        pytest.skip("the measurements are not part of the package")
    found = {name: runs for name, runs in compare.classes(compare.runs(compare.MEASURED)).items() if len(runs) >= compare.FEWEST}
    assert len(found) >= 45 and sum(map(len, found.values())) > 4700
    assert {name: compare.statistics(runs) for name, runs in found.items() if not compare.holds(runs)} == {}
