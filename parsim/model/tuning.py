"""Which weights of a model are trained: marks on blocks, from which backward, memory and communication follow.

A layer that is trained otherwise than its neighbours has a name of its own in the layout: `frozen_` before the name of one without trained
weights, and `bottom_` before that where nothing below is trained, so that nobody asks for the gradient of what it takes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.adapters import CROSS, LINEAR_WEIGHTS, Adapters, with_adapters
from parsim.model.itemsize import itemsize_of
from parsim.model.op import ENCODER_END, JOINT, JOINTS, Block, Layout

FROZEN, BOTTOM = "frozen_", "bottom_"
BASE: Final = "base"
PARTS: Final = ("attention", "mlp", "norms")  # of layers; norms are those of the ends, too
ENDS: Final = ("embedding", "head")
# Of a vision-language model, by blocks; of the joint between its stacks the table of words is the language's, all else the projector.
SIDES: Final = ("vision", "projector", "language")
SIDE_OF: Final = {"embedding": "vision", "vision_layer": "vision", "layer": "language", "head": "language"}
WITHOUT_ADAPTERS: Final = ("vision_layer",)  # and kept as wide as it is
FREEZABLE: Final = (BASE, *ENDS, "layers", *PARTS, *SIDES)
_RUN: Final = re.compile(r"layers (\d{1,6})\.\.(\d{1,6})")
_OF_ATTENTION: Final = ("q", "k", "v", "out", "sinks", "q_down", "kv_down", "k_shared")


class TunedForm(Struct, frozen=True):
    """What of a tuning decides which ops there are."""

    freeze: tuple[str, ...]
    between: tuple[str, ...]  # names of layers with their marks, and of the joints of two stacks, each once
    head_asks: bool  # whether anything below the head is trained
    memory_asks: bool  # whether anything before the joint of two stacks is, or what it reads
    adapters: Adapters | None = None
    packs: bool = False

    def idle_parts(self, frozen: Collection[str]) -> list[str]:
        """The parts of layers that it freezes and of which a model has no weights among those that are frozen."""
        return [part for part in self.freeze if part in PARTS and part not in {_part_of(weight, "layers") for weight in frozen}]


class Tuning(Struct, frozen=True):
    """What is trained of a model: all of it, where nothing is stated."""

    freeze: tuple[str, ...] = ()  # of FREEZABLE, or `layers 0..7`
    lora_rank: int = 0  # 0: there are no adapters
    lora_alpha: float = 0.0  # divided by the rank it is what their results are multiplied by
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()  # of adapters.TARGETS
    share_expert_adapters: bool = False  # all experts of a layer have one
    quantization: str = ""  # of frozen linear layers: nf4, or none
    double_quantization: bool = False  # of their scales

    @property
    def packed_bytes(self) -> int:
        """Bytes of an element of such a matrix: 4 bits, and for each 64 a scale in float32, or of a byte, of which each 256 share one.

        Source: Dettmers et al. 2023 (arXiv:2305.14314), section 3 (Double Quantization): 0.5 bits a parameter become 0.127.
        """
        return itemsize_of(Fraction(1, 2) + (Fraction(1, 64) + Fraction(4, 64 * 256) if self.double_quantization else Fraction(4, 64)))

    @property
    def extents(self) -> dict[str, int]:
        """Of the dims of adapters, but for the width of the stream."""
        return {"a": self.lora_rank, "b": self.lora_rank, "be": self.lora_rank} if self.lora_rank else {}

    @property
    def sides(self) -> set[str]:
        """The sides of a vision-language model that it freezes."""
        return {*SIDES} & {*self.freeze}

    @property
    def _trains_joint(self) -> bool:
        """Whether anything is trained of what stands between its stacks."""
        return bool(self.sides) and not {*SIDES[1:]} <= self.sides

    @property
    def _freezes_layers(self) -> bool:
        """Whether all layers are frozen, by whatever words."""
        return bool({BASE, "layers"} & {*self.freeze}) or {*PARTS} <= {*self.freeze}

    def is_trained(self, end: str) -> bool:
        """Whether an end of the model is."""
        return not {BASE, end, SIDE_OF[end]} & {*self.freeze}

    def trained_layers(self, num_layers: int) -> tuple[bool, ...]:
        """Whether anything of a layer is, layer by layer."""
        runs = [range(int(first), int(last) + 1) for first, last in filter(None, map(run_of, self.freeze))]
        every = self.lora_rank > 0
        return tuple(every or (not self._freezes_layers and not any(layer in run for run in runs)) for layer in range(num_layers))

    def _trained_of(self, layers: Sequence[str]) -> Iterable[bool]:
        """The same of layers of these names."""
        return map(self._trains_side, layers) if self.sides else self.trained_layers(len(layers))

    def with_marks(self, layout: Layout) -> Layout:
        """The layout of a model, each layer marked by what is trained of it and below it."""
        if not self.freeze:
            return layout
        first, *middle, last = layout
        of_memory, below, names = False, self.is_trained(first[0]), list[str]()
        every = [name for name, copies in middle for _ in range(copies)]
        trained = iter(self._trained_of([name for name in every if name not in JOINTS]))
        for name in every:
            if name in JOINTS:
                names.append(name)
                if name == JOINT and self.sides:  # the stream goes on
                    below |= self._trains_joint
                elif name == JOINT:
                    of_memory, below = below, self.is_trained(first[0])
                continue
            is_trained = next(trained)
            names.append(BOTTOM * (not below) + FROZEN * (not is_trained) + name)
            below |= is_trained or of_memory
        return first, *((name, len([*run])) for name, run in groupby(names)), last

    def _trains_side(self, name: str) -> bool:
        """Whether anything is trained of a layer of a vision-language model; adapters are the decoder's."""
        return SIDE_OF.get(name) not in self.sides or (self.lora_rank > 0 and name not in WITHOUT_ADAPTERS)

    def form(self, layout: Layout) -> TunedForm | None:
        """What of it decides which ops there are, in a marked layout; None where all is trained."""
        if not self.freeze:
            return None
        (first, _), *middle, _ = layout
        between = tuple(dict.fromkeys(name for name, _ in middle))
        before = between[: between.index(JOINT)] if JOINT in between else ()
        memory_asks, asks = (self.is_trained(first) or any(map(_is_trained_layer, names)) for names in (before, between))
        told = self.lora_dropout, self.share_expert_adapters
        adapters = Adapters(self.lora_targets, self.lora_alpha / self.lora_rank, *told) if self.lora_rank else None
        return TunedForm(self.freeze, between, asks or self._trains_joint, memory_asks, adapters, bool(self.quantization))

    def lowest_trained(self, num_layers: int, first_stack: int = 0) -> int:
        """The number of the lowest layer with trained weights, -1 where the embedding has some, num_layers where only the head may.

        `first_stack`: layers of a vision tower, behind which a projector stands.
        """
        if self.is_trained(ENDS[0]):
            return -1
        if self.sides:
            return first_stack
        return next((layer for layer, trained in enumerate(self.trained_layers(num_layers)) if trained), num_layers)

    def small(self, num_layers: int, fewer: int, rank: int) -> Tuning:
        """The same of a model of fewer layers, of which runs of layers are as large a part, rounded down, and of this rank."""
        found = []
        for name in self.freeze:
            if run := run_of(name):
                first, stop = int(run[0]) * fewer // num_layers, (int(run[1]) + 1) * fewer // num_layers
                name = f"layers {first}..{stop - 1}" if first < stop else ""
            found += [name] if name else []
        return replace(self, freeze=tuple(found), lora_rank=self.lora_rank and rank)

    def faults(self, num_layers: int) -> Iterator[str]:
        """Why a model of so many layers cannot be trained so."""
        if self.lora_rank and self.freeze != (BASE,) and SIDES[2] not in self.sides:
            whole = "goes with adapters as base alone: what is not adapted is frozen; leave it out"
            yield "names no language, beside whose layers adapters stand; name it, too" if self.sides else whole
        for name in self.freeze:
            if (found := run_of(name)) and not int(found[0]) <= int(found[1]) < num_layers:
                yield f"'{name}' names no layers of the model, which are 0 to {num_layers - 1}"
        if (self.sides == {*SIDES} and not self.lora_rank) or not any((*map(self.is_trained, ENDS), *self.trained_layers(num_layers))):
            yield "freezes all weights, so that nothing is trained; leave one of its parts out"


