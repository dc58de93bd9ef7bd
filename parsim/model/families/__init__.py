"""Families of models, one small file each: which blocks a model has, by name.  All else is derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from parsim.model.op import Block
from parsim.model.spec import Architecture
from parsim.registry import Registry

Blocks = Mapping[str, Block]  # by the names of a layout, in the order in which a model runs them

# By name: (architecture, attention, fusions, tied) -> its blocks.
FAMILIES: Registry[Callable[[Architecture, str, tuple[str, ...], bool], Blocks]] = Registry("family of models")


def by_name(*blocks: Block) -> Blocks:
    """Blocks in the order in which a model runs them."""
    return {block.name: block for block in blocks}


def names() -> tuple[str, ...]:
    """All known families, sorted.

    >>> names()
    ('mlp', 'transformer')
    """
    FAMILIES.discover(__name__)
    return FAMILIES.names()


def blocks_of(kind: Architecture, attention: str = "flash", fusions: tuple[str, ...] = (), tied: bool = False) -> Blocks:
    """The blocks of an architecture, under a stack's attention kernels and fusions.

    >>> list(blocks_of(Architecture("layer_norm", "learned", "gelu", bias=True, qkv_bias=True, dropout=True)))
    ['embedding', 'layer', 'head']

    Raises:
        ParsimError: no such family.
    """
    FAMILIES.discover(__name__)
    return FAMILIES.get(kind.family)(kind, attention, fusions, tied)
