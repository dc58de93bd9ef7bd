"""Families of models, one small file each: the figures of a model and the blocks that it runs.  All else is derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from parsim.model.op import Block
from parsim.model.spec import Architecture, ModelSpec
from parsim.model.tuning import tuned_blocks
from parsim.registry import Registry

Blocks = Mapping[str, Block]  # by the names of a layout, in the order in which a model runs them


class Family(Struct, frozen=True):
    """Models that have the same figures and are computed by the same code."""

    spec: type[ModelSpec]
    blocks: Callable[[Any, str, tuple[str, ...]], Blocks]  # (architecture of the spec, attention, fusions) -> its blocks


FAMILIES: Registry[Family] = Registry("family of models")


def by_name(*blocks: Block) -> Blocks:
    """Blocks in the order in which a model runs them."""
    return {block.name: block for block in blocks}


def names() -> tuple[str, ...]:
    """All known families, sorted.

    >>> names()
    ('dense', 'encoder_decoder', 'hybrid', 'mlp', 'transformer', 'vision_language', 'vit')
    """
    FAMILIES.discover(__name__)
    return FAMILIES.names()


def family(name: str) -> Family:
    """The family of this name.

    Raises:
        ParsimError: no such family.
    """
    FAMILIES.discover(__name__)
    return FAMILIES.get(name)


def blocks_of(kind: Architecture, attention: str = "flash", fusions: tuple[str, ...] = ()) -> Blocks:
    """The blocks of an architecture, under a stack's attention kernels and fusions.

    Raises:
        ParsimError: no such family.

    >>> from parsim.model.families.mlp import MlpArchitecture
    >>> list(blocks_of(MlpArchitecture(activation="relu", bias=True, dropout=False)))
    ['embedding', 'layer', 'head']
    """
    blocks = family(kind.family).blocks(kind, attention, fusions)
    return tuned_blocks(blocks, kind.tuned) if kind.tuned else blocks
