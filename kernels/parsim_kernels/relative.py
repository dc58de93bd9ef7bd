"""Biases of attention scores by the distance of query and key, of a table with a row for each run of distances (T5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, real, runs

_GUARD = 1e-9  # of a logarithm that is a whole number but for its rounding


def relative_biases(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """biases[K R Q Z] of table[e K R]: the row of the distance of each query and key.  0 FLOPs.

    Queries and keys are those of attributes["query_offset"] and ["key_offset"] (see `runs`).  With attributes["two_sided"] half of the rows
    are for keys that come after their query; else those are masked.  Of distances up to half of the rows of a side each has its own, those
    up to attributes["distance"] share the others by their logarithm, and all beyond the last.
    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1; mesh_tensorflow/transformer/transformer_layers.py
    (`_relative_position_bucket`), for the logarithm.

    >>> told = {"queries": 2, "keys": 2, "distance": 8, "two_sided": 0}
    >>> relative_biases((np.arange(4.0).reshape(4, 1, 1),), told)[0][0].tolist()
    [[[[0.0, -inf], [1.0, 0.0]]]]
    """
    (table,) = inputs
    rows, seen = _rows(attributes, len(table))
    biases = out((*table.shape[1:], *rows.shape), real(table))
    biases[...] = np.where(seen, np.moveaxis(table[rows], (0, 1), (-2, -1)), -np.inf)
    return (biases,), 0


def relative_biases_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_table from (table_like, d_biases[K R Q Z]); what is masked adds nothing.  As many FLOPs as elements of d_biases."""
    table_like, d_biases = inputs
    rows, seen = _rows(attributes, len(table_like))
    d_table = out(table_like.shape, real(d_biases))
    d_table.fill(0)
    np.add.at(d_table, rows[seen], np.moveaxis(d_biases, (-2, -1), (0, 1))[seen])
    return (d_table,), d_biases.size


def _rows(attributes: Attributes, num_rows: int) -> tuple[Array, Array]:
    """The row of each query and key, and whether the query sees the key."""
    queries, keys = (
        np.concatenate([np.arange(*run) for run in runs(attributes, first, integer(attributes, count), 0)])
        for count, first in (("queries", "query_offset"), ("keys", "key_offset"))
    )
    behind, two_sided = np.subtract.outer(queries, keys), integer(attributes, "two_sided")
    side = num_rows // 2 if two_sided else num_rows
    near, far = side // 2, integer(attributes, "distance")
    distance = np.abs(behind)
    log = np.log(np.maximum(distance, near) / near) / np.log(far / near) * (side - near)
    row = np.where(distance < near, distance, np.minimum(near + np.floor(log + _GUARD).astype(np.int64), side - 1))
    ahead = behind < 0
    return row + side * (ahead & bool(two_sided)), np.ones_like(ahead) if two_sided else ~ahead
