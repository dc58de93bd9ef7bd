"""What a step by hand is written in: functions that return their value and its pullback.

A pullback takes the gradient of the value, adds those of weights, and returns that of x.  Weights, masks and tokens are the run's own, and
so are their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from parsim.executor.names import own_weights_of
from parsim.model.adapters import TARGETS
from parsim.verify.nf4_by_hand import in_nf4
from parsim_kernels import KERNELS
from parsim_kernels.signature import Array

if TYPE_CHECKING:
    from parsim.executor.job import Job

Pullback = Callable[[Array], Array]
Valued = tuple[Array, Pullback]
_EPSILON = 1e-5  # of norms: torch.nn.LayerNorm


class Arithmetic:
    """A step of one rank, micro_batch after micro_batch."""

    def __init__(self, job: Job) -> None:
        self.job, self.loss, self.micro_batch = job, 0.0, 0
        self.weights = {
            f"{instance}/{w.name}": job.values.weight(instance, w.name, w.initial, [job.extent(dim) for dim in w.sharding.dims])
            for instance, w in own_weights_of(job.copies(0))
        }
        tuning = job.spec.tuning
        for instance, w in own_weights_of(job.copies(0)) if tuning.quantization else ():
            name, num_matrices = f"{instance}/{w.name}", job.extent("E") if w.sharding.dims[0] == "E" else 1
            if w.packed:
                self.weights[name] = in_nf4(self.weights[name], num_matrices, double=tuning.double_quantization)
        self.gradients = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.trained = {f"{instance}/{w.name}" for instance, w in own_weights_of(job.copies(0)) if w.trained}

    def draw(self, instance: str, name: str, *shape: int) -> Array:
        """Tokens, features, labels or a mask of the present micro_batch."""
        return self.job.values.draw(instance, name, self.micro_batch, shape)

    def dense(self, name: str, x: Array, *, summed: int = 1, transposed: bool = False) -> Valued:
        """x W + b over the last `summed` dims of x; a `transposed` matrix is stored a row an output."""
        matrix = self.weights[f"{name}.weight"]
        wide, rows = matrix.T if transposed else matrix, x.ndim - summed
        narrow = partial(self.narrow, name)
        (x_row, x_column), (w_row, w_column) = narrow(x, rows), narrow(wide, summed, weight=True)
        y = np.tensordot(x_row, w_column, summed) + self.weights.get(f"{name}.bias", 0.0)

        def back(dy: Array) -> Array:
            columns, (dy_row, dy_column) = wide.ndim - summed, narrow(dy, rows, gradient=True)
            d_matrix = np.tensordot(x_column, dy_column, (range(rows), range(rows)))
            self.gradients[f"{name}.weight"] += d_matrix.T if transposed else d_matrix
            if f"{name}.bias" in self.weights:
                self.gradients[f"{name}.bias"] += dy.sum(axis=tuple(range(rows)))
            return np.asarray(np.tensordot(dy_row, w_row, (range(rows, rows + columns), range(summed, summed + columns))))

        if f"{name}_lora_b.weight" not in self.weights:
            return y, back
        more, beside = self._adapter(name, x, summed)
        return y + more, lambda dy: back(dy) + beside(dy)

    def _adapter(self, name: str, x: Array, summed: int) -> Valued:
        """What an adapter adds to a linear layer: Hu et al. 2022 (arXiv:2106.09685), Eq. 3."""
        tuning, rows = self.job.spec.tuning, x.ndim - summed
        a_name, b_name, rate = self.first_matrix(name), f"{name}_lora_b.weight", tuning.lora_dropout
        a, b, scale = self.weights[a_name], self.weights[b_name], tuning.lora_alpha / tuning.lora_rank
        instance, _, of_a = a_name.partition("/")
        mask = f"{of_a.removesuffix('a.weight')}mask"
        kept = self.draw(instance, mask, *x.shape) / (1 - rate) if rate else np.array(1.0)
        entering, tokens = x * kept, tuple(range(rows))
        narrow = np.tensordot(entering, a, summed)

        def back(dy: Array) -> Array:
            d_narrow = scale * np.tensordot(dy, b, (range(rows, dy.ndim), range(1, b.ndim)))
            self.gradients[b_name] += scale * np.tensordot(narrow, dy, (tokens, tokens))
            self.gradients[a_name] += np.tensordot(entering, d_narrow, (tokens, tokens))
            return np.asarray(np.tensordot(d_narrow, a, ((rows,), (summed,))) * kept)

        return scale * np.tensordot(narrow, b, 1), back

    def first_matrix(self, name: str) -> str:
        """The name of A of the adapter beside a linear layer, which neighbours may share."""
        instance, _, stem = name.partition("/")
        prefix = next((each for each in ("experts_", "shared_", "cross_") if stem.startswith(each)), "")
        for stems in TARGETS.values():
            there = [prefix + each for each in stems if f"{instance}/{prefix}{each}.weight" in self.weights]
            if stem in there and (found := f"{instance}/{'_'.join(there)}_lora_a.weight") in self.weights:
                return found
        raise KeyError(name)

    def narrow(self, name: str, x: Array, rows: int, **of: bool) -> tuple[Array, Array]:
        """What a linear layer multiplies of a tensor whose first `rows` dims are rows: scaled along its columns, and along its rows."""
        how = self.job.step.structure.narrows
        if how is None or not self.is_narrow(name):
            return x, x
        (by_row, by_column), _ = KERNELS["quantise"]((x,), {**how.attributes(**of), "rows": rows, "layouts": "row col"})
        return by_row, x if how.wide_gradients and "weight" not in of else by_column

    def in_8_bits(self, at: str, *read: Array, gradient: bool = False) -> tuple[Array, ...]:
        """What attention of a layer reads, each with a scale of its own where its kernel reads 8 bits; e5m2 of gradients."""
        if not self.job.step.structure.attends_narrow or not self.is_narrow(f"{at}/"):
            return read
        told = {"format": "e5m2" if gradient else "e4m3", "scale": "fp32", "across": 0, "along": 0, "rows": 1, "layouts": "row"}
        return tuple(KERNELS["quantise"]((each,), told)[0][0] for each in read)

    def is_narrow(self, name: str) -> bool:
        """Whether a name is of a layer in the middle of the model: neither of its ends, nor a layer that stays in bf16."""
        batch, number = self.job.model.batch, re.match(r"layer(\d+)/", name)
        end = self.job.spec.num_layers - batch.num_layers_at_end_in_bf16
        return number is not None and batch.num_layers_at_start_in_bf16 <= int(number[1]) < end

    def is_narrow_matrix(self, name: str) -> bool:
        """Whether a weight is the matrix of a linear layer there."""
        is_other = any(part in name for part in ("router", "_lora_", "/conv."))
        return name.endswith(".weight") and not is_other and self.is_narrow(name)

    def norm(self, name: str, x: Array, kind: str, *, whole: bool = False) -> Valued:
        """The rows of x, of one token if `whole`, at mean 0 (not for rms_norm) and mean square 1, by gamma, plus beta, if it has these.

        Source: Ba et al. 2016 (arXiv:1607.06450), Eq. 4.
        """
        gamma, beta, centre = self.weights.get(f"{name}.gamma"), self.weights.get(f"{name}.beta"), kind == "layer_norm"
        row = tuple(range(2, x.ndim)) if whole else (-1,)
        apart = x - x.mean(row, keepdims=True) if centre else x
        size = np.sqrt((apart**2).mean(row, keepdims=True) + _EPSILON)
        unit = apart / size

        def back(dy: Array) -> Array:
            if gamma is not None:
                self.gradients[f"{name}.gamma"] += (dy * unit).sum(tuple(range(x.ndim - gamma.ndim)))
            if beta is not None:
                self.gradients[f"{name}.beta"] += dy.sum(tuple(range(x.ndim - 1)))
            d_unit = dy if gamma is None else dy * gamma
            d_apart = d_unit - unit * (d_unit * unit).mean(row, keepdims=True)
            return np.asarray((d_apart - d_apart.mean(row, keepdims=True) if centre else d_apart) / size)

        return (unit if gamma is None else unit * gamma) + (0.0 if beta is None else beta), back

    def dropout(self, instance: str, name: str, x: Array) -> Valued:
        """What the mask keeps, over the share that is kept: Srivastava et al. 2014, JMLR 15, section 10."""
        rate = self.job.spec.dropout
        factor = self.draw(instance, name, *x.shape) / (1 - rate) if rate else np.array(1.0)
        return x * factor, lambda dy: dy * factor

    def lookup(self, name: str, rows: Array) -> Valued:
        """Rows of a table."""

        def back(dy: Array) -> Array:
            np.add.at(self.gradients[name], rows, dy)
            return dy

        return self.weights[name][rows], back

    def cross_entropy(self, logits: Array, labels: Array, scale: float, is_trained: Array | float = 1.0) -> Pullback:
        """Minus the logarithm of the softmax at the label, added up over rows, or those trained on; its pullback needs no gradient."""
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        shares = odds / odds.sum(-1, keepdims=True)
        right = np.eye(logits.shape[-1])[labels]
        self.loss -= float((np.log((shares * right).sum(-1)) * is_trained).sum()) * scale
        return lambda dy: dy * scale * (shares - right) * np.asarray(is_trained)[..., None]


def chain(*pullbacks: Pullback) -> Pullback:
    """The pullback of functions that run one after the other."""

    def back(dy: Array) -> Array:
        for each in reversed(pullbacks):
            dy = each(dy)
        return dy

    return back


def alibi_bias(num_heads: int, length: int) -> Array:
    """By how much ALiBi lowers the score of each head, query and key: Press et al. 2022 (arXiv:2108.12409), section 3.

    Slopes fall from 1 by equal factors to 2^-8 at the last of 2^k heads; of other numbers, each second one of twice as many comes behind.
    """
    whole = 1 << num_heads.bit_length() - 1
    slopes = [256.0 ** -(i / whole) for i in range(1, whole + 1)] + [256.0 ** -(i / whole / 2) for i in range(1, 2 * whole, 2)]
    return np.multiply.outer(slopes[:num_heads], np.subtract.outer(np.arange(length), np.arange(length)))


def rotary(x: Array, part: int = 0) -> Valued:
    """x[B S ... C] with each pair (i, i + C / 2) turned by its position; `part`: of the last so many elements only, as if they were all.

    Source: Su et al. 2021 (arXiv:2104.09864), Eq. 15.
    """
    length, width, still = x.shape[1], part or x.shape[-1], x.shape[-1] - (part or x.shape[-1])
    half = width // 2
    angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(half) / half)
    turn, i = np.zeros((length, still + width, still + width)), still + np.arange(half)
    turn[:, range(still), range(still)] = 1
    turn[:, i, i] = turn[:, i + half, i + half] = np.cos(angles)
    turn[:, i, i + half], turn[:, i + half, i] = np.sin(angles), -np.sin(angles)
    return np.einsum("bs...c,scd->bs...d", x, turn), lambda dy: np.einsum("bs...d,scd->bs...c", dy, turn)
