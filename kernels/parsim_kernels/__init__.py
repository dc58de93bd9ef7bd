"""The numerical core: numpy ranks that compute, communicate and free, and count what they really did.

It knows no plan, no time and no hardware, and imports nothing of parsim.  It computes in the dtype of the arrays that it holds, float64 or
float32, whatever the declared dtype (numpy has no bf16); the ledger charges elements x the declared itemsize.  Every count is taken from
the arrays at call time, never from a formula handed in.
"""

from __future__ import annotations

from parsim_kernels.fabric import Transfer
from parsim_kernels.kernels import KERNELS
from parsim_kernels.ledger import Ledger
from parsim_kernels.machine import Machine
from parsim_kernels.transport import Channel, Operator, TransportError, WorkerError, launch

__all__ = ["KERNELS", "Channel", "Ledger", "Machine", "Operator", "Transfer", "TransportError", "WorkerError", "launch"]
