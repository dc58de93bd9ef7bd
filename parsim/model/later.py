"""A module that predicts the token after the next (MTP), between the last layer and the head, on the last stage.

What the layers give and the embedding of the next token, a norm behind each, become a vector of the stream, which passes a layer like the
last one, a norm of its own and the output layer of the head; its loss is added with a weight.  Embedding and output layer are shared.
Its layer is neither recomputed nor narrow, and lies with its projections, whole on each tensor-parallel rank, in the block of the head.
Source: DeepSeek-AI 2024 (arXiv:2412.19437), section 2.2; NVIDIA/Megatron-LM, megatron/core/transformer/multi_token_prediction.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parsim.model.dims import INDEX
from parsim.model.norms import norm, norm_weights
from parsim.model.op import Block, Op, with_prefix
from parsim.model.transformer import TransformerArchitecture

PREFIX = "mtp_"  # before the names of all that is the module's
_BRANCHES = {"hidden": "x", "embedding": f"{PREFIX}embedded"}  # what is normed and projected, and where it comes from


def later_token(
    layer: Block, output_layer: Iterable[Op], table: str, kind: TransformerArchitecture, fusions: tuple[str, ...]
) -> Iterator[Op]:
    """The ops of the module; `output_layer`: from x to a loss, `table`: the embedding that it looks tokens up in."""
    yield Op(f"{PREFIX}tokens", "-> B S", (), (f"{PREFIX}tokens",), "draw", (INDEX,))
    found, where = (f"{PREFIX}tokens", table), (("offset", "offset:V"),)
    yield Op(f"{PREFIX}lookup", "B S, V D -> B S D", found, (f"{PREFIX}words",), "lookup", attributes=where)
    yield Op(f"{PREFIX}leave_lookup", "B S D -> B T D", (f"{PREFIX}words",), (_BRANCHES["embedding"],), "relabel")
    for name, x in _BRANCHES.items():
        yield from norm(f"{PREFIX}{name}_norm", x, kind, fusions)
        inputs = (f"{PREFIX}{name}_norm", f"{PREFIX}{name}.weight")
        yield Op(f"{PREFIX}{name}_gemm", "B T D, D H -> B T H", inputs, (f"{PREFIX}{name}_gemm",))
    parts = tuple(f"{PREFIX}{name}_gemm" for name in _BRANCHES)
    yield Op(f"{PREFIX}project", "B T H, B T H -> B T H", parts, (f"{PREFIX}projected",), "add", in_place=True)
    yield Op(f"{PREFIX}leave_project", "B T H -> B T D", (f"{PREFIX}projected",), (f"{PREFIX}x",), "relabel")
    yield from with_prefix(layer.ops, PREFIX, {*layer.weights})
    yield from norm(f"{PREFIX}norm", f"{PREFIX}y", kind, fusions)
    yield from with_prefix(output_layer, PREFIX, {table, "output.weight", f"{PREFIX}norm", "loss"})


def later_weights(layer: Block, kind: TransformerArchitecture) -> dict[str, str]:
    """The weights that are the module's own, with their initial values."""
    norms = (f"{PREFIX}{name}" for name in (*(f"{branch}_norm" for branch in _BRANCHES), "norm"))
    scales = {weight: initial for name in norms for weight, initial in norm_weights(name, kind).items()}
    return {**scales, **{f"{PREFIX}{name}.weight": "normal" for name in _BRANCHES}, **layer.weights}
