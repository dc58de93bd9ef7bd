"""A vision tower before a decoder: patches of an image pass the tower's layers, a projector makes tokens of them, and these stand in the
decoder's sequence before the words of its text.

One image a sequence, at its start.  The decoder sees the tokens of an image as it sees words, in order; no loss is of them.  A class token
passes the tower and is dropped behind it.  The tower has no sequence parallelism: each tensor-parallel rank has its whole stream.  Words
and images are joined as they are whole, of which a sequence-parallel rank keeps its part.
Source: Liu et al. 2023 (arXiv:2304.08485), section 4.1, and 2023 (arXiv:2310.03744), section 3, for the projector; Radford et al. 2021
(arXiv:2103.00020) with openai/CLIP, clip/model.py (`VisionTransformer`), for the tower; Zhai et al. 2023 (arXiv:2303.15343) for SigLIP's;
huggingface/transformers, models/llava/modeling_llava.py; NVIDIA/Megatron-LM, megatron/core/models/multimodal/llava_model.py
(`_preprocess_data`, scatter_to_sequence_parallel_region), for what is joined where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Self

from msgspec.structs import asdict, replace

from parsim.model.blocks import transformer_layer
from parsim.model.dims import INDEX, TOWER
from parsim.model.documents import with_lengths
from parsim.model.ends import dense_weights, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.families.vit import patch_embedding
from parsim.model.form import LayerForm
from parsim.model.norms import norm, norm_weights
from parsim.model.op import JOINT, Block, Gradient, Op, with_dims
from parsim.model.spec import MOST_LAYERS, Layout, figure
from parsim.model.transformer import TransformerArchitecture, TransformerSpec
from parsim.model.tuning import BOTTOM, FROZEN, Tuning

_NOT_BUILT: Final = (
    *("num_experts", "shared_ffn_hidden_size", "sliding_window", "attention_chunk", "full_attention_every", "unturned_every"),
    *("kv_lora_rank", "mtp_layers", "num_token_types", "norm_last", "embedding_norm", "unnormed_first", "position_offset", "dropout"),
)
_OF_BOTH: Final = ("num_layers", "tuning", "name")


class VisionLanguageArchitecture(TransformerArchitecture, frozen=True, kw_only=True):
    """Which ops the blocks of a vision-language model have; what is not said of the tower is the decoder's."""

    family: ClassVar[str] = "vision_language"
    tower: TransformerArchitecture
    class_token: bool
    patch_bias: bool
    first_norm: bool
    last_norm: bool
    projector: str


