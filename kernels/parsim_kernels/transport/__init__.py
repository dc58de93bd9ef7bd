"""Transports: a Channel for each rank, over mailboxes in one process, shared memory between processes, or MPI."""

from __future__ import annotations

from parsim_kernels.transport.channel import Channel, Incoming, Message, Outgoing
from parsim_kernels.transport.direct import symmetric_all_reduce
from parsim_kernels.transport.errors import PeerError, TransportError, WorkerError
from parsim_kernels.transport.launcher import agree, launch, shared_bytes
from parsim_kernels.transport.lockstep import Lockstep
from parsim_kernels.transport.segment import available_bytes

__all__ = [
    "Channel",
    "Incoming",
    "Lockstep",
    "Message",
    "Outgoing",
    "PeerError",
    "TransportError",
    "WorkerError",
    "agree",
    "available_bytes",
    "launch",
    "shared_bytes",
    "symmetric_all_reduce",
]