def run_of(name: str) -> tuple[str, str] | None:
    """The first and the last layer that `layers 0..7` names; None for any other name."""
    found = _RUN.fullmatch(name)
    return (found[1], found[2]) if found else None


def _is_trained_layer(name: str) -> bool:
    return name not in JOINTS and not name.removeprefix(BOTTOM).startswith(FROZEN)


def untuned_name(name: str) -> str:
    """The name of a block without the marks of its training."""
    return name.replace(BOTTOM, "").replace(FROZEN, "")


def tuned_blocks(blocks: Mapping[str, Block], form: TunedForm) -> dict[str, Block]:
    """Blocks with the marks of what is trained of them."""
    first, *_, last = blocks
    ends = {name: _with_frozen(blocks[name], form.freeze, name) for name in (first, last)}
    between, alike, before = dict[str, Block](), dict[tuple[str, str], str](), ""
    for name in form.between:
        block = blocks[untuned_name(name)]
        like = alike.setdefault((name.removesuffix(block.name), block.like), name) if block.like else ""
        between[name] = _joint(block, form, before) if name in JOINTS else replace(_layer(name, block, form), like=like)
        before = name
    head = replace(ends[last], asks=form.head_asks, frozen=tuple(w for w in blocks[last].weights if _is_frozen_in_head(w, ends, last)))
    return _with_passing({first: ends[first], **between, last: head})


