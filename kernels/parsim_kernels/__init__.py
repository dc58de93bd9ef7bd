"""The numerical core: numpy ranks that compute, communicate and free, and count what they really did.

It knows no plan, no time and no hardware, and imports nothing of parsim.  It computes in the dtype of the arrays that it holds, float64 or
float32, whatever the declared dtype (numpy has no bf16); the ledger charges elements x the declared itemsize.  Every count is taken from
the arrays at call time, never from a formula handed in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from parsim_kernels.kernels import KERNELS
    from parsim_kernels.ledger import Ledger
    from parsim_kernels.machine import Machine
    from parsim_kernels.transfer import Operator, Transfer
    from parsim_kernels.transport import Channel, TransportError, WorkerError, agree, available_bytes, launch, shared_bytes

__all__ = ["KERNELS", "Channel", "Ledger", "Machine", "Operator", "Transfer", "TransportError", "WorkerError"]
__all__ += ["agree", "available_bytes", "launch", "shared_bytes"]

# Each is imported when it is first used: who only lists the messages of a collective needs no kernels and no transport.
_HOMES: Final = {
    **dict.fromkeys(("Operator", "Transfer"), "transfer"),
    **dict.fromkeys(("Channel", "TransportError", "WorkerError", "agree", "available_bytes", "launch", "shared_bytes"), "transport"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'parsim_kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, name.lower())}"), name)
