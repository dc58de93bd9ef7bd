"""The numbers that go in: weights, tokens, features, labels and masks, drawn whole from a seed and cut to a rank's shard.

A drawn tensor depends on its name, layer and micro_batch, never on the plan, so every plan trains on the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsim.model.spec import ModelSpec
from parsim.parallel.sharding import Sharding
from parsim.step.recompute import AGAIN

Array = NDArray[np.float64] | NDArray[np.int64]
_WEIGHT_SCALE = 0.1  # of normal initial weights: large enough that every gradient differs from zero


@dataclass(frozen=True, slots=True)
class Values:
    """Draws whole tensors of one run."""

    model: ModelSpec
    seed: int

    def drawn(self, instance: str, name: str, micro_batch: int, shape: Sequence[int]) -> Array:
        """Tokens, features, labels or a dropout mask of one micro_batch; the same again when it is recomputed."""
        name = name.removesuffix(AGAIN)
        rng = self._rng(f"{instance}/{name}", micro_batch)
        if name == "token_types":
            return rng.integers(0, self.model.num_token_types, shape)
        if name in ("text_labels", "token_labels", "row_labels"):
            return rng.integers(0, self.model.num_labels, shape)
        if name == "features":
            return rng.normal(0.0, 1.0, shape)
        if name in ("tokens", "labels"):
            return rng.integers(0, self.model.vocab_size, shape)
        return (rng.random(shape) >= self.model.dropout).astype(np.float64)

    def weight(self, instance: str, name: str, initial: str, shape: Sequence[int]) -> Array:
        """A parameter before the first step."""
        if initial == "normal":
            return self._rng(f"{instance}/{name}", 0).normal(0.0, _WEIGHT_SCALE, shape)
        return np.ones(shape) if initial == "ones" else np.zeros(shape)

    def _rng(self, name: str, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), index])


def shard(whole: Array, sharding: Sharding, degrees: Mapping[str, int], at: Mapping[str, int]) -> Array:
    """A rank's own copy of its part of a tensor.

    >>> shard(np.arange(4.0), Sharding(("F",), (("tp",),)), {"tp": 2}, {"tp": 1})
    array([2., 3.])
    """
    part: NDArray[Any] = whole
    for dim, axes in enumerate(sharding.axes):
        for axis in axes:
            part = np.split(part, degrees[axis], axis=dim)[at[axis]]
    return part.copy()
