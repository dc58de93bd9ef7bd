"""A predicted number that moves makes MODEL_VERSION move, so that no cache gives the old one."""

from __future__ import annotations

import json
from typing import Any

import golden
import pytest

from parsim.sweeps.key import MODEL_VERSION

NOW = {"gpt dp": {"step_s": 1.0, "peak_bytes": 100}}
KEPT = {"model_version": 3, "figures": NOW}


def test_the_model_version_is_that_of_the_golden_numbers() -> None:
    said = golden.fault(json.loads(golden.FILE.read_text()), MODEL_VERSION, golden.predicted())
    assert not said, said


@pytest.mark.parametrize(
    "now", [{"gpt dp": {"step_s": 1.001, "peak_bytes": 100}}, {"gpt dp": {"step_s": 1.0, "peak_bytes": 101}}, {"gpt dp": {"step_s": 1.0}}]
)
def test_a_number_that_moves_asks_for_another_version(now: dict[str, Any]) -> None:
    said = golden.fault(KEPT, 3, now)
    assert said.startswith("predicted numbers moved: raise MODEL_VERSION") and "gpt dp" in said


def test_another_version_asks_for_its_numbers() -> None:
    assert "write its numbers" in golden.fault(KEPT, 4, NOW)
    assert golden.fault(KEPT, 3, NOW) == ""


def test_the_numbers_of_a_version_are_not_written_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = tmp_path / "golden.json"
    file.write_text(json.dumps({"model_version": 3, "figures": {"gpt dp": {"step_s": 2.0, "peak_bytes": 100}}}))
    monkeypatch.setattr(golden, "FILE", file)
    monkeypatch.setattr(golden, "predicted", lambda: NOW)
    monkeypatch.setattr(golden, "MODEL_VERSION", 3)
    with pytest.raises(SystemExit, match="raise MODEL_VERSION"):
        golden.main()
    monkeypatch.setattr(golden, "MODEL_VERSION", 4)
    golden.main()
    assert json.loads(file.read_text()) == {"model_version": 4, "figures": NOW}
