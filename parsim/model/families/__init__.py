"""Families of models, one small file each: which blocks the embedding, a layer and the head of one are.  All else is derived."""

from __future__ import annotations

from collections.abc import Callable

from parsim.model.op import Block
from parsim.model.spec import Architecture
from parsim.registry import Registry

Blocks = tuple[Block, Block, Block]

# By name: (architecture, attention, fusions, tied) -> embedding, layer and head.
FAMILIES: Registry[Callable[[Architecture, str, tuple[str, ...], bool], Blocks]] = Registry("family of models")


def names() -> tuple[str, ...]:
    """All known families, sorted.

    >>> names()
    ('mlp', 'transformer')
    """
    FAMILIES.discover(__name__)
    return FAMILIES.names()


def blocks_of(kind: Architecture, attention: str = "flash", fusions: tuple[str, ...] = (), tied: bool = False) -> Blocks:
    """Embedding, layer and head of an architecture, under a stack's attention kernels and fusions.

    Raises:
        ParsimError: no such family.
    """
    FAMILIES.discover(__name__)
    return FAMILIES.get(kind.family)(kind, attention, fusions, tied)
