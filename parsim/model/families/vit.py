"""Vision transformers: an image is cut into patches, each a token, and a class token before them says what the image shows.

A patch is a row of channels x patch_size^2 features, which one matrix makes a vector of the stream; images have no gradient of their own.
Every tensor-parallel rank makes all patches of its images, and keeps its part of the stream.
Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), section 3.1; huggingface/transformers, models/vit/modeling_vit.py
(ViTForImageClassification: one matrix behind the last norm, as in fine-tuning there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from msgspec.structs import asdict, replace

from parsim.model.blocks import DROP, transformer_layer
from parsim.model.dims import MASK
from parsim.model.ends import FIRST_TOKEN, cross_entropy, dense_weights
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.form import LayerForm
from parsim.model.norms import norm, norm_weights
from parsim.model.op import Block, Op
from parsim.model.spec import ModelSpec, figure
from parsim.model.transformer import TransformerArchitecture, TransformerSpec


class VitArchitecture(TransformerArchitecture, frozen=True, kw_only=True):
    """Which ops the blocks of a vision transformer have."""

    family: ClassVar[str] = "vit"


class VitSpec(ModelSpec, frozen=True, kw_only=True):
    """A vision transformer that labels images.

    >>> VitSpec.of(name="tiny", num_layers=2, hidden_size=8, num_heads=2, num_patches=4, patch_size=2, num_labels=3).extents["I"]
    12
    """

    num_layers: int = figure("the number of layers")
    hidden_size: int = figure("the width of the residual stream")
    ffn_hidden_size: int = figure("the width of the MLP; 4 x hidden_size where left out", rule=lambda row: 4 * row["hidden_size"])
    num_heads: int = figure("the number of heads")
    head_dim: int = figure(
        "the width of a head; hidden_size / num_heads where left out", rule=lambda row: row["hidden_size"] // row["num_heads"]
    )
    num_patches: int = figure("the patches of an image, (image_size / patch_size)^2; sequence_length is one more")
    patch_size: int = figure("the pixels along a side of a patch")
    num_channels: int = figure("the numbers of a pixel", 3)
    num_labels: int = figure("the number of labels that an image may have", aliases=("num_classes",))
    activation: str = figure("the nonlinearity of the MLP", "gelu", legal=("gelu", "relu"))
    qkv_bias: bool = figure("whether queries, keys and values have biases, as other linear layers do", True)
    dropout: float = figure("the share of elements dropped; 0 leaves dropout out", 0.0)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        if stated.get("head_dim") is None and self.hidden_size % self.num_heads:
            return f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}; give head_dim, or another num_heads"
        return ""

    @property
    def encoder(self) -> TransformerSpec:
        """The transformer that patches pass."""
        own: dict[str, Any] = {
            name: getattr(self, name) for name in ("name", "num_layers", "hidden_size", "ffn_hidden_size", "num_heads", "head_dim")
        }
        own |= {name: getattr(self, name) for name in ("activation", "qkv_bias", "dropout", "num_labels", "tuning")}
        kind: dict[str, Any] = {"causal": False, "tied_embedding": False, "head": "text", "vocab_size": 1}
        return TransformerSpec(**own, **kind, num_kv_heads=self.num_heads, max_positions=self.max_positions)

    @property
    def max_positions(self) -> int:
        """Rows of the position table: of the patches, and of the class token."""
        return self.num_patches + 1

    @property
    def architecture(self) -> VitArchitecture:
        """What decides which ops there are."""
        return VitArchitecture(**{**asdict(self.encoder.architecture), "tuned": self.tuning.form(self.layout)})

    @property
    def extents(self) -> dict[str, int]:
        """Those of the encoder without a vocabulary, and those of patches."""
        others = {dim: extent for dim, extent in self.encoder.extents.items() if dim not in "VWUH"}
        return {**others, "x": self.num_patches, "I": self.num_channels * self.patch_size**2}

    @property
    def whole_because(self) -> str:
        """A class token stands before all patches."""
        return "whose class token stands before all patches of an image"

    def sequence_fault(self, sequence_length: int) -> str:
        """A sequence is an image."""
        if sequence_length == self.max_positions:
            return ""
        said = f"sequence_length = {sequence_length} is not the {self.max_positions} tokens of an image"
        return f'{said} of model "{self.name}", a class token and {self.num_patches} patches; set sequence_length = {self.max_positions}'

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """Those of the encoder, all of whose tokens see one another."""
        return self.encoder.attention_flops_per_token(sequence_length, source_length)

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Two heads a rank, and small patches."""
        of_images = {"patch_size": 2, "num_channels": 1, "num_labels": 5, "num_patches": 4 * tensor_parallel - 1}
        return {"num_heads": 2 * tensor_parallel, "head_dim": 4, **of_images}

    def of_length(self, sequence_length: int) -> Self:
        """With as many patches as fill so many tokens."""
        return replace(self, num_patches=sequence_length - 1)


