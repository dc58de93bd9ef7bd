"""Effective bandwidth and latency of a node's link and of a fabric, as factors on the laws of their rows; and seconds by those laws.

A law keeps its form: a factor of bandwidth moves its rates, one of latency its starts and steps, and the ramp between them goes with the
root of both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim import units
from parsim.calibrate.collective_log import TimedCollective, bus_factor
from parsim.calibrate.factor_fit import MOST, Knob, slow_fault
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import AllToAllLaw, CollectiveLaw
from parsim.cluster.network import collective_s, p2p_s
from parsim.cluster.scalars import Floats
from parsim.collectives import reference
from parsim.confidence.shrink import Deviations
from parsim.scenario.clusters import part_of

DIGITS: Final = 4
# Of a size about its sweep: 0.05, in the median of 67 public sweeps (tests/compare/cluster_factors.py).  Of a cluster about the
# catalog: 0.02 in the median, since the catalog saw these, but bandwidths up to 0.25 and latencies far more; assumed between.
_BANDWIDTHS: Final = Deviations(row=0.05, source=0.0, stack=0.15)
_LATENCIES: Final = Deviations(row=0.05, source=0.0, stack=0.4)
_MANY_HOSTS: Final = "nvl72"  # the topology of nodes that hold several hosts
Row = dict[str, Any]
_SHARE, _RATE, _TIME, _RAMP = "share", "bytes/s", "s", "s/sqrt(bytes)"
_LAW: Final = {"ring": _RATE, "all_reduce": _RATE, "start": _TIME, "step": _TIME, "ramp": _RAMP}
_PROTOCOL: Final = {"start": _TIME, "step": _TIME, "bandwidth": _RATE}


class WireKnobs(Struct, frozen=True):
    """What factors of bandwidth and latency move: some figures of the row of a node or a fabric, for some operations."""

    name: str  # of the factors
    kind: str  # nodes, fabrics
    operations: tuple[str, ...]
    figures: Mapping[str, str]  # of the row -> what they are
    laws: tuple[str, ...] = ()  # keys of laws, moved as a whole
    shown: tuple[str, ...] = ()  # the keys by which reports show bandwidth and latency

    @property
    def bandwidth(self) -> str:
        """The name of the factor on rates."""
        return f"{self.name} bandwidth"

    @property
    def latency(self) -> str:
        """The name of the factor that divides starts and steps."""
        return f"{self.name} latency"

    def knobs(self, row: Row, built: Node | Fabric) -> tuple[Knob, Knob]:
        """Both factors of a row, beside what it builds; no share of a link or of NICs is above 1, and no ring faster than the link."""
        shares = [row[key] for key, kind in self.figures.items() if kind == _SHARE and key in row]
        shares += [row[key]["efficiency"] for key in self.laws if isinstance(row.get(key), dict) and "efficiency" in row[key]]
        rings = [row[key]["ring"] for key in self.laws[:1] if isinstance(built, Node) and "ring" in row.get(key, {})]  # a switch may add
        shares += [units.parse(each, _RATE) / built.link.bandwidth_bytes_per_s for each in rings if isinstance(built, Node)]
        most = min([MOST, *(1.0 / float(each) for each in shares)])
        return Knob(self.bandwidth, _BANDWIDTHS, max(most, 1.0)), Knob(self.latency, _LATENCIES)

    def change(self, row: Row, scales: Mapping[str, float]) -> Row:
        """The figures of the row that factors move, as they are then."""
        bandwidth, latency = (scales.get(each, 1.0) for each in (self.bandwidth, self.latency))
        found: Row = {}
        for key, kind in self.figures.items():
            if key in row:
                found[key] = _move(row[key], kind, bandwidth, latency)
        for key in self.laws:
            if key in row:
                found[key] = _move_law(row[key], bandwidth, latency)
        return found


_IN_NODE: Final = (
    WireKnobs(
        "in a node:", "nodes", ("all_reduce", "all_gather", "reduce_scatter"), {}, ("law", "in_switch", "laws"), ("law.ring", "law.start")
    ),
    WireKnobs("in a node: all_to_all", "nodes", ("all_to_all",), {}, ("all_to_all",), ("all_to_all.ring", "all_to_all.start")),
    WireKnobs(
        "in a node: p2p",
        "nodes",
        ("p2p",),
        {"p2p_efficiency": _SHARE, "p2p_start": _TIME},
        ("p2p_narrow",),
        ("p2p_efficiency", "p2p_start"),
    ),
)
_BETWEEN: Final = (
    WireKnobs(
        "between nodes: all_reduce",
        "fabrics",
        ("all_reduce",),
        {"efficiency": _SHARE, "start": _TIME, "hop": _TIME, "ramp": _RAMP, "all_reduce_ring_step": _TIME},
        ("small",),
        ("efficiency", "hop"),
    ),
    WireKnobs(
        "between nodes: all_gather, reduce_scatter",
        "fabrics",
        ("all_gather", "reduce_scatter"),
        {"ring_efficiency": _SHARE, "ring_start": _TIME, "ring_step": _TIME, "ring_ramp": _RAMP},
        ("ring_small",),
        ("ring_efficiency", "ring_step"),
    ),
    WireKnobs("between nodes: all_to_all", "fabrics", ("all_to_all",), {}, ("all_to_all",), ("all_to_all.efficiency", "all_to_all.start")),
    WireKnobs(
        "between nodes: p2p",
        "fabrics",
        ("p2p",),
        {"p2p_efficiency": _SHARE, "p2p_start": _TIME, "p2p_ramp": _RAMP},
        (),
        ("p2p_efficiency", "p2p_start"),
    ),
)
WIRES: Final = (*_IN_NODE, *_BETWEEN)


def by_nodes(node: Node, timed: Iterable[TimedCollective]) -> list[TimedCollective]:
    """The measurements with nodes in place of hosts: where NVLink joins several hosts these are one node, as far as they fit into it."""
    many = node.topology == _MANY_HOSTS
    return [replace(each, num_nodes=-(-each.num_ranks // node.devices_per_node)) if many else each for each in timed]


def wire_of(each: TimedCollective) -> WireKnobs:
    """The factors that a measurement feels: of the node where one host holds all ranks, else of the fabric."""
    return next(wire for wire in (_BETWEEN if each.num_nodes > 1 else _IN_NODE) if each.operation in wire.operations)


def lends(wire: WireKnobs, other: WireKnobs) -> bool:
    """Whether the factors of one that was measured are the other's, too, if that was not: of trees and rings between nodes.

    The same NICs and switches carry both, so that a cluster which is slow in one is in the other.
    """
    return wire is not other and wire in _BETWEEN[:2] and other in _BETWEEN[:2]


def state_all(row: Row, built: Node | Fabric) -> Row:
    """The row with the figures that it leaves to others stated, so that each can be moved by itself."""
    full = dict(row)
    if isinstance(built, Node):
        full.setdefault("all_to_all", row["law"])
        full.setdefault("p2p_efficiency", built.p2p_efficiency)
        full.setdefault("p2p_start", units.format(built.link.latency_s if built.p2p_start_s is None else built.p2p_start_s, "s", DIGITS))
        return full
    full.setdefault("ring_efficiency", built.efficiency)
    full.setdefault("all_to_all", {"start": row["start"], "efficiency": built.efficiency, "ramp": "0 s/sqrt(B)"})
    # The start of rings comes on top of that of trees, which their factor moves: of each its own.
    full["ring_start"] = units.format(built.start_s + built.ring_start_s, "s", DIGITS)
    return full


def settle(full: Row, changes: Row) -> Row:
    """Changes as a scenario has them: of a fabric the start of rings comes on top of that of trees."""
    if not {"start", "ring_start"} & {*changes} or "ring_start" not in full:
        return changes
    both = {**full, **changes}
    extra_s = units.parse(both["ring_start"], _TIME) - units.parse(both["start"], _TIME)
    return {**changes, "ring_start": units.format(max(extra_s, 0.0), _TIME, DIGITS)}


def _move(value: Any, kind: str, bandwidth: float, latency: float) -> Any:
    if kind == _SHARE:
        return min(float(f"{float(value) * bandwidth:.{DIGITS}g}"), 1.0)
    factor = {_RATE: bandwidth, _TIME: 1.0 / latency, _RAMP: 1.0 / math.sqrt(bandwidth * latency)}[kind]
    return units.format(units.parse(value, kind) * factor, kind, DIGITS)


def _move_law(law: Any, bandwidth: float, latency: float) -> Any:
    """The law, or the laws of a list or by operation, with all its figures moved."""
    if isinstance(law, list):
        return [_move_law(each, bandwidth, latency) for each in law]
    if law and all(isinstance(each, dict) for each in law.values()):
        return {operation: _move_law(each, bandwidth, latency) for operation, each in law.items()}
    kinds = {**_LAW, **_PROTOCOL, "hop": _TIME, "efficiency": _SHARE}
    moved = {key: _move(each, kinds[key], bandwidth, latency) for key, each in law.items() if key in kinds}
    small = {"small": _move_law(law["small"], bandwidth, latency)} if law.get("small") else {}
    return {**law, **moved, **small}


def seconds_of(node: Node, fabric: Fabric | None, timed: Sequence[TimedCollective]) -> Floats:
    """Seconds by the laws, one for each measurement."""
    alike: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for place, each in enumerate(timed):
        alike[each.operation, each.num_ranks, each.num_nodes].append(place)
    found = np.empty(len(timed))
    for (operation, ranks, hosts), places in alike.items():
        sizes = np.array([timed[place].payload_bytes for place in places], dtype=np.float64)
        found[places] = _collective_s(node, fabric, operation, ranks, hosts, sizes)
    return found


def _collective_s(node: Node, fabric: Fabric | None, operation: str, ranks: int, hosts: int, sizes: Floats) -> Floats:
    """Of one operation among the ranks of so many hosts, sizes as nccl-tests counts them; of sendrecv each rank sends to the next."""
    part = part_of(node, ranks // hosts) if hosts > 1 else node
    cluster = Cluster(part, hosts, fabric if hosts > 1 else None)
    if operation == "p2p":
        return np.asarray(p2p_s(cluster, sizes, part.devices_per_node if hosts > 1 else 1), dtype=np.float64)
    steps = reference(operation).num_steps(operation, ranks)
    return np.asarray(collective_s(cluster, operation, bus_factor(operation, ranks) * sizes, steps, ranks, 1), dtype=np.float64)


def faults_of(node: Node, fabric: Fabric | None, timed: Iterable[TimedCollective]) -> Iterator[tuple[TimedCollective, str]]:
    """Measurements that these nodes cannot have made, each with the reason."""
    told: set[tuple[str, int, int, str]] = set()  # of a run once, where it is the run
    ideal_node, ideal_fabric = _ideal(node, fabric)
    for each in timed:
        ranks = each.num_ranks // each.num_nodes
        said = ""
        if each.num_ranks % each.num_nodes:
            said = f"{each.num_ranks} ranks on {each.num_nodes} nodes {node.name}, which then hold unequal numbers; give as many of each"
        elif ranks > node.devices_per_node:
            said = f"{ranks} ranks on a host, but node {node.name} has {node.devices_per_node} devices; name the node with --accelerator"
        elif each.num_nodes > 1 and fabric is None:
            said = f"{each.num_nodes} hosts, but no fabric joins nodes here; name it with --fabric"
        elif each.num_nodes > 1 and not node.num_nics:
            said = f"{each.num_nodes} hosts, but node {node.name} has no NIC"
        if said:
            if (run := (each.path, each.num_ranks, each.num_nodes, said)) not in told:
                told.add(run)
                yield each, said
            continue
        least_s = float(seconds_of(ideal_node, ideal_fabric, [each])[0])
        if each.seconds < least_s / _ABOVE:
            wires = f"the NICs of {node.name}" if each.num_nodes > 1 else node.link.name
            most, rate = (units.format(each.bus_bytes_per_s * share, "bytes/s") for share in (each.seconds / least_s, 1.0))
            yield each, f"{each.operation} has busbw {rate}, above the {most} that {wires} can carry; is it another node or fabric?"
        elif said := slow_fault(each.seconds, float(seconds_of(node, fabric, [each])[0])):
            yield each, said


_ABOVE: Final = 1.03  # of what wires can carry: their nominal rates are rounded


def _ideal(node: Node, fabric: Fabric | None) -> tuple[Node, Fabric | None]:
    """The same wires with laws that lose nothing, so that the wires alone bind."""
    free = CollectiveLaw(0.0, 0.0, math.inf, math.inf, 0.0)
    at_once = {"p2p_start_s": 0.0, "p2p_efficiency": 1.0}
    wire = replace(node.link, fitted_latency_s=None)
    ideal = replace(node, law=free, laws={}, all_to_all=None, in_switch=None, p2p_narrow=None, link=wire, group_share=(), **at_once)
    if fabric is None:
        return ideal, None
    nothing = {
        each: 0.0 for each in ("start_s", "hop_s", "ring_step_s", "ramp_s_per_sqrt_byte", "ring_start_s", "ring_ramp_s_per_sqrt_byte")
    }
    all_nics = {"efficiency": math.inf, "ring_efficiency": math.inf, "all_reduce_nics": None}
    law = {"small": None, "ring_small": (), "all_reduce_ring_step_s": None, "all_to_all": AllToAllLaw(0.0, 1.0, 0.0)}
    nic = replace(fabric.nic, fitted_latency_s=None)
    return ideal, replace(fabric, nic=nic, p2p_ramp_s_per_sqrt_byte=0.0, **nothing, **all_nics, **law, **at_once)
