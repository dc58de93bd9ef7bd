"""A message of a collective, for who lists them as for who sends them; nothing here needs a transport."""

from __future__ import annotations

from typing import Literal, NamedTuple

Operator = Literal["copy", "sum", "max"]


class Transfer(NamedTuple):
    """One message of a collective: `src` sends `chunk`; `dst` adds it in, or overwrites its own.

    Both are positions in the group; the position one past its last rank is a switch that adds.
    """

    step: int
    src: int
    dst: int
    chunk: int
    operator: Operator
