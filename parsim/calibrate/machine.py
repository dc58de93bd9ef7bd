"""This machine as a row of a scenario: its cores as devices, with the laws that were fitted, and how the row is read again."""

from __future__ import annotations

import datetime
import io
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from parsim import __version__, units
from parsim.calibrate.links import MESSAGE
from parsim.calibrate.models import DTYPE
from parsim.calibrate.samples import DIGITS, LawFit
from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.cluster import Node
from parsim.cluster.link import CollectiveLaw
from parsim.errors import ScenarioError
from parsim.scenario.fields import complaints_of
from parsim.scenario.rows import SCHEMAS
from parsim.scenario.tree import read as read_tree

_HEADER: Final = """\
# A machine's cores as devices, measured by `parsim calibrate` of parsim {version}.  A scenario runs on them with
#   cluster: {{node: file:{name}}}        (a path beside the scenario)   or with this mapping in the place of the name,
#   batch: {{..., dtype: {dtype}}}
"""
_UNUSED: Final = "of no effect: every kernel that runs here has a law of its own; the roofline of the best that was measured"
Fits = Sequence[LawFit[KernelLaw]]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def node_row(accelerator: Mapping[str, Any], links: Iterable[LawFit[CollectiveLaw]], link_bytes_per_s: float) -> dict[str, Any]:
    """The mapping of a node of such cores, as a scenario has it; no law may claim more than the link's rate."""
    source = accelerator["source"]["kernels"]
    laws = {link.name: _collective(link.law) for link in links if link.name != MESSAGE}
    message = next((link.law for link in links if link.name == MESSAGE), None)
    link = {
        "name": "shared memory",
        "bandwidth": units.format(link_bytes_per_s, "bytes/s", DIGITS),
        **dict.fromkeys(("latency", "fitted_latency"), units.format(message.start_s if message else 0.0, "s", DIGITS)),
        "source": source,
    }
    p2p = min(message.ring_bytes_per_s / link_bytes_per_s, 1.0) if message else 1.0
    return {
        "name": f"{num_cores()} cores of {cpu_name()}",
        "accelerator": accelerator,
        "devices_per_node": num_cores(),
        "link": link,
        "law": laws.get("all_reduce", _collective(CollectiveLaw(0.0, 0.0, link_bytes_per_s, link_bytes_per_s, 0.0))),
        "laws": laws,
        "host_link": {**link, "name": "memory"},
        "num_nics": 0,
        "topology": "switched_node",
        "p2p_efficiency": float(f"{p2p:.{DIGITS}g}"),
        "source": source,
    }


def accelerator_row(kernels: Fits, busy_kernels: Fits, peak: float, bandwidth: float, paces_s: Mapping[int, float]) -> dict[str, Any]:
    """One core: its laws, and for whatever has none the roofline of the best FLOP/s and bytes/s; `paces_s`: by busy cores."""
    source = f"parsim calibrate, {datetime.datetime.now(datetime.UTC).date().isoformat()}, {cpu_name()}"
    launch = units.format(min(fit.law.call_s for fit in kernels), "s", DIGITS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_cores()
    return {
        "name": f"a core of {cpu_name()}",
        "peak": {DTYPE: units.format(peak, "FLOP/s", DIGITS)},
        "hbm_bandwidth": units.format(bandwidth, "bytes/s", DIGITS),
        "hbm_capacity": f"{memory} B",
        "num_multiprocessors": 1,
        "gemm": {"efficiency": 1.0, "memory_efficiency": 1.0, "launch": launch, "exponent": 1.0},
        "attention": {
            "efficiency_by_head_dim": {64: 1.0}, "launch": launch, "ramp": 0.0, "memory_efficiency": 1.0, "backward_rate": 1.0,
        },
        "elementwise": {"memory_efficiency": 1.0, "launch": launch},
        "kernels": {fit.name: _kernel(fit.law) for fit in kernels},
        "busy_kernels": {fit.name: _kernel(fit.law) for fit in busy_kernels},
        "paces": {cores: units.format(pace_s, "s", DIGITS) for cores, pace_s in paces_s.items()},
        "source": {
            **dict.fromkeys(("kernels", "busy_kernels", "paces", "peak", "hbm_bandwidth", "hbm_capacity"), source),
            **dict.fromkeys(("gemm", "attention", "elementwise"), _UNUSED),
        },
    }  # fmt: skip


def _kernel(law: KernelLaw) -> dict[str, Any]:
    rates = {"rate": (law.flops_per_s, "FLOP/s"), "bandwidth": (law.bytes_per_s, "bytes/s")}
    rates["written_bandwidth"] = (law.written_bytes_per_s, "bytes/s")
    row: dict[str, Any] = _texts({"call": (law.call_s, "s"), **({"matrix": (law.matrix_s, "s")} if law.matrix_s else {})})
    row |= _texts({key: (rate, unit) for key, (rate, unit) in rates.items() if math.isfinite(rate)})
    if law.knees:
        row["knees"] = [{"beyond": f"{int(knee)} B", "bandwidth": units.format(rate, "bytes/s", DIGITS)} for knee, rate in law.knees]
    return row


def _collective(law: CollectiveLaw) -> dict[str, str]:
    rates = {"ring": (law.ring_bytes_per_s, "bytes/s"), "all_reduce": (law.all_reduce_bytes_per_s, "bytes/s")}
    ramp = (law.ramp_s_per_sqrt_byte, "s/sqrt(bytes)")
    return _texts({"start": (law.start_s, "s"), "step": (law.step_s, "s"), **rates, "ramp": ramp})


def _texts(figures: Mapping[str, tuple[float, str]]) -> dict[str, str]:
    return {key: units.format(value, unit, DIGITS) for key, (value, unit) in figures.items()}


def build_node(row: Mapping[str, Any]) -> Node:
    """The node that a row describes."""
    node: Node = SCHEMAS.get("nodes").model_validate(row).build("")
    return node


def load_node(path: Path) -> Node:
    """The node whose row stands in a file.

    Raises:
        ScenarioError: the file cannot be read, or is no node's row; the error holds all faults.
    """
    tree = read_tree(path)
    if tree.faults:
        raise ScenarioError.of(tree.faults)
    if not isinstance(tree.value, dict):
        raise ScenarioError("is no node's row", str(path), "`parsim calibrate` writes one.")
    try:
        return build_node(tree.value)
    except ValidationError as error:
        raise ScenarioError.of(tree.fault(place, said) for place, said in complaints_of(error)) from None


def text_of(row: Mapping[str, Any], name: str) -> str:
    """The row as a YAML file of that name, which says how a scenario uses it."""
    from ruamel.yaml import YAML

    text, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.width, yaml.sort_base_mapping_type_on_output = 140, False  # type: ignore[assignment]
    yaml.dump(dict(row), text)
    return _HEADER.format(version=__version__, name=name, dtype=DTYPE) + text.getvalue()
