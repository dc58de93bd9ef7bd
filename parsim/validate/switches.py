"""Switches of PyTorch's stacks that notes of a row name: torch.compile, and tensor parallelism whose collectives hide behind GEMMs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from parsim.validate.table import TableRow

_COMPILED: Final[Mapping[str, str]] = {"torchtitan": "torchtitan-compiled", "torchtune": "torchtune-compiled"}


def as_compiled(stack: str, row: TableRow) -> str:
    """The stack as torch.compile makes it, where the row says that this is on and the catalog has such a row.

    >>> as_compiled("torchtitan", TableRow({"notes": "FSDP+torch.compile"}, {}, {}, ()))
    'torchtitan-compiled'
    >>> as_compiled("torchtitan", TableRow({"notes": "FSDP2, no compile."}, {}, {}, ()))
    'torchtitan'
    """
    return _COMPILED.get(stack, stack) if _is_on(r"(torch\.)?compile", row) else stack


def hides_tensor_collectives(row: TableRow) -> bool:
    """Whether they are cut in pieces between those of GEMMs: asynchronous tensor parallelism, in words of pytorch/torchtitan, benchmarks.

    >>> [hides_tensor_collectives(TableRow({"notes": text}, {}, {}, ())) for text in ("2D+AsyncTP", "bf16, async TP", "no async TP")]
    [True, True, False]
    """
    return _is_on("async[ -]?tp", row)


def _is_on(switch: str, row: TableRow) -> bool:
    """Whether notes name a switch, and not that it is off.

    >>> texts = ("torch.compile", "no compile", "without torch.compile", "not compiled", "FSDP2")
    >>> [_is_on(r"(torch\\.)?compile", TableRow({"notes": text}, {}, {}, ())) for text in texts]
    [True, False, False, False, False]
    """
    found = re.finditer(rf"\b(?P<off>(?:no|not|without) +)?(?:{switch})", row.says("notes"), re.IGNORECASE)
    return any(not each["off"] for each in found)
