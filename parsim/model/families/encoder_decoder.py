"""Encoder-decoder models, as for machine translation: an encoder reads the source both ways, and each layer of a decoder attends to
what it made of that, the memory, between its causal attention and its MLP.

The memory passes by the decoder's layers; their gradients of it add up, and flow back into the encoder.  A source has a length of its own.
Source and target share one vocabulary and its table.  With relative positions (T5) each stack makes biases of scores once, of a table of
its own, which pass by its layers in the same way; no flash kernel adds them, so that scores of attention within a stack are stored.
Source: Vaswani et al. 2017 (arXiv:1706.03762), sections 3.1, 3.2.3 and 3.4; a norm behind each stack where norms come first: Xiong et al.
2020 (arXiv:2002.04745), section 3; Raffel et al. 2020 (arXiv:1910.10683), section 2.1, and huggingface/transformers, modeling_t5.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec.structs import asdict, replace

from parsim.model.adapters import CROSS
from parsim.model.blocks import transformer_layer
from parsim.model.dims import SOURCE
from parsim.model.ends import embedding, head, last_dropout
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.form import LayerForm
from parsim.model.norms import norm, norm_weights
from parsim.model.op import MEMORY, Block, Op, Passing, Use, with_dims, with_prefix
from parsim.model.spec import ENCODER_END, JOINT, MOST_LAYERS, Layout, figure, layers_in
from parsim.model.transformer import TransformerArchitecture, TransformerSpec
from parsim.model.tuning import BOTTOM, FROZEN

BIASES, SOURCE_BIASES = "biases", "source_biases"  # of scores, by the distance of query and key, within the decoder and the encoder
_OF_MEMORY: Final = ("k_gemm", "v_gemm", "k_bias", "v_bias", "keys", "values")  # ops of attention on what is attended to
_NOT_BUILT: Final = (
    *("num_experts", "shared_ffn_hidden_size", "sliding_window", "attention_chunk", "full_attention_every", "unturned_every"),
    *("attention_sinks", "qk_norm", "kv_lora_rank", "mtp_layers", "num_token_types", "parallel_block", "sandwich_norm", "norm_after"),
    *(
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "embedding_norm",
        "head_bias",
        "position_offset",
        "unnormed_first",
        "unnormed_embedding",
        "embedding_size",
    ),
    *("full_head_dim", "full_kv_heads", "full_rotary_dim", "keys_as_values", "values_normed", "layer_scale"),
)


class EncoderDecoderArchitecture(TransformerArchitecture, frozen=True, kw_only=True):
    """Which ops the blocks of an encoder-decoder model have."""

    family: ClassVar[str] = "encoder_decoder"

    @property
    def norms_embedding(self) -> bool:
        """None, wherever those of layers are."""
        return False

    @property
    def scales_head(self) -> bool:
        """T5 scales what enters the head, not the logits."""
        return self.scaled_logits


class EncoderDecoderSpec(TransformerSpec, frozen=True, kw_only=True):
    """An encoder-decoder model.

    >>> EncoderDecoderSpec.of(
    ...     name="tiny", num_layers=3, encoder_layers=1, hidden_size=8, num_heads=2, vocab_size=64, max_positions=16
    ... ).layout
    (('embedding', 1), ('encoder_layer', 1), ('decoder_embedding', 1), ('layer', 2), ('head', 1))
    """

    num_layers: int = figure("the number of layers, those of the encoder and those of the decoder together", most=MOST_LAYERS)
    encoder_layers: int = figure(
        "the layers of the encoder; half of num_layers where left out", rule=lambda row: max(row["num_layers"] // 2, 1)
    )
    activation: str = figure("the nonlinearity of the MLP", "relu", legal=("gelu", "relu", "squared_relu", "swiglu", "geglu"))
    positions: str = figure(
        "what is added to embeddings: sines of the position, behind a factor sqrt(hidden_size), or a table of each stack; or to scores: "
        "biases by distance, of a table that all layers of a stack share (T5)",
        "sinusoidal",
        legal=("sinusoidal", "learned", "relative"),
    )
    relative_buckets: int = figure(
        "with positions = relative the rows of that table", 0, zero=True, most=1_000_000, rule=lambda row: 32 * _is_relative(row)
    )
    relative_distance: int = figure(
        "and the distance from which on all share the last row", 0, zero=True, rule=lambda row: 128 * _is_relative(row)
    )
    dropped_inside: bool = figure(
        "whether that is also dropped behind the MLP's activation and behind each stack's last norm, as in T5", False
    )
    norm_last: bool = figure("whether norms stand behind the residual adds; else before, and one behind each stack", True)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        if not 0 < self.encoder_layers < self.num_layers:
            return f"encoder_layers = {self.encoder_layers} leaves no layer to one of the stacks, of num_layers = {self.num_layers}"
        if asked := next((name for name in _NOT_BUILT if getattr(self, name)), ""):
            return f"{asked} = {getattr(self, asked)} is not built in encoder-decoder models; leave it out"
        if not (self.scores_dropped and self.embedding_dropped):
            return "scores_dropped and embedding_dropped are true in encoder-decoder models; leave them out"
        if (self.embedding_scale, self.residual_scale) != (1.0, 1.0):
            return "embedding_scale and residual_scale are not built in encoder-decoder models; leave them out"
        if self.dropped_inside and self.norm_last:
            return "dropped_inside = true goes with norm_last = false: it drops behind the last norm of each stack"
        if wrong := self._relative_misfit():
            return wrong
        if not self.causal or self.head != "next_token":
            return "a decoder that reads what an encoder made has causal = true and head = next_token; leave them out"
        return super().misfit(stated)

    def _relative_misfit(self) -> str:
        """What does not fit in the figures of relative positions."""
        asked = {name: getattr(self, name) for name in ("relative_buckets", "relative_distance")}
        if self.positions != "relative":
            stated = next((name for name, value in asked.items() if value), "")
            return f"{stated} = {asked[stated]} goes with positions = relative; leave it out" if stated else ""
        if self.norm_last:
            return "positions = relative is built with norm_last = false"
        if self.relative_buckets < 4 or self.relative_buckets % 2:
            return f"relative_buckets = {self.relative_buckets} has no row for near and one for far on either side; make it even, 4 or more"
        if self.relative_distance <= self.relative_buckets // 2:
            return f"relative_distance = {self.relative_distance} is not above half of relative_buckets = {self.relative_buckets}"
        return ""

    @property
    def layout(self) -> Layout:
        """Both stacks, with the encoder's last norm, if it has one, and the decoder's embedding between them."""
        ends = () if self.norm_last else ((ENCODER_END, 1),)
        inner = ("encoder_layer", self.encoder_layers), *ends, (JOINT, 1), ("layer", self.num_layers - self.encoder_layers)
        return self.tuning.with_marks((("embedding", 1), *inner, ("head", 1)))

    @property
    def architecture(self) -> EncoderDecoderArchitecture:
        """What decides which ops there are."""
        own = {"dropped_inside": self.dropped_inside}
        return EncoderDecoderArchitecture(**{**asdict(super().architecture), **own})

    @property
    def extents(self) -> dict[str, int]:
        """With the rows of the tables of relative positions."""
        return {**super().extents, **({"e": self.relative_buckets} if self.relative_buckets else {})}

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """Those of the encoder are shared out among the tokens of the decoder; its own attention alone is causal."""
        tuned = self.architecture.tuned
        names = [name for name, copies in layers_in(self.layout) for _ in range(copies)]
        passes = [1 if name.startswith(BOTTOM + FROZEN) else 3 for name in names]
        of_encoder, own = sum(passes[: self.encoder_layers]), sum(passes[self.encoder_layers :])
        across = 3 * (self.num_layers - self.encoder_layers) if tuned is None or tuned.memory_asks else own
        each = 4 * self.num_heads * self.head_dim
        others = each * (of_encoder * source_length**2 + across * source_length * sequence_length) // sequence_length
        whole = each * own * sequence_length
        return others + whole, others + whole // 2

    def small(self, num_layers: int, tensor_parallel: int) -> EncoderDecoderSpec:
        """A likeness with a layer in each stack at least."""
        return replace(super().small(max(num_layers, 2), tensor_parallel), encoder_layers=max(num_layers // 2, 1))


def _is_relative(row: Mapping[str, Any]) -> bool:
    return row.get("positions") == "relative"


def blocks(kind: EncoderDecoderArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """The encoder's embedding, layer and end, the joint, the decoder's layer, and the head."""
    both, relative = replace(kind, causal=False), kind.positions == "relative"
    both_ways, one_way = (transformer_layer(LayerForm(), each, attention=attention, fusions=fusions) for each in (both, kind))
    across = transformer_layer(LayerForm(), replace(both, positions="learned"), attention=attention, fusions=fusions)
    of_source, of_target = (tuple(Passing(name, dims, "reads") for _ in range(relative)) for name, dims in _BIASES.items())
    memory = Passing(MEMORY, ("B", SOURCE["T"], "D"), "reads")
    words, sources = (embedding(kind, fusions=fusions, two_sided=each) for each in (False, True))
    ends = () if kind.norm_last else (_encoder_end(kind, fusions, of_source),)
    return by_name(
        _with_passing(_of_source(sources, "embedding"), of_source, "makes"),
        _with_passing(_of_source(both_ways, "encoder_layer"), of_source, "reads"),
        *ends,
        _joint(words, (memory, *of_target)),
        _with_passing(_decoder_layer(one_way, across), (memory, *of_target), "reads"),
        _with_passing(head(kind, fusions=fusions), (memory, *of_target), "follows"),
    )


_BIASES: Final = {SOURCE_BIASES: ("A", "R", SOURCE["Q"], SOURCE["Z"]), BIASES: ("A", "R", "Q", "Z")}


def _with_passing(block: Block, passing: tuple[Passing, ...], use: Use) -> Block:
    return replace(block, passing=tuple(replace(each, use=use) for each in passing))


def _of_source(block: Block, name: str) -> Block:
    """The same of the source, whose tokens and biases have names of their own."""
    ops = tuple(
        replace(op, inputs=tuple(map(_source_name, op.inputs)), outputs=tuple(map(_source_name, op.outputs)))
        for op in with_dims(block.ops, SOURCE)
    )
    return replace(block, name=name, ops=ops, stream=_letters(block.stream))


def _source_name(tensor: str) -> str:
    return {"tokens": "source_tokens", BIASES: SOURCE_BIASES}.get(tensor, tensor)


def _letters(dims: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(SOURCE.get(dim, dim) for dim in dims)


def _encoder_end(kind: EncoderDecoderArchitecture, fusions: tuple[str, ...], biases: tuple[Passing, ...]) -> Block:
    """The last norm of the encoder, and dropout behind it."""
    is_dropped = kind.dropped_inside and kind.dropout
    ops = (*norm("norm", "x", kind, fusions, out="normed" if is_dropped else "y"), *(last_dropout("normed", "y") if is_dropped else ()))
    block = Block(ENCODER_END, tuple(with_dims(ops, SOURCE)), norm_weights("norm", kind), stream=_letters(("B", "T", "D")))
    return _with_passing(block, biases, "follows")


def _joint(words: Block, passing: tuple[Passing, ...]) -> Block:
    """What the encoder made becomes the memory, beside the decoder's embedding, whose table is the encoder's."""
    joint = replace(words, name=JOINT, input=MEMORY, shared={"word.weight": "embedding"}, stream=_letters(words.stream))
    return _with_passing(joint, passing, "makes")


def _decoder_layer(layer: Block, both_ways: Block) -> Block:
    """A layer with attention to the memory, the first half of another layer, between its own attention and its MLP."""
    own, mlp = _halves(layer)
    attention, _ = _halves(both_ways)
    cross = [Op("enter_memory", "B t D -> B i D", (MEMORY,), ("memory_in",), "relabel"), *map(_to_memory, attention)]
    inner = {"x", "x1", MEMORY, "memory_in"}
    read = {name for op in attention for name in op.inputs}
    own = [_rename(op, {"x1": "x0"}) for op in own]
    others = [_rename(op, {"x": "x0"}) for op in with_prefix(cross, CROSS, inner)]
    weights = {f"{CROSS}{name}": initial for name, initial in both_ways.weights.items() if name in read}
    return replace(layer, ops=(*own, *others, *mlp), weights={**layer.weights, **weights})


def _halves(layer: Block) -> tuple[list[Op], list[Op]]:
    """What gives x1, and the rest."""
    end = 1 + next(place for place, op in enumerate(layer.ops) if "x1" in op.outputs)
    return [*layer.ops[:end]], [*layer.ops[end:]]


def _to_memory(op: Op) -> Op:
    """An op of attention whose keys and values are the memory's."""
    if op.name in ("k_gemm", "v_gemm"):
        op = replace(op, inputs=("memory_in", *op.inputs[1:]))
    letters = {each: SOURCE[each] for each in ("SZ" if op.name in _OF_MEMORY else "Z")}
    (found,) = with_dims([op], letters)
    return found


def _rename(op: Op, names: Mapping[str, str]) -> Op:
    inputs, outputs = (tuple(names.get(each, each) for each in side) for side in (op.inputs, op.outputs))
    return replace(op, inputs=inputs, outputs=outputs)


FAMILIES.register("encoder_decoder", Family(EncoderDecoderSpec, blocks))
