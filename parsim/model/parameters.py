"""How many weights a model has, counted from the ops that use them, and the FLOPs that a token needs; the vocabulary is not padded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from parsim.arguments import check_arguments
from parsim.model.dims import SOURCE, TOWER
from parsim.model.families import blocks_of
from parsim.model.op import Block, Op
from parsim.model.spec import ModelSpec

_SEQUENCE, _SOURCE, _TOWER, _PATCHES = "sequence", "source", "tower", "patches"
_OTHERS = {_SOURCE: {*SOURCE.values()}, _TOWER: {TOWER[dim] for dim in SOURCE}, _PATCHES: {"x"}}
_EACH_TOKEN = {"S", "T"}.union(*_OTHERS.values())
_LOOKED_UP = ("lookup", "relative_biases")  # kinds of ops that pick rows of a table


@check_arguments
def num_parameters(model: ModelSpec) -> int:
    """Weights of the whole model; a tied embedding counts once.

    >>> from parsim.model.transformer import TransformerSpec
    >>> gpt2 = TransformerSpec(
    ...     name="gpt2", num_layers=12, hidden_size=768, ffn_hidden_size=3072, num_heads=12,
    ...     num_kv_heads=12, head_dim=64, vocab_size=50257, max_positions=1024
    ... )
    >>> num_parameters(gpt2)  # as its released checkpoint has
    124439808
    """
    blocks = blocks_of(model.architecture)
    return sum(copies * of_block(blocks[name], model, shared=False) for name, copies in model.layout)


def num_active_parameters(model: ModelSpec) -> int:
    """The same without the experts that a token does not choose."""
    blocks = blocks_of(model.architecture)
    return sum(copies * of_block(blocks[name], model, shared=False, active=True) for name, copies in model.layout)


def num_trained_parameters(model: ModelSpec) -> int:
    """Those that a step updates."""
    blocks = blocks_of(model.architecture)
    frozen = {name: of_block(block, model, shared=False, only=block.frozen) for name, block in blocks.items()}
    return num_parameters(model) - sum(copies * frozen[name] for name, copies in model.layout)


def without_input(model: ModelSpec) -> int:
    """Weights behind the first block that multiply every token of a sequence, as often as they do: not those of a head that labels a text
    by one token, nor where tokens are looked up, nor those that multiply tokens of a source or of an image."""
    return _products(model, lambda asked, op, weight: 1)


def _products(model: ModelSpec, count: Callable[[set[str], Op, str], int], of: str = _SEQUENCE) -> int:
    """The same, each as often as `count` says of what gradients are asked of, an op and a weight; `of`: which tokens they multiply."""
    blocks, extents = blocks_of(model.architecture), model.active_extents
    uses = {
        name: sum(
            count(asked, op, read) * math.prod(extents[dim] for dim in term)
            for op in block.ops
            for read, term in zip(op.inputs, op.terms[0], strict=True)
            if read in block.weights and op.kind not in _LOOKED_UP and _tokens_of(op) == of
        )
        for name, block, asked in ((name, block, block.asked) for name, block in blocks.items())
        if not _EACH_TOKEN.isdisjoint(_matmul_dims(block))
    }
    return sum(copies * uses.get(name, 0) for name, copies in model.layout[1:])


def _tokens_of(op: Op) -> str:
    """Which tokens an op has: a sequence's unless others are named."""
    return next((of for of, dims in _OTHERS.items() if not dims.isdisjoint(_dims(op))), _SEQUENCE)


def _flops_of_weight(asked: set[str], op: Op, weight: str) -> int:
    """FLOPs of a product with a weight: forward, of the gradient of what comes in, and of its own, as far as these are asked for."""
    return 2 + 2 * (op.inputs[0] in asked) + 2 * (weight in asked)


def of_block(block: Block, model: ModelSpec, *, shared: bool = True, active: bool = False, only: Collection[str] | None = None) -> int:
    """Weights that a block reads, with or without those that it shares with another, or `only` these; `active`: for one token."""
    names = block.weights if only is None else only
    extents = model.active_extents if active else model.extents
    dims = {name: term for op in block.ops for name, term in zip(op.inputs, op.terms[0], strict=True)}
    return sum(math.prod(extents[dim] for dim in dims[name]) for name in names if shared or name not in block.shared)


def model_flops_per_token(model: ModelSpec, sequence_length: int, source_length: int = 0) -> tuple[int, int]:
    """FLOPs that training a token needs, with the pairs of query and key that MFU counts and with those that the model's mask leaves.

    A weight costs 6, one that multiplies features 4: they need no gradient.  One that is frozen costs 2 less, and 2 more less where nothing
    below is trained.  What an encoder does to a source of so many tokens (0: as many as the sequence), and a vision tower to an image, is
    shared out among those of the sequence.
    """
    first, *_ = blocks_of(model.architecture).values()
    source, extents = source_length or sequence_length, model.extents
    tower, patches = extents.get(TOWER["T"], 0), extents.get("x", 0)
    of_each = _of_first(first, model) * (patches if tower else sequence_length)
    for of, tokens in {_SEQUENCE: sequence_length, _SOURCE: source, _TOWER: tower, _PATCHES: patches}.items():
        of_each += tokens * _products(model, _flops_of_weight, of)
    weights = of_each // sequence_length
    whole, unmasked = model.attention_flops_per_token(sequence_length, source)
    return weights + whole, weights + unmasked


def _of_first(block: Block, model: ModelSpec) -> int:
    """FLOPs of its linear layers for a token: of features, or of embeddings that are not as wide as the stream."""
    asked, extents = block.asked, model.extents
    return sum(
        (2 + 2 * (op.kind == "einsum" and op.inputs[0] in asked) + 2 * (read in asked)) * math.prod(extents[dim] for dim in term)
        for op in block.ops
        for read, term in zip(op.inputs, op.terms[0], strict=True)
        if op.kind in ("einsum", "bias") and read in block.weights
    )


def _matmul_dims(block: Block) -> set[str]:
    return {dim for op in block.ops if op.kind == "einsum" for dim in _dims(op)}


def _dims(op: Op) -> set[str]:
    return {dim for term in op.terms[0] for dim in term}
