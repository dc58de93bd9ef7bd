"""What NVIDIA's recipes of models with experts run by release, accelerator and precision, where a row of their results says nothing.

Source of recipes.csv: NVIDIA-NeMo/Megatron-Bridge, scripts/performance/configs (*_workload_base_configs.py; the variant with the larger
batch) at the tags of the containers, v0.2.0 (25.11), v0.3.0, v0.3.1, v0.4.0, v0.4.2, v0.5.0 and v0.5.1 (26.06.01), of Nemotron 3 at v0.6.0,
too; run_script.py and the perf_matrix of each model at v0.1.0rc3 (25.09): a line where something changed, for all precisions or for one.
moe_flex_dispatcher_backend is per_node and none all_to_all; cuda_graph_impl full_iteration replays all, as graphs of whole layers do over
padded loads, transformer_engine with attention what surrounds experts; moe_a2a_overlap hides exchanges, with delay_wgrad_compute
(scripts/performance/utils/overrides.py, _set_moe_a2a_overlap_overrides).  Graphs of Nemotron's Mamba layers alone, on H100, count as those
of all that surrounds experts; wide_at_end are last layers in bf16 beside NVFP4 (training/mixed_precision.py).
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

from msgspec import Struct

from parsim.validate.table import TableRow

# NVIDIA-NeMo/Megatron-Bridge, training/mixed_precision.py: bf16_mixed reduces in float32.
GRADIENTS_OF_SOURCE: Final[Mapping[str, str]] = {"perf-expert-parallel-overlap": "fp32"}


class ExpertRecipe(Struct, frozen=True):
    """How tokens reach experts, what graphs replay, whether exchanges run beside layers of another micro_batch, and what runs again."""

    dispatch: str
    graphs: str
    overlaps: bool
    recompute_modules: tuple[str, ...]
    num_layers_at_end_in_bf16: int = 0


def recipe_of(row: TableRow, precision: str, release: str) -> ExpertRecipe | None:
    """The recipe behind a row of Megatron-Bridge's published results; None of any other, and of releases before the first."""
    if "Megatron-Bridge" not in row.says("source") or "docs/performance-summary" not in row.says("source"):
        return None
    model = re.sub(r"\W+", "_", row.says("model_name")).lower()
    accelerator = row.device
    found = [
        line
        for line in _lines()
        if model.startswith(line["model"])
        and line["accelerator"] == accelerator
        and line["precision"] in ("", precision)
        and _number(line["since"]) <= _number(release)
    ]
    if not found:
        return None
    line = found[-1]
    modules = tuple(filter(None, line["recompute_modules"].split("+")))
    return ExpertRecipe(line["dispatch"], line["graphs"], line["overlaps"] == "yes", modules, int(line["wide_at_end"] or 0))


@functools.cache
def _lines() -> tuple[Mapping[str, str], ...]:
    """Of a model on an accelerator from the oldest, first those of all precisions."""
    text = (resources.files(__package__) / "recipes.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _number(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", release)))
