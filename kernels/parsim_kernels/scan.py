"""The selective scan of Mamba-2 (state-space duality), in chunks, and what sets its steps and decays.

A head has a state H[p, m].  Token t multiplies it by exp(a_t), adds dt_t x_t B_t', and gives H C_t + D x_t; heads of a group share B and C.
Inside a chunk this is a product with a lower triangle, as in attention; between chunks only states pass.
Shapes: x, B and C lie side by side in xbc[B, S, g, h p + 2 m]; dt and a [B, S, g, h]; D [g, h]; y [B, S, g, h, p].
Source: Dao and Gu 2024 (arXiv:2405.21060), section 6, listing 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, real, same_shape


def softplus(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """log(1 + exp(x)).  3 n FLOPs.

    >>> softplus((np.array([0.0]),), {})[0][0].round(4).tolist()
    [0.6931]
    """
    (x,) = inputs
    return (np.logaddexp(x, 0, out=out(x.shape, real(x))),), 3 * x.size


def softplus_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `softplus` from (x, d_y): d_y times the logistic function of x.  4 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (np.divide(d_y, 1 + np.exp(-x), out=out(x.shape, real(x, d_y))),), 4 * x.size


def decay(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """a = -exp(A) dt from (dt [..., g, h], A [g, h]), the logarithm of what a state is multiplied by; of d_y it is d_dt.  n FLOPs.

    >>> decay((np.array([[2.0]]), np.array([0.0])), {})[0][0].tolist()
    [[-2.0]]
    """
    dt, logarithm = inputs
    return (np.multiply(dt, -np.exp(logarithm), out=out(dt.shape, real(dt, logarithm))),), dt.size


def decay_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_A of `decay` from (dt, A, d_y).  2 n FLOPs."""
    dt, logarithm, d_y = inputs
    same_shape(dt, d_y)
    d_own = out(logarithm.shape, real(dt, logarithm, d_y))
    np.multiply((dt * d_y).sum(axis=tuple(range(dt.ndim - logarithm.ndim))), -np.exp(logarithm), out=d_own)
    return (d_own,), 2 * dt.size


def scan(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """y from (xbc, dt, a, D); attributes "state" (m) and "chunk" (tokens).

    FLOPs, of a sequence and group: 2 (m + h p) a pair of a chunk's tokens, a token and one not behind it; 4 h p m a token, to states and
    from them; 2 h p m a chunk, from state to state; 2 an element of y, for D.

    Raises:
        ValueError: the shapes do not fit, or a chunk has no tokens.
    """
    xbc, dt, a, skip = inputs
    own = _Shape.of(xbc, dt, attributes)
    same_shape(dt, a)
    y = out((*dt.shape, own.width), real(xbc, dt, a, skip))
    state = own.no_state(y.dtype)
    for part in own.chunks():
        x, b, c = own.parts(xbc[:, part])
        steps, since = x * dt[:, part, ..., np.newaxis], np.cumsum(a[:, part], axis=1)
        pairs = np.einsum("bigm,bjgm->bgij", c, b)[:, :, np.newaxis] * _decays(since)
        y[:, part] = np.einsum("bghij,bjghp->bighp", pairs, steps)
        y[:, part] += np.einsum("bghpm,bigm->bighp", state, c) * np.exp(since)[..., np.newaxis]
        state = _state_behind(state, since, steps, b)
        y[:, part] += skip[..., np.newaxis] * x
    return (y,), own.flops(over_state=1, over_width=1, tokens=2, chunks=1) + 2 * y.size


def scan_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_xbc, d_dt, d_a) of `scan` from (xbc, dt, a, D, d_y); states are made again.

    FLOPs, as those of `scan`: 2 (3 m + 2 h p) a pair, since products of C and B are made again; 10 h p m a token; 6 h p m a chunk; 2 an
    element of y.

    Source: derived here, by the chain rule through each chunk; the contractions are those of state-spaces/mamba,
    mamba_ssm/ops/triton/ssd_combined.py (_mamba_chunk_scan_combined_bwd), each once.
    """
    xbc, dt, a, skip, d_y = inputs
    own = _Shape.of(xbc, dt, attributes)
    same_shape(dt, a)
    dtype = real(xbc, dt, a, skip, d_y)
    d_xbc, d_dt, d_a = (out(array.shape, dtype) for array in (xbc, dt, a))
    states = [own.no_state(dtype)]
    parts = [*own.chunks()]
    for part in parts[:-1]:
        x, b, _ = own.parts(xbc[:, part])
        states.append(_state_behind(states[-1], np.cumsum(a[:, part], axis=1), x * dt[:, part, ..., np.newaxis], b))
    d_state = own.no_state(dtype)
    for part, state in zip(reversed(parts), reversed(states), strict=True):
        d_state = _chunk_grad(own, (xbc[:, part], dt[:, part], a[:, part], d_y[:, part]), (state, d_state), d_a[:, part], d_xbc[:, part])
        x, _, _ = own.parts(xbc[:, part])
        d_steps, _, _ = own.parts(d_xbc[:, part])
        np.einsum("bjghp,bjghp->bjgh", d_steps, x, out=d_dt[:, part])
        d_xbc[:, part, :, : own.inner] = own.flat(d_steps * dt[:, part, ..., np.newaxis] + skip[..., np.newaxis] * d_y[:, part])
    return (d_xbc, d_dt, d_a), own.flops(over_state=3, over_width=2, tokens=5, chunks=3) + 2 * d_y.size


def scan_skip_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_D of `scan` from (xbc, d_y): products of x and d_y, summed over all but heads.  2 n FLOPs, n the elements of d_y."""
    xbc, d_y = inputs
    x = xbc[..., : d_y.shape[-2] * d_y.shape[-1]].reshape(d_y.shape)
    return (np.einsum("bsghp,bsghp->gh", x, d_y, out=out(d_y.shape[2:4], real(xbc, d_y))),), 2 * d_y.size


