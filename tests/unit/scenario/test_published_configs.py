"""Configs of Hugging Face give as many parameters as the released files have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_configs import PUBLISHED
from parsim import scenario
from parsim.model.parameters import num_parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_the_published_parameters(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    parts = {
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 8, "sequence_length": PUBLISHED[name].get("sequence_length", 64)},
        "plans": {"a": {}},
    }
    model = scenario.from_mapping({"model": f"hf:{tmp_path}/config.json", **parts}).model
    assert num_parameters(model) == PUBLISHED[name]["parameters"], PUBLISHED[name]["source"]
