"""The numbers that go in: weights, tokens, features, labels and masks, drawn whole from a seed and cut to a rank's shard.

A drawn tensor depends on its name, layer and sequence, never on the plan, so every plan trains on the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from parsim.cost.sizes import Sizes
from parsim.data import Dataset
from parsim.model.adapters import is_adapter
from parsim.model.dims import KV_HEADS, QUERY_HEADS
from parsim.model.documents import IGNORED, LABELS
from parsim.model.op import Dims
from parsim.model.spec import ModelSpec
from parsim.parallel.sharding import Sharding
from parsim.step.recompute import AGAIN
from parsim_kernels.signature import Array

# Whole numbers below the extent of a dim.
_WHOLE_NUMBERS = {
    **dict.fromkeys(("tokens", "source_tokens", "labels", "mtp_tokens", "mtp_labels"), "V"),
    **{"token_types": "U", "text_labels": "Y", "token_labels": "Y", "row_labels": "Y", "image_labels": "Y"},
}
_WEIGHT_SCALE = 0.1  # of normal initial weights: large enough that every gradient differs from zero


class Values(Struct, frozen=True):
    """Draws whole tensors of one run."""

    model: ModelSpec
    seed: int
    precision: str = "float64"
    data: Dataset | None = None  # what tokens, features and labels are taken from; None: they are drawn
    global_batch: int = 1  # sequences of a step
    trained: tuple[int, ...] = ()  # tokens of each that have labels, those before its padding; (): all

    def draw(self, instance: str, name: str, micro_batch: int, shape: Sequence[int]) -> Array:
        """Tokens, features, labels or a dropout mask of one micro_batch, counted over all steps; the same again when recomputed."""
        name = name.replace(AGAIN, "")
        if self.data is not None and name in self.data.train:
            step, first = divmod(micro_batch * shape[0], self.global_batch)
            rows = self.data.rows(step, self.global_batch, self.seed)[first : first + shape[0]]
            return self._precise(name, self.data.train[name][rows])
        first = micro_batch * shape[0]  # each sequence has its own numbers, so that a plan may cut a batch as it likes
        drawn: list[Any] = [self._draw(name, self._rng(f"{instance}/{name}", first + row), shape[1:]) for row in range(shape[0])]
        found = np.array(drawn)
        for row, labels in enumerate(found) if name == LABELS else ():
            labels[: self.model.image_tokens] = IGNORED
            if self.trained:
                labels[self.trained[(first + row) % self.global_batch] :] = IGNORED
        return self._precise(name, found)

    def _precise(self, name: str, found: Array) -> Array:
        return found if name in _WHOLE_NUMBERS else found.astype(self.precision)

    def _draw(self, name: str, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        if name in _WHOLE_NUMBERS:
            return rng.integers(0, self.model.extents[_WHOLE_NUMBERS[name]], shape)
        if name in ("features", "patches"):
            return rng.normal(0.0, 1.0, shape)
        dropped = self.model.tuning.lora_dropout if is_adapter(name) else self.model.dropout
        return (rng.random(shape) >= dropped).astype(np.float64)

    def weight(self, instance: str, name: str, initial: str, shape: Sequence[int]) -> Array:
        """A parameter before the first step."""
        if initial == "normal":
            return self._rng(f"{instance}/{name}", 0).normal(0.0, _WEIGHT_SCALE, shape).astype(self.precision)
        return np.full(shape, 1.0 if initial == "ones" else 0.0, self.precision)

    def _rng(self, name: str, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), index])


def region(sharding: Sharding, sizes: Sizes) -> tuple[tuple[int, int], ...]:
    """First index and end, along each dim, of the part of a tensor that the rank at the place of `sizes` holds."""
    spans = ((int(sizes.start(sharding, dim)[0]), int(sizes.local(sharding, dim)[0])) for dim in sharding.dims)
    return tuple((start, start + extent) for start, extent in spans)


def shard(whole: Array, sharding: Sharding, sizes: Sizes) -> Array:
    """A rank's own copy of its part of a tensor, whose sequences lie in order and whose kv heads are those of the model."""
    whole = _with_copies(whole, sharding.dims, sizes)
    runs = [sizes.runs(sharding, dim) for dim in sharding.dims]
    found = whole[tuple(slice(*own[0]) if len(own) == 1 else slice(None) for own in runs)]
    for place, own in enumerate(runs):
        if len(own) > 1:
            found = np.concatenate([found.take(range(*run), axis=place) for run in own], axis=place)
    return found.copy()


def _with_copies(whole: Array, dims: Dims, sizes: Sizes) -> Array:
    """With each kv head as often as there are ranks that hold it; queries of a head are shared out among these."""
    copies = int(sizes.kv_copies[0])
    kv = next((dim for dim in KV_HEADS if dim in dims), "")
    if copies == 1 or not kv:
        return whole
    has_queries = not set(QUERY_HEADS).isdisjoint(dims)
    return whole.reshape([int(sizes.dims[dim][0]) for dim in dims]) if has_queries else np.repeat(whole, copies, axis=dims.index(kv))
