"""What a communicator of NCCL holds on a device: buffers of connections, by channel, and those that messages share.

A rank has a connection with each neighbour of its rings and trees for each channel, and with each peer of its messages for some; how many
channels there are follows from links, or between nodes from NICs.  Messages over NICs share buffers.

Source: NVIDIA/nccl@5067397c, src/include/device.h, src/init.cc, src/transport (p2p.cc, net.cc, nvls.cc), src/graph (search.cc,
connect.cc, paths.cc); what is connected when, 178b6b75 (2.22.3-1).  RCCL's constants are not known here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.flash import architecture_of
from parsim.cluster.network import SWITCH_ADDS_ABOVE, placement
from parsim.cluster.ports import nic_port
from parsim.cluster.scalars import Ints
from parsim.units import parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GB: Final = parse("1 GB/s", "bytes/s")
_PAGE: Final = 2**21  # CUDA_IPC_MIN, and what cuMemCreate maps at once
_STEPS, _SHARED_STEPS = 8, 16
_LL, _LL128, _SIMPLE = 8 * 512 * _STEPS * 16, 120 * 640 * _STEPS * 8, 2**22
_HEADER: Final = 4096  # ncclSendMem, ncclRecvMem
_CHUNK_IN_NODE, _CHUNK = 2**19, 2**17  # P2P_NVL_CHUNKSIZE; P2P_NET_CHUNKSIZE and P2P_PCI_CHUNKSIZE
_SWITCH_CHUNK: Final = 2**17  # NVLS_CHUNKSIZE
_MAX_HEADS: Final = 32  # NCCL_MAX_NVLS_ARITY
_NO_SWITCH_FOR: Final = 2  # ranks of a node: tag v2.21.5-1, src/transport/nvls.cc (ncclNvlsInit), of what connects at once
_MAX_SEARCHED: Final = 32  # MAXCHANNELS / 2
_MESSAGE_CHANNELS: Final = 2  # a peer, over PCIe or where some peer is behind a NIC
_, LAZY, NO_SWITCH = SETTINGS = ("eager", "lazy", "no_switch")  # of a stack
_WIRED: Final = ("hybrid_cube_mesh", "fully_connected")  # one device to another


class _Generation(Struct, frozen=True):
    """Of devices, as NCCL tells them apart: GB/s that a channel of its search may have, and that it counts on of a link of so many."""

    in_node: tuple[float, ...]
    of_nic: tuple[float, ...]
    link: tuple[float, float]
    dups_any: bool = False  # doubles channels of less than 50 GB/s however many there are
    switch_channels: int = 0  # of NVLS


_OLD: Final = _Generation(
    (40, 30, 20, 18, 15, 12, 10, 9, 7, 6, 5, 4, 3), (48, 30, 28, 24, 20, 18, 15, 12, 10, 9, 7, 6, 5, 4, 3, 2.4, 1.2), (20, 25), True
)
_HOPPER: Final = _Generation(
    (60, 50, 40, 30, 24, 20, 15, 12, 11, 6, 3), (48, 45, 42, 40, 30, 24, 22, 20, 17.5, 15, 12, 6, 3, 2.4, 1.2), (20.6, 25), False, 16
)
_BLACKWELL: Final = _Generation(
    (90, 80, 70, 60, 50, 45, 40, 30, 24, 20, 19, 18),
    (96, 86, 80, 48, 45.1, 42, 40, 30, 24, 22, 20, 17.5, 15, 12, 6, 3, 2.4, 1.2),
    (40.1, 50),
    False,
    24,
)
_GENERATIONS: Final = {
    **dict.fromkeys(("Volta", "Turing", "Ampere", "Ada"), _OLD),
    "Hopper": _HOPPER,
    **dict.fromkeys(("Blackwell", "Blackwell Ultra", "Blackwell RTX"), _BLACKWELL),
}


class CarriedTraffic(Struct, frozen=True):
    """What a communicator carries: operations of a group, and messages between pairs of its ranks."""

    operations: frozenset[str] = frozenset()
    neighbours: int = 0  # of a rank, that it sends messages to, and as many that it gets some from, at most
    everybody: bool = False  # it sends to all others, and gets from all


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


# A pair of connections, one each way: as the one that sends and the one that receives.  On Ampere the 4 MiB lie with the sender, which is
# as much together.  A NIC sends what it finds in device memory: all but the words of LL, which it has on the host.
PAIR: Final = _whole_pages(_HEADER) + _whole_pages(_HEADER + _LL + _LL128 + _SIMPLE)
NIC_PAIR: Final = _whole_pages(_LL128 + _SIMPLE) + _whole_pages(_LL + _LL128 + _SIMPLE)


def runs_on(cluster: Cluster) -> bool:
    """Whether NCCL, as it is known here, is what joins these devices.

    >>> from parsim.scenario.rows import read
    >>> [runs_on(Cluster(read("nodes", name))) for name in ("hgx-b200", "mi300x-8")]
    [True, False]
    """
    return architecture_of(cluster.node.accelerator.catalog_row) in _GENERATIONS


def buffer_bytes(cluster: Cluster, use: CarriedTraffic, num_ranks: Ints, stride: Ints, settings: Collection[str] = ()) -> Ints:
    """Bytes on the fullest device of a group, one value a plan; of groups across nodes the mean over channels, which NICs share out.

    Of `settings`, lazy: rings, trees and switches are connected for the operations that need them, and shared buffers come with messages:
    here switches for an all_reduce in one node; no_switch: NCCL_NVLS_ENABLE=0.

    Two and four A100 by all_reduce: 544 MB, and 688 for a rank at the end of a chain of a tree (NVIDIA/nccl issue 964), which has half the
    neighbours of the others there.  Eight H100 that exchange tokens with all: 7 x 32 x 12 MiB (issue 1685, where that took 3.3 GB).

    >>> from parsim.scenario.rows import read
    >>> a100, h100 = (Cluster(read("nodes", name)) for name in ("dgx-a100-80gb", "hgx-h100-80gb"))
    >>> ranks, reduces = np.array([2, 4]), CarriedTraffic(frozenset({"all_reduce"}))
    >>> [int(each) // 2**20 for each in buffer_bytes(a100, reduces, ranks, ranks * 0 + 1)]
    [544, 832]
    >>> int(buffer_bytes(h100, CarriedTraffic(everybody=True), ranks[1:] * 2, ranks[1:] * 0 + 1, ["lazy"])[0]) // 2**20
    2688
    """
    inside, nodes = (each.astype(np.int64) for each in placement(cluster.node.devices_per_node, num_ranks, stride, cluster.num_nodes))
    alone = nodes <= 1
    channels = np.where(alone, _channels_in_node(cluster.node), _channels_of_nics(cluster, inside))
    lazy = LAZY in settings
    rings = not lazy or bool(use.operations)
    trees = not lazy or "all_reduce" in use.operations
    chain = np.where(alone & (num_ranks > 2), inside, inside - 1) * PAIR  # a rank within one has two neighbours, of both ways
    ring = np.where(alone, inside * PAIR, (inside - 1) * PAIR + NIC_PAIR)
    # Of two nodes each has one neighbour, which is that of the ring where a node has one rank; else a ring leaves by its last rank, and a
    # tree by its first.
    tree = np.where(alone, chain * (num_ranks > 2), chain + NIC_PAIR * np.where(nodes > 2, 2, inside > 1))
    has_switch = alone & (num_ranks > SWITCH_ADDS_ABOVE) if lazy else inside > _NO_SWITCH_FOR
    adds = trees and NO_SWITCH not in settings
    found = channels * (rings * ring + trees * tree) // inside + adds * has_switch * _switch_bytes(cluster.node, inside)
    found = found + _message_bytes(cluster, use, num_ranks, inside, channels=channels, alone=alone, lazy=lazy)
    return np.asarray(np.where(num_ranks > 1, found, 0))


def _message_bytes(
    cluster: Cluster, use: CarriedTraffic, num_ranks: Ints, inside: Ints, *, channels: Ints, alone: NDArray[np.bool_], lazy: bool
) -> Ints:
    """Connections of messages to peers in the node, of their own, and what all messages share, which those to other nodes go through."""
    node = cluster.node
    all_channels = _next_power(channels)
    links = 2 * round(node.link.bandwidth_bytes_per_s / _GB / _generation(node).link[1]) if _has_links(node) else _MESSAGE_CHANNELS
    links = _MESSAGE_CHANNELS if node.topology in _WIRED else links
    each = np.where(alone, np.minimum(all_channels, _next_power(np.asarray(links))), _MESSAGE_CHANNELS)
    peers = np.where(use.everybody, inside - 1, np.minimum(use.neighbours, inside - 1))
    shared = all_channels * _SHARED_STEPS * np.where(alone & _has_links(node), _CHUNK_IN_NODE, _CHUNK)
    # What is to be sent over a NIC may lie with the rank beside it (PXN), which has a buffer for each rank of its node that may ask.
    senders = np.where(alone, 1, np.minimum(inside, _num_nics(cluster)))
    sent = senders if use.everybody else senders * (not lazy) if not use.neighbours else np.maximum(senders * (not lazy), 1)
    messages = use.everybody or use.neighbours > 0
    ways = np.where(alone, 0 if lazy else 1, sent + messages)  # and one for what comes over the rank's own
    return np.asarray(peers * each * PAIR + shared * ways)


def _switch_bytes(node: Node, inside: Ints) -> Ints:
    """What the switch adds in, each way, of each rank of a node that it adds for."""
    channels = _generation(node).switch_channels * node.switch_adds
    return np.asarray(np.minimum(inside, _MAX_HEADS) * channels * 2 * _STEPS * _SWITCH_CHUNK)


def _channels_in_node(node: Node) -> int:
    """Of a group that stays there: the search takes the speed by which most is sent, the quickest of equals, and doubles what it found.

    >>> from parsim.scenario.rows import read
    >>> [_channels_in_node(read("nodes", name)) for name in ("dgx-a100-80gb", "hgx-h800-80gb", "hgx-h100-80gb", "pcie4-8x-a100-80gb")]
    [24, 16, 24, 2]
    """
    found = _generation(node)
    counted, full = found.link
    total = node.link.bandwidth_bytes_per_s / _GB * (counted / full)
    if not _has_links(node):
        speed = next((each for each in found.in_node if each <= total), found.in_node[-1])
        return 2 * _with_copies(found, 1, speed)
    best = 0, found.in_node[0]
    for speed in found.in_node:
        if best[0] and speed <= 0.49 * best[1]:
            break
        channels = min(int(total // speed), _MAX_SEARCHED)
        best = max(best, (channels, speed), key=lambda each: each[0] * each[1])
    return 2 * _with_copies(found, *best)


def _channels_of_nics(cluster: Cluster, inside: Ints) -> Ints:
    """Of a group across nodes: one for each NIC of its ranks in a node, doubled likewise.

    >>> from parsim.scenario.rows import read
    >>> h100 = Cluster(read("nodes", "hgx-h100-80gb"), 2, read("fabrics", "ib-ndr-8rail"))
    >>> a100 = Cluster(read("nodes", "dgx-a100-80gb"), 2, read("fabrics", "ib-hdr-8rail"))
    >>> [_channels_of_nics(each, np.array([1, 2, 4, 8])).tolist() for each in (h100, a100)]
    [[4, 8, 16, 16], [2, 4, 8, 16]]
    """
    node, fabric = cluster.node, cluster.fabric
    if fabric is None:
        return np.asarray(inside * 0 + 2)
    found, port = _generation(node), nic_port(node, fabric).bandwidth_bytes_per_s / _GB
    speed = next((each for each in found.of_nic if each <= port), found.of_nic[-1])
    searched = np.minimum(np.minimum(inside, _num_nics(cluster)), _MAX_SEARCHED)
    table = np.array([2 * _with_copies(found, each, speed) for each in range(int(searched.max(initial=1)) + 1)])
    return np.asarray(table[searched])


def _with_copies(of: _Generation, channels: int, speed: float) -> int:
    few = speed < 25 or (not of.dups_any and speed < 50 and channels > 4)
    return channels if few else min(2 * channels, _MAX_SEARCHED)


def _generation(node: Node) -> _Generation:
    return _GENERATIONS[architecture_of(node.accelerator.catalog_row)]


def _num_nics(cluster: Cluster) -> int:
    """Of a node, that its ranks reach by links; behind the paths of a host, one."""
    node, fabric = cluster.node, cluster.fabric
    return (fabric.nics_per_node if fabric and fabric.nics_per_node else node.num_nics) if _has_links(node) else 1


def _has_links(node: Node) -> bool:
    """Whether devices have links of their own, and not those of their host, which may be as fast (GH200)."""
    return node.topology in _WIRED or node.link.bandwidth_bytes_per_s > node.host_link.bandwidth_bytes_per_s


def _next_power(count: Ints) -> Ints:
    return np.asarray(2 ** np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64))
