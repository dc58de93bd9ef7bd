"""From the section `cluster` to a Cluster, of equal nodes or of several kinds, with all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from parsim import catalog
from parsim.cluster import Cluster, Fabric, Node, Rent
from parsim.cluster.cluster import DeviceRun, NodeGroup
from parsim.cluster.flash import flash_fault, multiplies_any_layout
from parsim.cluster.topology import topology
from parsim.errors import ParsimError
from parsim.parallel.plan import Stack
from parsim.parallel.precision import NARROW_FLASH, RECIPES
from parsim.scenario.document import ClusterSection, NodeGroupSection
from parsim.scenario.hardware import nics_of_part
from parsim.scenario.rows import read, resolve
from parsim.scenario.tree import Place

Complaints = Iterator[tuple[Place, str]]


class Ground(Struct):
    """What could be built of a cluster so far."""

    nodes: tuple[Node, ...] = ()  # one of each kind
    num_devices: int | None = None
    cluster: Cluster | None = None

    @property
    def peak_flops_per_s(self) -> Mapping[str, float] | None:
        """By dtype that all multiply, of any of them; None where there are no nodes."""
        peaks = [each.accelerator.peak_flops_per_s for each in self.nodes]
        return {dtype: peak for dtype, peak in peaks[0].items() if all(dtype in each for each in peaks)} if peaks else None

    @property
    def runs(self) -> tuple[DeviceRun, ...]:
        """Of the devices, where they are not all alike."""
        return self.cluster.runs if self.cluster and self.cluster.groups else ()


def has_one_layout(nodes: Sequence[Node]) -> bool:
    """Whether all devices multiply narrow numbers however they lie."""
    return bool(nodes) and all(multiplies_any_layout(each.accelerator) for each in nodes)


def layouts_fault(nodes: Sequence[Node], precisions: Iterable[str]) -> str:
    """Why nodes of several kinds do not train in one of these precisions; "" where they do."""
    alike = {multiplies_any_layout(each.accelerator) for each in nodes}
    narrow = next((name for name in precisions if name in RECIPES and RECIPES[name].narrows), "")
    if len(alike) < 2 or not narrow:
        return ""
    names = " and ".join(f'"{each.accelerator.name}"' for each in nodes)
    return f"{names} lay out narrow numbers each in their own way, and {narrow} on both is not built; use bf16"


def cluster_faults(section: ClusterSection, ground: Ground, stack: Stack | None, written: dict[str, Any]) -> Complaints:
    """What is wrong with the cluster, which was written so; what can be built of it is put into `ground`."""
    if section.nodes is not None:
        yield from _groups(section, section.nodes, ground, stack, written)
        return
    if section.node is None:
        yield ("cluster", "node"), f"missing; give {type(section).model_fields['node'].description}"
        return
    stated = written.get("fabric")
    node: Node = resolve("nodes", section.node)
    num_nodes, num_devices = section.counts(node.devices_per_node)
    if said := _shares_of(node, num_nodes, num_devices):
        yield ("cluster", "num_devices"), said
        return
    node = part_of(node, num_devices // num_nodes)
    ground.nodes, ground.num_devices = (node,), num_devices
    yield from _stack_faults(node, stack)
    if num_nodes > 1 and section.fabric is None:
        if stated is None:  # one that is stated, and wrong, was told already
            yield ("cluster", "fabric"), _no_fabric(num_nodes)
        return
    fabric = resolve("fabrics", section.fabric) if section.fabric is not None else None
    if num_nodes > 1 and node.num_nics == 0:
        yield ("cluster", "node"), f'{num_nodes} nodes need NICs, but node "{node.name}" has num_nics = 0'
        return
    if fabric and num_nodes > 1 and (fault := _idle_nics(node, fabric, section.fabric, stated)):
        yield ("cluster", "fabric"), fault
    if wrong := section.sites_fault(num_nodes):
        yield ("cluster", wrong[0]), wrong[1]
        return
    try:
        link = section.site_link.build() if section.site_link else None
        rent = _rent(section.price_per_device_hour, written["node"])
        ground.cluster = Cluster(node, num_nodes, fabric, rent, section.num_sites, link)
    except ParsimError as error:  # what a cluster demands of its parts is known there
        yield ("cluster",), error.in_a_line


def _groups(
    section: ClusterSection, stated: Sequence[NodeGroupSection], ground: Ground, stack: Stack | None, written: dict[str, Any]
) -> Complaints:
    """The same of nodes of several kinds."""
    nodes: list[Node] = [resolve("nodes", each.node) for each in stated]
    if beside := [key for key in ("node", "num_nodes", "num_devices") if getattr(section, key) is not None]:
        names = " and ".join(dict.fromkeys(f'"{each.name}"' for each in nodes))
        key = "node" if beside[0] == "node" else "count"
        said = f"nodes says which nodes there are, here {names}, and how many of each: leave one of the two out"
        said += f"; of one kind alone it is cluster.nodes.0.{key}, and for equal nodes write the scenario anew"
        yield ("cluster", beside[0]), said
        return
    priced = [place for place, each in enumerate(stated) if each.price_per_device_hour is not None]
    if priced and section.price_per_device_hour is not None:
        key = f"nodes.{priced[0]}.price_per_device_hour"
        yield ("cluster", "price_per_device_hour"), f"it is of all devices, and {key} of those of one kind: leave one of the two out"
    ground.nodes = tuple(node for place, node in enumerate(nodes) if node not in nodes[:place])
    num_nodes = sum(each.count for each in stated)
    for node in ground.nodes:
        yield from _stack_faults(node, stack)
    if num_nodes > 1 and section.fabric is None:
        if written.get("fabric") is None:
            yield ("cluster", "fabric"), _no_fabric(num_nodes)
        return
    groups, wrong = list[NodeGroup](), False
    for place, (node, own) in enumerate(zip(nodes, stated, strict=True)):
        ref, told = (own.fabric, written["nodes"][place]["fabric"]) if own.fabric else (section.fabric, written.get("fabric"))
        fabric = resolve("fabrics", ref) if ref is not None else None
        if num_nodes > 1 and node.num_nics == 0:
            said = f'{num_nodes} nodes need NICs, but node "{node.name}" has num_nics = 0'
        else:
            said = _idle_nics(node, fabric, ref, told) if fabric and num_nodes > 1 else ""
        if said:
            wrong = True
            yield ("cluster", "nodes", place, *(("fabric",) if own.fabric else ("node",))), said
        groups.append(NodeGroup(node, own.count, fabric if own.fabric else None))
    if not wrong and (at_fault := section.sites_fault(num_nodes)):
        wrong = True
        yield ("cluster", at_fault[0]), at_fault[1]
    if wrong:
        return
    try:
        joins = resolve("fabrics", section.fabric) if section.fabric is not None else None
        link, rents = section.site_link.build() if section.site_link else None, _rents(section, stated, written)
        sites = {"num_sites": section.num_sites, "site_link": link}
        ground.cluster = Cluster.of_groups(groups, joins, rent=_mean(rents, groups), unpriced=_price_lacks(rents, groups), **sites)
        ground.num_devices = ground.cluster.num_devices
    except ParsimError as error:
        yield ("cluster", "nodes"), error.in_a_line


def _stack_faults(node: Node, stack: Stack | None) -> Complaints:
    """What the stack asks of nodes that these have not."""
    for operation, algorithm in stack.collectives.items() if stack else ():
        if algorithm == "in_network" and not node.switch_adds:
            yield ("stack",), f'{operation} by in_network needs a switch that adds, which node "{node.name}" has not (switch_adds)'
    if stack and stack.named_flash and (absent := flash_fault(stack.named_flash, node.accelerator)):
        yield ("stack",), absent
    for name, kernel in {**stack.flash_in, "": stack.flash}.items() if stack else ():
        trains = not name or not RECIPES[name].without_peak(node.accelerator.peak_flops_per_s)
        if kernel in NARROW_FLASH and trains and (absent := flash_fault(kernel, node.accelerator)):
            yield ("stack",), f"{absent}: leave it out of {'flash_in' if name else 'flash'}, since what it reads is made narrow"


def _no_fabric(num_nodes: int) -> str:
    return f"missing: {num_nodes} nodes need a fabric; known: {', '.join(catalog.names('fabrics'))}"


def _rent(stated_usd: float | None, node: Any) -> Rent | None:
    """What a device costs: as stated, else as the node, or the one that it starts from, was named; None where nobody says."""
    if stated_usd is not None:
        return Rent("stated", stated_usd, "the scenario")
    name = catalog.find("prices", str(node.get("base", "") if isinstance(node, dict) else node))
    return read("prices", name) if name else None


def _rents(section: ClusterSection, stated: Sequence[NodeGroupSection], written: dict[str, Any]) -> list[Rent | None]:
    """What a device of each group costs; None where nobody says."""
    of_all = section.price_per_device_hour
    pairs = zip(stated, written["nodes"], strict=True)
    return [_rent(each.price_per_device_hour if of_all is None else of_all, own["node"]) for each, own in pairs]


def _mean(rents: Sequence[Rent | None], groups: Sequence[NodeGroup]) -> Rent | None:
    """What a device costs on average; None where nobody says it of some."""
    known = [(each.num_devices, rent) for each, rent in zip(groups, rents, strict=True) if rent is not None]
    if len(known) < len(groups):
        return None
    if len({rent for _, rent in known}) == 1:
        return known[0][1]
    mean = sum(count * rent.device_hour_usd for count, rent in known) / sum(count for count, _ in known)
    sources = "; ".join(dict.fromkeys(f"{rent.device_hour_usd:g} USD: {rent.source}" for _, rent in known))
    return Rent("mean of the nodes", mean, f"the mean of all devices, {sources}")


def _price_lacks(rents: Sequence[Rent | None], groups: Sequence[NodeGroup]) -> tuple[tuple[str, str], ...]:
    """The key and the node of each group that has no price, where others have one."""
    lacking = [(place, each) for place, each in enumerate(groups) if rents[place] is None]
    keys = tuple((f"cluster.nodes.{place}.price_per_device_hour", each.node.name) for place, each in lacking)
    return keys if len(lacking) < len(groups) else ()


def _shares_of(node: Node, num_nodes: int, num_devices: int) -> str:
    """Why the nodes cannot share the devices that are used evenly; "" where they can."""
    most = num_nodes * node.devices_per_node
    if num_devices > most:
        held = f'{num_nodes} nodes "{node.name}" hold' if num_nodes > 1 else f'a node "{node.name}" holds'
        return f"num_devices = {num_devices} is above the {most} that {held}; give num_nodes = {-(-num_devices // node.devices_per_node)}"
    if num_devices % num_nodes:
        return f"num_devices = {num_devices} is no multiple of the {num_nodes} nodes, each of which gives as many"
    used = num_devices // num_nodes
    if used in (1, node.devices_per_node):
        return ""
    if node.torus or node.edges:
        shape = f"{{base: {node.name}, devices_per_node: {used}, {'torus' if node.torus else 'edges'}: [...]}}"
        return f"{node.topology} is used whole, so num_devices = {most}; a part of it is a node of its own: {shape}"
    return topology(node.topology, "node").fault(replace(node, devices_per_node=used))


def part_of(node: Node, used: int) -> Node:
    """The node's first `used` devices, with their part of its NICs; what a group of them gets of its wires stays."""
    if used == node.devices_per_node:
        return node
    alone: dict[str, Any] = {"topology": "switched_node", "torus": (), "edges": ()} if used == 1 else {}  # one device needs no wires
    return replace(node, devices_per_node=used, num_nics=nics_of_part(node.num_nics, used, node.devices_per_node), **alone)


def _idle_nics(node: Node, fabric: Fabric, ref: Any, stated: Any) -> str:
    """Why the rails of a catalog's fabric, named or written so, are not made for a node that has more NICs; "" where they are."""
    base = getattr(ref, "base", fabric.name)
    if isinstance(stated, dict) and "nics_per_node" in stated:
        return ""
    if fabric.nics_per_node is None or fabric.nics_per_node >= node.num_nics or "rail" not in fabric.topology:
        return ""
    say_so = f"fabric: {{base: {base}, nics_per_node: {node.num_nics}}}"
    return (
        f'the rails of "{fabric.name}" connect {fabric.nics_per_node} of the {node.num_nics} NICs of node "{node.name}"; '
        f"name another fabric, or say how many they connect, e.g. {say_so}"
    )
