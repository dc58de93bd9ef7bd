"""Attention with linear biases (ALiBi): a head's score falls with the distance of query and key, at a slope of its own."""

from __future__ import annotations

import math


def slopes(num_heads: int) -> tuple[float, ...]:
    """The slope of each head: powers of 2^(-8 / n) of n heads, a power of two; of others those of the next lower n, and each second of 2 n.

    Source: Press et al. 2022 (arXiv:2108.12409), section 3, and its released code (ofirpress/attention_with_linear_biases,
    fairseq/models/transformer.py, get_slopes) for other numbers of heads.

    >>> slopes(4), slopes(3)
    ((0.25, 0.0625, 0.015625, 0.00390625), (0.0625, 0.00390625, 0.25))
    """
    whole = 2 ** int(math.log2(num_heads))
    own = tuple(2.0 ** (-8 * (head + 1) / whole) for head in range(whole))
    return own if whole == num_heads else (*own, *slopes(2 * whole)[::2][: num_heads - whole])
