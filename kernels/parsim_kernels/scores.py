"""What becomes of scores of attention before their softmax: a factor, a cap, and slopes that lower them by distance (ALiBi)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, number, real, runs


def alibi(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Scores lowered by their head's slope for each token from key to query; slopes are attributes["slopes"].  2 n FLOPs.

    Source: Press et al. 2022 (arXiv:2108.12409), section 3.

    >>> alibi((np.zeros((1, 1, 1, 2, 2)),), {"slopes": (0.5,)})[0][0].tolist()
    [[[[[0.0, 0.5], [-0.5, 0.0]]]]]
    """
    (scores,) = inputs
    queries, keys = (
        np.concatenate([np.arange(*each) for each in runs(attributes, name, length, 0)])
        for length, name in zip(scores.shape[-2:], ("query_offset", "key_offset"), strict=True)
    )
    slopes = np.array(attributes["slopes"], real(scores)).reshape(scores.shape[1:3])[..., np.newaxis, np.newaxis]
    return (np.subtract(scores, slopes * np.subtract.outer(queries, keys), out=out(scores.shape, real(scores))),), 2 * scores.size


class Factor(NamedTuple):
    """Scores are scale q k, or cap tanh(scale q k / cap) where there is a `cap`, lowered by distance where there are slopes [K, R]."""

    scale: float
    cap: float  # 0: none
    slopes: Array | None

    def slope(self, scores: Array) -> Array | float:
        """The derivative of scores by q k, at scores that are not masked, nor lowered yet."""
        return self.scale * (1 - np.square(np.maximum(scores, -self.cap) / self.cap)) if self.cap else self.scale

    def lower(self, scores: Array, heads: slice, distances: Array) -> None:
        """Scores[K, R S, Z] of some kv heads, by the distances [S, Z]."""
        if self.slopes is not None:
            by = self.slopes[heads][..., np.newaxis, np.newaxis] * distances
            np.subtract(scores, by.reshape(scores.shape), out=scores)


def factor_of(q: Array, attributes: Attributes) -> Factor:
    """What attributes say of scores of q[B S K R C]."""
    slopes = np.array(attributes["slopes"], real(q)).reshape(q.shape[2:4]) if "slopes" in attributes else None
    return Factor(number(attributes, "scale"), number(attributes, "cap") if "cap" in attributes else 0.0, slopes)
