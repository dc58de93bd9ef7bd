"""Predicted numbers of MODEL_VERSION, golden: not right by themselves, but no result of a cache may differ from them unnoticed.

Write them, once the version is raised, with: python tests/unit/sweeps/golden.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from parsim.sweeps import sweep
from parsim.sweeps.key import MODEL_VERSION

FILE: Final = Path(__file__).with_name("golden.json")
ROOT: Final = Path(__file__).parents[3]
CLOSE: Final = 1e-9  # another machine's logarithms may round the last digit otherwise
RAISE: Final = "predicted numbers moved: raise MODEL_VERSION in parsim/sweeps/key.py, then run: python tests/unit/sweeps/golden.py"

# Families of models, kinds of hardware, and every way to split, recompute and update: what a law prices should stand here.
_BASE: Final = {"batch": {"global_batch": 64, "sequence_length": 2048}, "cluster": {"node": "dgx-a100-80gb", "num_nodes": 4}}
_FABRIC: Final = {"fabric": "ib-hdr-8rail"}
_PLANS: Final[Mapping[str, dict[str, Any]]] = {
    "dp": {"micro_batch": 2},
    "tp": {"tensor_parallel": 8, "sequence_parallel": True, "recompute": "selective"},
    "pp": {"pipeline_parallel": 4, "tensor_parallel": 2, "recompute": "full"},
    "vpp": {"pipeline_parallel": 4, "virtual_pipeline": 2, "tensor_parallel": 4},
    "zbh1": {"pipeline_parallel": 4, "tensor_parallel": 2, "schedule": "zero_bubble_h1"},
    "zero1": {"zero_stage": 1, "tensor_parallel": 2},
    "hsdp": {"zero_stage": 3, "zero_group": 8},
    "offload": {"zero_stage": 1, "offload_optimizer": True},
    "master": {"gradient_sync": "master", "optimizer": "sgd_momentum", "tensor_parallel": 4},
}
_CASES: Final[Mapping[str, dict[str, Any]]] = {
    "gpt": {"model": "gpt3-13b", "stack": "megatron-core"},
    "llama": {"model": "llama3-8b", "stack": "torchtitan", "cluster": {"node": "hgx-h100-80gb", "num_nodes": 4, "fabric": "ib-ndr-8rail"}},
    "bert": {
        **{"model": "bert-large", "batch": {"global_batch": 256, "sequence_length": 512, "dtype": "fp16"}, "stack": "megatron-2021"},
        "cluster": {"node": "dgx-1v-32gb", "num_nodes": 4, "fabric": "ib-edr"},
    },
    "amd": {"model": "llama2-7b", "cluster": {"node": "mi300x-8", "num_nodes": 4, "fabric": "roce-400"}, "stack": "deepspeed"},
}


def predicted() -> dict[str, dict[str, float]]:
    """Figures by case and plan; those of the best plan of one space among them."""
    found = {}
    base = {**_BASE, "cluster": {**_BASE["cluster"], **_FABRIC}}  # type: ignore[dict-item]
    for name, case in _CASES.items():
        for row in sweep({**base, **case, "plans": _PLANS}).rows:
            found[f"{name} {row.name}"] = row
    space = {"any": {"tensor_parallel": "auto", "pipeline_parallel": "auto", "recompute": ["none", "full"]}}
    found["gpt best"] = sweep({**base, **_CASES["gpt"], "plans": space}, plan="best").rows[0]
    for path in sorted((ROOT / "scenarios").glob("table5-*.yaml")):
        found |= {f"{path.stem} {row.name}": row for row in sweep(path).rows}
    return {name: _numbers(row.figures) for name, row in found.items()}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if type(value) in (int, float) and not name.startswith("capacity")}


def moved(old: Mapping[str, Mapping[str, float]], new: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What differs, a line each."""
    keys = dict.fromkeys((case, figure) for each in (old, new) for case, figures in each.items() for figure in figures)
    pairs = {key: (old.get(key[0], {}).get(key[1]), new.get(key[0], {}).get(key[1])) for key in keys}
    return [f"{case}: {figure} {a} -> {b}" for (case, figure), (a, b) in pairs.items() if not _close(a, b)]


def _close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= CLOSE * max(abs(a), abs(b)))


def fault(golden: Mapping[str, Any], version: int, now: Mapping[str, Mapping[str, float]]) -> str:
    """What is to be done; "" for nothing."""
    if golden["model_version"] != version:
        return "MODEL_VERSION changed: write its numbers with: python tests/unit/sweeps/golden.py"
    lines = moved(golden["figures"], now)
    return "\n".join([RAISE, *lines[:20]]) if lines else ""


def main() -> None:
    """Write the numbers of this version; those of a version are written once."""
    golden, now = json.loads(FILE.read_text()) if FILE.exists() else {"model_version": 0, "figures": {}}, predicted()
    if golden["model_version"] >= MODEL_VERSION and moved(golden["figures"], now):
        sys.exit(RAISE)
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(figures)}" for case, figures in now.items())
    FILE.write_text(f'{{"model_version": {MODEL_VERSION}, "figures": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
