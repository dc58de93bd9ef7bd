"""The cluster of a row of measurements: its node and what joins nodes, as the row states them or as is usual for such devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product, takewhile
from math import prod
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import catalog
from parsim.cluster import Cluster, Fabric, Node
from parsim.errors import ParsimError
from parsim.parallel.fault import divisors
from parsim.scenario.hardware import nics_of_part
from parsim.scenario.left_open import FABRIC, Assumed
from parsim.scenario.rows import read
from parsim.validate.table import TableRow


class Ports(Struct, frozen=True):
    """A fabric of the catalog and the NICs of a node on it."""

    fabric: str
    num_nics: int
    source: str


# By accelerator: the node whose NVLink joins more devices than one tray or host holds.
NVLINK_DOMAIN: Final[Mapping[str, str]] = {"gb200": "gb200-nvl72", "gb300": "gb300-nvl72"}  # NVIDIA GB200 NVL72 datasheet: 72 GPUs

_JEAN_ZAY = Ports("jean-zay", 4, "IDRIS Jean Zay documentation: 4 Omni-Path ports of 100 Gb/s a node")
# What `inter_node_link` may hold -> the network; the first that occurs in it counts.
NETWORK_OF_LINK: Final[Mapping[str, Ports]] = {
    "1600 Gbps": Ports("ib-hdr-8rail", 8, "8 ports of 200 Gb/s"),
    "8x HDR": Ports("ib-hdr-8rail", 8, "as the row states"),
    "4x100Gb RoCE": Ports("roce-100", 4, "as the row states"),
    "4x100Gb": Ports("ib-edr", 4, "4 ports of 100 Gb/s, taken for as many of EDR"),
    "400 Gb/s per GPU": Ports("ib-ndr-8rail", 8, "8 ports of 400 Gb/s"),
    "400 Gbps per node": Ports("ib-hdr-8rail", 2, "400 Gb/s as 2 ports of HDR"),
    "EDR": Ports("ib-edr", 1, "as the row states"),
    "Omni-Path": _JEAN_ZAY,
}
NETWORK_OF_FAMILY: Final[Mapping[str, Ports]] = {
    "bigscience_a100": _JEAN_ZAY,
    "vtrain": Ports("ib-hdr-8rail", 4, "VIA-Research/vTrain@f8dda84, config/validation: 800 Gb/s between nodes, as 4 ports of HDR"),
}
# By the first word of the accelerator's name: the vendor's own node of that generation, whose usual network counts.
NODE_OF_GENERATION: Final[Mapping[str, str]] = {
    **{"v100": "dgx-1v-32gb", "a100": "dgx-a100-80gb", "a800": "hgx-a800-80gb", "h100": "hgx-h100-80gb", "h200": "hgx-h200"},
    **{"b200": "hgx-b200", "gb200": NVLINK_DOMAIN["gb200"], "b300": "hgx-b300"},
}
# The same where no row of such a node has that network.
NETWORK_OF_GENERATION: Final[Mapping[str, Ports]] = {
    # mlcommons/training_results_v4.0, NVIDIA, system l40s_n16: two ports of 400 Gb/s between nodes.
    "l40s": Ports("ib-ndr-8rail", 2, "2 BlueField-3 of 400 Gb/s"),
    "gb300": Ports("ib-xdr-8rail", 72, "NVIDIA GB300 NVL72 datasheet: a port of 800 Gb/s a GPU"),
}


def cluster_of(row: TableRow, num_devices: int) -> Cluster:
    """So many devices, on as few nodes as hold them.

    Raises:
        ParsimError: the catalog has no node of such devices.
    """
    node = _node(catalog.find("accelerators", row.says("accelerator")), row.counts.get("devices_per_node"), num_devices)
    num_nodes = -(-num_devices // node.devices_per_node)
    if num_nodes == 1:
        return Cluster(node)
    ports = ports_of(row, node)
    fabric: Fabric = replace(read("fabrics", ports.fabric), nics_per_node=ports.num_nics)
    return Cluster(replace(node, num_nics=ports.num_nics), num_nodes, fabric)


def ports_of(row: TableRow, node: Node) -> Ports:
    """The network that the row states, that of its family, its accelerator's generation or its node in the catalog, or the default.

    That of a generation is of the vendor's own nodes, which are none of cards in PCIe slots.

    >>> found = ports_of(TableRow({"accelerator": "h100-sxm5-80gb"}, {}, {}, ()), read("nodes", "hgx-h100-80gb"))
    >>> found.fabric, found.num_nics
    ('ib-ndr-8rail', 8)
    """
    stated = [ports for text, ports in NETWORK_OF_LINK.items() if text in row.says("inter_node_link")]
    if row.device in NODE_OF_GENERATION and "-pcie" not in node.accelerator.name:
        node = read("nodes", NODE_OF_GENERATION[row.device])
    usual = NETWORK_OF_GENERATION.get(row.device) or Ports(node.usual_fabric or FABRIC, node.num_nics, node.source)
    return stated[0] if stated else NETWORK_OF_FAMILY.get(row.says("source_family"), usual)


def assumed_fabric(row: TableRow, cluster: Cluster) -> Iterator[Assumed]:
    """That nodes are joined by the default, where nothing tells what joins them."""
    fabric = cluster.fabric
    if fabric and fabric.name == FABRIC and not row.says("inter_node_link"):
        yield Assumed("fabric", FABRIC)


def _node(accelerator: str, devices_per_node: int | None, num_devices: int) -> Node:
    """The node of the catalog with that accelerator, or the nearest by its name, with as many devices as the row states.

    Of nodes equally near, one that has that many devices goes first.  Where NVLink joins several hosts, they are one node, and of all nodes
    as many devices are used: 64 of 72 where a run has 256.  A torus is a slice of the largest of its kind.
    """
    if accelerator in NVLINK_DOMAIN:
        domain: Node = read("nodes", NVLINK_DOMAIN[accelerator])
        sizes = range(min(domain.devices_per_node, num_devices), 0, -1)
        return replace(domain, devices_per_node=next(each for each in sizes if num_devices % each == 0))
    nodes: list[Node] = [read("nodes", name) for name in catalog.names("nodes")]
    node = max(nodes, key=lambda each: (*_nearness(accelerator, each.accelerator.name), each.devices_per_node == devices_per_node))
    if node.accelerator.name.split("-")[0] != accelerator.split("-")[0]:
        raise ParsimError(f"needs a node of {accelerator}")
    if node.torus:
        alike = [each for each in nodes if each.accelerator.name == node.accelerator.name]
        largest = max(each.devices_per_node for each in alike)
        node = _slice(node, devices_per_node or min(num_devices, largest))
    return replace(node, accelerator=read("accelerators", accelerator), devices_per_node=devices_per_node or node.devices_per_node)


def _slice(node: Node, num_devices: int) -> Node:
    """So many devices of a torus, on axes as equal as they can be, with their part of its NICs.

    Source: AI-Hypercomputer/tpu-recipes, training/ironwood: 4x4x4, 4x4x8 and 4x8x8; jax-ml/scaling-book@0819a7d8, tpus.md.

    >>> [_slice(read("nodes", name), 128).torus for name in ("tpu-v5p-8x8x8", "tpu-v6e-16x16")]
    [(4, 4, 8), (8, 16)]
    """
    if num_devices == node.devices_per_node:
        return node
    shapes = (each for each in product(divisors(num_devices), repeat=len(node.torus)) if prod(each) == num_devices)
    torus = tuple(sorted(min(shapes, key=lambda shape: (max(shape), -min(shape)))))
    return replace(
        node, devices_per_node=num_devices, torus=torus, num_nics=nics_of_part(node.num_nics, num_devices, node.devices_per_node)
    )


def _nearness(one: str, other: str) -> tuple[bool, int]:
    """Whether two names are one, and how many letters they begin with alike: an A10 is no A100.

    >>> max(("a100-sxm4-80gb", "a10", "a10g"), key=lambda name: _nearness("a10", name))
    'a10'
    """
    return one == other, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