class VisionLanguageSpec(TransformerSpec, frozen=True, kw_only=True):
    """A vision tower before a decoder, of which each sequence has one image.

    >>> VisionLanguageSpec.of(
    ...     name="tiny", num_layers=3, vision_layers=1, hidden_size=8, num_heads=2, vocab_size=64, max_positions=16,
    ...     vision_hidden_size=4, vision_heads=2, num_patches=4, patch_size=2
    ... ).layout
    (('embedding', 1), ('vision_layer', 1), ('decoder_embedding', 1), ('layer', 2), ('head', 1))
    """

    num_layers: int = figure("the number of layers, those of the tower and those of the decoder together", most=MOST_LAYERS)
    vision_layers: int = figure("the layers of the tower that an image passes, of those of the decoder's num_layers")
    vision_hidden_size: int = figure("the width of the tower's residual stream")
    vision_ffn_hidden_size: int = figure(
        "the width of its MLPs; 4 x vision_hidden_size where left out", rule=lambda row: 4 * row["vision_hidden_size"]
    )
    vision_heads: int = figure("the number of its heads")
    num_patches: int = figure("the patches of an image, (image_size / patch_size)^2, each a token of the decoder")
    patch_size: int = figure("the pixels along a side of a patch")
    num_channels: int = figure("the numbers of a pixel", 3)
    vision_activation: str = figure("the nonlinearity of the tower's MLPs", "quick_gelu", legal=("quick_gelu", "gelu", "relu"))
    class_token: bool = figure("whether a class token passes the tower before the patches, which is dropped behind it", True)
    patch_bias: bool = figure("whether the matrix that makes a vector of a patch has a bias", False)
    vision_first_norm: bool = figure("whether a norm stands behind the positions of patches", True)
    vision_last_norm: bool = figure("whether one stands behind the tower's layers", False)
    projector: str = figure("what stands between: two linear layers with a GELU, or one", "mlp", legal=("mlp", "linear"))
    projector_hidden_size: int = figure("the width between the two; hidden_size where left out", rule=lambda row: row["hidden_size"])
    activation: str = figure("the nonlinearity of the decoder's MLP", "swiglu", legal=("gelu", "relu", "squared_relu", "swiglu", "geglu"))
    norm: str = figure("what normalises the input of the decoder's attention, MLP and head", "rms_norm", legal=("layer_norm", "rms_norm"))
    positions: str = figure("turned queries and keys of the decoder, or scores lowered by distance", "rotary", legal=("rotary", "alibi"))
    bias: bool = figure("whether the decoder's linear layers have biases, but for queries, keys and values", False)
    qkv_bias: bool = figure(
        "whether those of queries, keys and values do; as bias where left out", False, rule=lambda row: row.get("bias", False)
    )
    tied_embedding: bool = figure("whether input and output embedding are one", False)
    dropout: float = figure("0: dropout is not built here", 0.0)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        if not 0 < self.vision_layers < self.num_layers:
            return f"vision_layers = {self.vision_layers} leaves no layer to one of the stacks, of num_layers = {self.num_layers}"
        if asked := next((name for name in _NOT_BUILT if getattr(self, name)), ""):
            return f"{asked} = {getattr(self, asked)} is not built in vision-language models; leave it out"
        if not self.causal or self.head != "next_token":
            return "the decoder of a vision-language model has causal = true and head = next_token; leave them out"
        if self.vision_hidden_size % self.vision_heads:
            return f"vision_heads = {self.vision_heads} does not divide vision_hidden_size = {self.vision_hidden_size}"
        return super().misfit(stated)

    @property
    def layout(self) -> Layout:
        """Both stacks, with the projector and the embedding of words between them."""
        inner = ("vision_layer", self.vision_layers), (JOINT, 1), ("layer", self.num_layers - self.vision_layers)
        return self.tuning.with_marks((("embedding", 1), *inner, ("head", 1)))

    @property
    def has_encoder(self) -> bool:
        """None: an image is part of its sequence."""
        return False

    @property
    def image_tokens(self) -> int:
        """A token a patch."""
        return self.num_patches

    @property
    def tower_tokens(self) -> int:
        """Those that pass the tower."""
        return self.num_patches + self.class_token

    @property
    def tower(self) -> TransformerSpec:
        """The transformer that patches pass."""
        own: dict[str, Any] = {"name": self.name, "num_layers": self.vision_layers, "hidden_size": self.vision_hidden_size}
        own |= {"num_heads": self.vision_heads, "num_kv_heads": self.vision_heads}
        own |= {"head_dim": self.vision_hidden_size // self.vision_heads, "ffn_hidden_size": self.vision_ffn_hidden_size}
        own |= {"activation": self.vision_activation, "max_positions": self.tower_tokens, "dropout": 0.0}
        return TransformerSpec(**own, causal=False, tied_embedding=False, head="text", vocab_size=1)

    @property
    def decoder(self) -> TransformerSpec:
        """The decoder alone."""
        same: dict[str, Any] = {name: getattr(self, name) for name in TransformerSpec.__struct_fields__ if name not in _OF_BOTH}
        return TransformerSpec(**same, name=self.name, num_layers=self.num_layers - self.vision_layers, tuning=Tuning())

    @property
    def architecture(self) -> VisionLanguageArchitecture:
        """What decides which ops there are."""
        own = {"class_token": self.class_token, "patch_bias": self.patch_bias, "projector": self.projector}
        own |= {"first_norm": self.vision_first_norm, "last_norm": self.vision_last_norm}
        same = asdict(self.decoder.architecture)
        return VisionLanguageArchitecture(**{**same, **own, "tower": self.tower.architecture, "tuned": self.tuning.form(self.layout)})

    @property
    def extents(self) -> dict[str, int]:
        """Those of the decoder, and beside them those of the tower, its patches and the projector."""
        of_tower, tokens = self.tower.extents, dict.fromkeys("STQZ", self.tower_tokens)
        others = {TOWER[dim]: extent for dim, extent in {**of_tower, **tokens}.items() if dim in TOWER}
        inside = {"Fp": self.projector_hidden_size} if self.projector == "mlp" else {}
        inside |= {**self.tuning.extents, "d": self.hidden_size} if self.tuning.lora_rank else {}
        return {**self.decoder.extents, **others, **inside, "x": self.num_patches, "I": self.num_channels * self.patch_size**2}

    @property
    def whole_because(self) -> str:
        """An image stands before the text."""
        return "whose images stand whole before the text of a sequence"

    def sequence_fault(self, sequence_length: int) -> str:
        """There is room for an image, and for text behind it."""
        if sequence_length > self.num_patches:
            return self.decoder.sequence_fault(sequence_length)
        said = f"sequence_length = {sequence_length} leaves no room for text behind the {self.num_patches} tokens of an image"
        return f'{said} of model "{self.name}"; set it above {self.num_patches}'

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """Those of the tower are shared out among the tokens of the decoder, whose own attention alone is causal."""
        of_tower, own = 0, [0, 0]
        for name, copies in self.layout:
            passes = 1 if name.startswith(BOTTOM + FROZEN) else 3
            if name.endswith("vision_layer"):
                of_tower += copies * passes * 4 * self.vision_hidden_size * self.tower_tokens**2
            elif name.endswith("layer"):
                whole = copies * passes * 4 * self.num_heads * self.head_dim * sequence_length
                own = [own[0] + whole, own[1] + whole // 2]
        each = of_tower // sequence_length
        return each + own[0], each + own[1]

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Two heads a rank in either stack, and small patches."""
        of_images = {"patch_size": 2, "num_channels": 1, "num_patches": 2 * tensor_parallel}
        tower = {"vision_hidden_size": 8 * tensor_parallel, "vision_heads": 2 * tensor_parallel}
        wide = {"vision_ffn_hidden_size": 8 * tensor_parallel, "projector_hidden_size": 8 * tensor_parallel}
        return {**super().small_figures(tensor_parallel), **of_images, **tower, **wide}

    def small(self, num_layers: int, tensor_parallel: int) -> Self:
        """A likeness with a layer in each stack at least, and no more in a tower that is frozen, before which a stage may not end."""
        own = 1 if "vision" in self.tuning.sides else max(num_layers // 2, 1)
        return replace(super().small(max(num_layers, 2), tensor_parallel), vision_layers=own)

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of either stack."""
        return (*super().widths, "vision_hidden_size")


def blocks(kind: VisionLanguageArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """The embedding of patches, the tower's layer, the joint, the decoder's layer, and the head, whose loss is of text alone."""
    told = {"bias": kind.patch_bias, "class_token": kind.class_token, "normed": kind.first_norm}
    layers = {name: transformer_layer(LayerForm(), each, attention=attention, fusions=fusions) for name, each in _stacks(kind).items()}
    last = with_lengths(head(kind, fusions=fusions), by_document=False)
    return by_name(
        _of_tower(patch_embedding(kind.tower, fusions, **told), "embedding"),
        _of_tower(layers["vision_layer"], "vision_layer"),
        _joint(kind, fusions),
        layers["layer"],
        replace(last, shared=dict.fromkeys(last.shared, JOINT)),
    )


def _stacks(kind: VisionLanguageArchitecture) -> dict[str, TransformerArchitecture]:
    return {"vision_layer": kind.tower, "layer": kind}


def _of_tower(block: Block, name: str) -> Block:
    """The same of the tower, whose widths and tokens have names of their own."""
    return replace(block, name=name, ops=tuple(with_dims(block.ops, TOWER)), stream=tuple(TOWER.get(dim, dim) for dim in block.stream))


def _joint(kind: VisionLanguageArchitecture, fusions: tuple[str, ...]) -> Block:
    """What a projector makes of the tower's patches, and behind it the words of the text."""
    names = ("up", "down") if kind.projector == "mlp" else ("out",)
    weights = {name: initial for each in names for name, initial in dense_weights(f"projector_{each}").items()}
    weights |= norm_weights("vision_norm", kind.tower) if kind.last_norm else {}
    ops = (*_images(kind, fusions), *_words(kind), *_one_sequence())
    return Block(JOINT, ops, {**weights, "word.weight": "normal"}, stream=("B", TOWER["T"], TOWER["D"]))


def _images(kind: VisionLanguageArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """The tower's stream, from which its class token goes, as tokens of the decoder."""
    x, stream, patches = "x", "B Ti Di", "B x Di"
    if kind.last_norm:
        yield from with_dims(norm("vision_norm", x, kind.tower, fusions), TOWER)
        x = "vision_norm"
    if kind.class_token:
        told = (("start", 1), ("length", "extent:x"), ("whole", f"extent:{TOWER['T']}"))
        yield Op("drop_class_token", f"{stream} -> {patches}", (x,), ("patches",), "excerpt", attributes=told)
        x, stream = "patches", patches
    yield Op("enter_projector", f"{stream} -> {patches}", (x,), ("projector_in",), "relabel")
    x, dims, last = "projector_in", "Di", "out"
    if kind.projector == "mlp":
        yield Op("projector_up_gemm", f"{patches}, Di Fp -> B x Fp", (x, "projector_up.weight"), ("projector_up_gemm",))
        inputs = ("projector_up_gemm", "projector_up.bias")
        yield Op("projector_up_bias", "B x Fp, Fp -> B x Fp", inputs, ("projector_up",), "bias", in_place=True)
        yield Op("projector_activation", "B x Fp -> B x Fp", ("projector_up",), ("projector_active",), "gelu")
        x, dims, last = "projector_active", "Fp", "down"
    name = f"projector_{last}"
    yield Op(f"{name}_gemm", f"B x {dims}, {dims} D -> B x D", (x, f"{name}.weight"), (f"{name}_gemm",))
    yield Op("leave_projector", "B x D -> B x D", (f"{name}_gemm",), ("projector_out",), "relabel")
    yield Op(f"{name}_bias", "B x D, D -> B x D", ("projector_out", f"{name}.bias"), ("image_rows",), "bias", in_place=True)


def _words(kind: VisionLanguageArchitecture) -> Iterator[Op]:
    """Rows of the table of words, of which a vocabulary shard has some."""
    yield Op("tokens", "-> B St", (), ("tokens",), "draw", (INDEX,))
    yield Op("lookup", "B St, V D -> B St D", ("tokens", "word.weight"), ("words",), "lookup", attributes=(("offset", "offset:V"),))
    yield Op("leave_lookup", "B St D -> B St D", ("words",), ("scaled" if kind.scales_embedding else "word_rows",), "relabel")
    if kind.scales_embedding:
        yield Op("embedding_scale", "B St D -> B St D", ("scaled",), ("word_rows",), "scale", attributes=(("scale", "embedding_scale"),))


def _one_sequence() -> Iterator[Op]:
    image = Gradient("x0", "excerpt", attributes=(("start", 0), ("length", "extent:x")))
    text = Gradient("x1", "excerpt", attributes=(("start", "extent:x"), ("length", "extent:St")))
    yield Op("join", "B x D, B St D -> B S D", ("image_rows", "word_rows"), ("joined",), "join", gradients=(image, text))
    yield Op("enter_stream", "B S D -> B T D", ("joined",), ("y",), "relabel")


FAMILIES.register("vision_language", Family(VisionLanguageSpec, blocks))