def blocks(kind: VitArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """The patches' embedding, a layer, and the head of labels."""
    return by_name(
        patch_embedding(kind, fusions), transformer_layer(LayerForm(), kind, attention=attention, fusions=fusions), _head(kind, fusions)
    )


def patch_embedding(
    kind: TransformerArchitecture, fusions: tuple[str, ...], *, bias: bool = True, class_token: bool = True, normed: bool = False
) -> Block:
    """Patches to the residual stream, perhaps behind a class token; `normed`: with a norm behind their positions."""
    own = {"class_token": "normal"} if class_token else {}
    weights = {**dense_weights("patch", bias=bias), **own, "position.weight": "normal", **(norm_weights("norm", kind) if normed else {})}
    ops = _embedding_ops(kind, fusions, bias=bias, class_token=class_token, normed=normed)
    return Block("embedding", tuple(ops), weights, input="")


def _embedding_ops(kind: TransformerArchitecture, fusions: tuple[str, ...], *, bias: bool, class_token: bool, normed: bool) -> Iterator[Op]:
    yield Op("patches", "-> B x I", (), ("patches",), "draw")
    yield Op("patch_gemm", "B x I, I D -> B x D", ("patches", "patch.weight"), ("patch_gemm",))
    tokens, dims = "patch_gemm", "B x D"
    if bias:
        yield Op("patch_bias", "B x D, D -> B x D", (tokens, "patch.bias"), ("patch_biased",), "bias", in_place=True)
        tokens = "patch_biased"
    if class_token:
        yield Op("class_rows", "D, B x D -> B D", ("class_token", tokens), ("class_rows",), "repeat")
        yield Op("prepend", "B x D, B D -> B S D", (tokens, "class_rows"), ("tokens",), "prepend")
        tokens, dims = "tokens", "B S D"
    yield Op("leave_patches", f"{dims} -> B T D", (tokens,), ("embedded",), "relabel")
    expr, out = "B T D, P D -> B T D", "placed" if kind.dropout or normed else "y"
    yield Op("position", expr, ("embedded", "position.weight"), (out,), "position", attributes=(("offset", "offset:T"),), in_place=True)
    if normed:
        yield from norm("norm", "placed", kind, fusions, out="y")
    elif kind.dropout:
        yield Op("embedding_mask", "-> B T D", (), ("embedding_mask",), "draw", (MASK,))
        inputs = ("placed", "embedding_mask")
        yield Op("embedding_dropout", "B T D, B T D -> B T D", inputs, ("y",), "dropout", attributes=DROP, in_place=True)


def _head(kind: VitArchitecture, fusions: tuple[str, ...]) -> Block:
    ops = (
        *norm("norm", "x", kind, fusions),
        Op("first_token", "B T D -> B D", ("norm",), ("first_token",), "first", attributes=FIRST_TOKEN),
        Op("logits_gemm", "B D, Y D -> B Y", ("first_token", "label.weight"), ("logits_gemm",)),
        Op("logits_bias", "B Y, Y -> B Y", ("logits_gemm", "label.bias"), ("logits",), "bias", in_place=True),
        *cross_entropy("B", "Y", "image_labels", "per_text", fusions),
    )
    return Block("head", ops, {**norm_weights("norm", kind), **dense_weights("label")}, output="", totals=("loss",))


FAMILIES.register("vit", Family(VitSpec, blocks))
