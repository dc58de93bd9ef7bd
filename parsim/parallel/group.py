"""Who takes part in a collective: the ranks that differ along some axes, or of a pipeline only those that hold some segments."""

from __future__ import annotations

from msgspec import Struct


class Group(Struct, frozen=True):
    """Ranks that differ along `axes` only; no axis: each rank by itself."""

    axes: tuple[str, ...]  # outermost first
    homes: tuple[str, ...] = ()  # of the ranks of a pipeline, those that hold one of these segments
    copies: bool = False  # of the ranks that cut heads, those that hold the same kv head
    mirrors: bool = False  # of the ranks of a pipeline, the two as far from either end

    @property
    def name(self) -> str:
        """What counts and streams of the group are filed under: 'dp+cp'."""
        return "+".join(self.axes)
