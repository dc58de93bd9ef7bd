"""Figures of layers whose heads are of two kinds: those with full attention have others than those with a window (Gemma 4).

Source: huggingface/transformers, models/gemma4/configuration_gemma4.py and modeling_gemma4.py (Gemma4TextAttention) of release 5.24.
"""

from __future__ import annotations

from parsim.model.dims import FULL
from parsim.model.routing import RoutedSpec
from parsim.model.spec import figure

_OTHERS = ("full_head_dim", "full_kv_heads", "full_rotary_dim")  # figures that make them others


class HeadsSpec(RoutedSpec, frozen=True, kw_only=True):
    """A model whose layers with full attention may have heads of their own."""

    full_head_dim: int = figure("the width of a head in layers that see all tokens, where others have a window; 0: head_dim", 0, zero=True)
    full_kv_heads: int = figure("the key and value heads of such layers; 0: num_kv_heads", 0, zero=True)
    full_rotary_dim: int = figure("the elements of their heads that are turned, with positions = rotary; 0: all", 0, zero=True)
    keys_as_values: bool = figure("whether their values are what keys are made of, so that they have no matrix", False)
    values_normed: bool = figure("whether an RMSNorm without weights stands behind each head's values", False)
    scores_scaled: bool = figure("whether scores of attention are divided by the root of head_dim", True)
    layer_scale: float = figure("what leaves each layer is multiplied by, a number that is not trained; 0: by nothing", 0.0, most=1_000)

    @property
    def has_full_heads(self) -> bool:
        """Whether layers with full attention have dims of heads of their own."""
        return any(getattr(self, name) for name in _OTHERS)

    def heads_of(self, *, full: bool) -> tuple[int, int]:
        """Kv heads and the width of a head of a layer, with full attention or not."""
        own = (self.full_kv_heads, self.full_head_dim) if full else (0, 0)
        return own[0] or self.num_kv_heads, own[1] or self.head_dim  # type: ignore[attr-defined]

    def full_extents(self, num_heads: int) -> dict[str, int]:
        """Extents of the dims of such heads; none where all layers have the same."""
        if not self.has_full_heads:
            return {}
        kv_heads, width = self.heads_of(full=True)
        found = {"K": kv_heads, "A": kv_heads, "R": num_heads // kv_heads, "C": width, "r": self.full_rotary_dim}
        return {FULL[dim]: extent for dim, extent in found.items() if extent}
