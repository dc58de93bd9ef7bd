"""The network between the nodes of a row of measurements, where the row leaves it open; none of these is a row's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from parsim.cluster import Node
from parsim.errors import ParsimError
from parsim.validate.table import TableRow


class Ports(Struct, frozen=True):
    """A fabric of the catalog and the NICs of a node on it."""

    fabric: str
    num_nics: int
    source: str


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
# By the first word of the accelerator's name: the network of the vendor's own node of that generation.
NETWORK_OF_GENERATION: Final[Mapping[str, Ports]] = {
    "v100": Ports("ib-edr", 4, "NVIDIA DGX-1 with Tesla V100 system architecture white paper"),
    "a100": Ports("ib-hdr-8rail", 8, "NVIDIA DGX A100 datasheet"),
    "h100": Ports("ib-ndr-8rail", 8, "NVIDIA DGX H100 datasheet"),
    "h200": Ports("ib-ndr-8rail", 8, "NVIDIA DGX H200 datasheet"),
    # mlcommons/training_results_v4.0, NVIDIA, system l40s_n16: two ports of 400 Gb/s between nodes.
    "l40s": Ports("ib-ndr-8rail", 2, "2 BlueField-3 of 400 Gb/s"),
    "b200": Ports("ib-ndr-8rail", 8, "NVIDIA DGX B200 datasheet"),
    "gb200": Ports("ib-ndr-72rail", 72, "NVIDIA GB200 NVL72 datasheet: a port a GPU"),
    "b300": Ports("ib-xdr-8rail", 8, "NVIDIA DGX B300 datasheet: 8 ports of 800 Gb/s"),
    "gb300": Ports("ib-xdr-8rail", 72, "NVIDIA GB300 NVL72 datasheet: a port of 800 Gb/s a GPU"),
    "a800": Ports("ib-hdr-8rail", 8, "as an A100 node"),
}


def ports_of(row: TableRow, node: Node) -> Ports:
    """The network that the row states, or that of its family, of its accelerator's generation, or the usual one of its node in the catalog.

    Raises:
        ParsimError: none is known.
    """
    stated = [ports for text, ports in NETWORK_OF_LINK.items() if text in row.says("inter_node_link")]
    usual = Ports(node.usual_fabric, node.num_nics, "usual for the node") if node.usual_fabric else None
    usual = NETWORK_OF_GENERATION.get(row.says("accelerator").split("-")[0], usual)
    found = stated[0] if stated else NETWORK_OF_FAMILY.get(row.says("source_family"), usual)
    if found is None:
        raise ParsimError(f"needs the network between nodes of {row.says('accelerator')}")
    return found
