"""What tells the layers of one transformer apart."""

from __future__ import annotations

from typing import NamedTuple


class LayerForm(NamedTuple):
    """What a layer has that others of its model may not have."""

    experts: bool = False  # in place of a dense MLP
    full: bool = False  # attention to all tokens, in a model whose other layers have a window
    unturned: bool = False  # queries and keys without positions, in a model whose other layers turn them
    unnormed: bool = False  # no norm before attention, in a model whose other layers have one
    loads: int = 0  # the first of the layers with experts whose experts have the same loads

    @property
    def name(self) -> str:
        """That of its block."""
        loads = f"loads{self.loads}_" if self.loads else ""
        return f"{'unnormed_' * self.unnormed}{'full_' * self.full}{'unturned_' * self.unturned}{loads}{'expert_' * self.experts}layer"