def _joint(block: Block, form: TunedForm, before: str) -> Block:
    """The decoder's embedding, frozen with the encoder's, or the norm behind an encoder, frozen with the layer before it; behind a vision
    tower the table of words goes with the language, and all else is the projector."""
    if {*SIDES} & {*form.freeze}:
        side_of = {name: SIDES[2] if name == "word.weight" else SIDES[1] for name in block.weights}
        return replace(block, frozen=tuple(name for name, side in side_of.items() if side in form.freeze), asks=form.memory_asks)
    is_end = block.name == ENCODER_END
    freeze = (*form.freeze, *(["layers"] if is_end and not _is_trained_layer(before) else []))
    return replace(_with_frozen(block, freeze, "layers" if is_end else ENDS[0]), asks=form.memory_asks)


def _with_passing(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks, which ask for gradients of what passes by where those ask that make it."""
    makes = {each.name: block for block in blocks.values() for each in block.passing if each.use == "makes"}
    asked = {name for name, block in makes.items() if name in replace(block, passing=()).asked}
    return {
        name: replace(block, passing=tuple(replace(each, asks=each.name in asked) for each in block.passing))
        for name, block in blocks.items()
    }


def _layer(name: str, block: Block, form: TunedForm) -> Block:
    freeze = (*form.freeze, *(["layers"] if name.removeprefix(BOTTOM).startswith(FROZEN) else []))
    block = replace(_with_frozen(block, freeze, "layers"), name=name, asks=not name.startswith(BOTTOM))
    if untuned_name(name) in WITHOUT_ADAPTERS:
        return block
    if form.packs:
        block = replace(block, packed=tuple(weight for weight in block.frozen if weight in LINEAR_WEIGHTS))
    return with_adapters(block, form.adapters) if form.adapters else block


def _is_frozen_in_head(weight: str, ends: Mapping[str, Block], last: str) -> bool:
    """One that is another end's is frozen with it."""
    return weight in ends.get(ends[last].shared.get(weight, last), ends[last]).frozen


def _with_frozen(block: Block, freeze: tuple[str, ...], name: str) -> Block:
    """The block with its weights marked that a list freezes; `name`: what names all of it."""
    whole = {BASE, name, SIDE_OF.get(block.name, "")} & {*freeze}
    return replace(block, frozen=tuple(weight for weight in block.weights if whole or _part_of(weight, name) in freeze))


def _part_of(weight: str, of: str) -> str:
    """The part that a weight belongs to."""
    stem, _, kind = weight.removeprefix(CROSS).partition(".")
    if kind in ("gamma", "beta"):
        return "norms"
    return of if of in ENDS else "attention" if stem in _OF_ATTENTION else "mlp"