class _Shape(NamedTuple):
    """Extents of a scan: sequences, tokens, groups, heads a group, the width of a head, of its state, and the tokens of a chunk."""

    batch: int
    length: int
    groups: int
    heads: int
    width: int
    state: int
    chunk: int

    @classmethod
    def of(cls, xbc: Array, dt: Array, attributes: Attributes) -> _Shape:
        state, chunk = integer(attributes, "state"), integer(attributes, "chunk")
        inner, heads = xbc.shape[-1] - 2 * state, dt.shape[-1]
        if xbc.shape[:3] != dt.shape[:3] or inner < heads or inner % heads or chunk < 1:
            raise ValueError(f"xbc {xbc.shape} and dt {dt.shape} do not fit with states of {state} in chunks of {chunk} tokens")
        batch, length, groups, _ = dt.shape
        return cls(batch, length, groups, heads, inner // heads, state, chunk)

    @property
    def inner(self) -> int:
        return self.heads * self.width

    def no_state(self, dtype: np.dtype[np.generic]) -> Array:
        return np.zeros((self.batch, self.groups, self.heads, self.width, self.state), dtype)

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.length, self.chunk):
            yield slice(start, min(start + self.chunk, self.length))

    def parts(self, xbc: Array) -> tuple[Array, Array, Array]:
        """x [.., g, h, p], B and C [.., g, m]."""
        x, b, c = np.split(xbc, [self.inner, self.inner + self.state], axis=-1)
        return x.reshape(*x.shape[:-1], self.heads, self.width), b, c

    def flat(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-2], self.inner)

    def flops(self, *, over_state: int, over_width: int, tokens: int, chunks: int) -> int:
        """2 FLOPs of each product: of pairs over states and over widths of all heads, and of what each token and chunk does to a state."""
        lengths = [part.stop - part.start for part in self.chunks()]
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        of_state = self.inner * self.state
        every = pairs * (over_state * self.state + over_width * self.inner) + (tokens * self.length + chunks * len(lengths)) * of_state
        return int(2 * self.batch * self.groups * every)


def _decays(since: Array) -> Array:
    """exp(since_i - since_j) [B, g, h, i, j] for j <= i, else 0; `since`: sums of a from the first token of a chunk on."""
    rows = since.transpose(0, 2, 3, 1)
    ahead = rows[..., :, np.newaxis] - rows[..., np.newaxis, :]
    return np.where(np.tri(ahead.shape[-1], dtype=bool), np.exp(np.minimum(ahead, 0)), 0)


def _share_at_end(since: Array) -> Array:
    """What is left of a token's step when its chunk ends."""
    return np.asarray(np.exp(since[:, -1:] - since))


def _state_behind(state: Array, since: Array, steps: Array, b: Array) -> Array:
    """The state behind a chunk."""
    added = np.einsum("bjghp,bjgm->bghpm", steps * _share_at_end(since)[..., np.newaxis], b)
    return np.asarray(state * np.exp(since[:, -1])[..., np.newaxis, np.newaxis] + added)


def _chunk_grad(own: _Shape, chunk: Sequence[Array], states: tuple[Array, Array], d_a: Array, d_xbc: Array) -> Array:
    """The gradient of the state before a chunk; leaves that of a, and in d_xbc those of steps, B and C."""
    (xbc, dt, a, d_y), (state, d_behind) = chunk, states
    x, b, c = own.parts(xbc)
    steps, since = x * dt[..., np.newaxis], np.cumsum(a, axis=1)
    from_start, left, decays = np.exp(since), _share_at_end(since), _decays(since)
    pairs = np.einsum("bigm,bjgm->bgij", c, b)[:, :, np.newaxis] * decays
    products = np.einsum("bighp,bjghp->bghij", d_y, steps) * decays
    d_scores = products.sum(axis=2)
    d_c = np.einsum("bighp,bghpm->bighm", d_y * from_start[..., np.newaxis], state)
    d_b = np.einsum("bjghp,bghpm->bjghm", steps * left[..., np.newaxis], d_behind)
    d_steps = np.einsum("bghij,bighp->bjghp", pairs, d_y)
    d_steps += np.einsum("bghpm,bjgm->bjghp", d_behind, b) * left[..., np.newaxis]
    d_xbc[..., : own.inner] = own.flat(d_steps)
    d_xbc[..., own.inner : own.inner + own.state] = d_b.sum(axis=3) + np.einsum("bgij,bigm->bjgm", d_scores, c)
    d_xbc[..., own.inner + own.state :] = d_c.sum(axis=3) + np.einsum("bgij,bjgm->bigm", d_scores, b)
    of_pairs = products * np.einsum("bigm,bjgm->bgij", c, b)[:, :, np.newaxis]
    carried = np.einsum("bjghm,bjgm->bjgh", d_b, b)  # of what is left when the chunk ends
    d_since = (of_pairs.sum(-1) - of_pairs.sum(-2)).transpose(0, 3, 1, 2) + np.einsum("bighm,bigm->bigh", d_c, c) - carried
    whole = np.exp(since[:, -1])
    d_since[:, -1] += carried.sum(axis=1) + whole * np.einsum("bghpm,bghpm->bgh", state, d_behind)
    d_a[...] = np.cumsum(d_since[:, ::-1], axis=1)[:, ::-1]
    before = np.einsum("bighp,bigm->bghpm", d_y * from_start[..., np.newaxis], c)
    return np.asarray(d_behind * whole[..., np.newaxis, np.newaxis] + before)
