"""Which documents micro_batches have where sequences of several lengths are packed: drawn, and what that costs a pass.

An estimate takes the row of documents whose pairs of query and key come nearest the mean.  Here each row of a step is drawn from those of
the data, independently and with replacement, and a pass costs what lies between its prices with the usual row, with the row of most pairs
and with that of fewest, by its pairs.  Source: Lin et al. 2025 (arXiv:2505.05713), which finds sequences of several lengths a main cause
of stragglers: attention grows with the square of a document.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster.scalars import Floats, Ints
from parsim.model.documents import PACKED, packed_rows, typical_row, with_rest
from parsim.parallel.plan import Batch


class Documents(Struct, frozen=True, eq=False):
    """The rows of the data, by their pairs."""

    most: Batch  # in which all rows are that of most pairs
    least: Batch
    more: Floats  # how far each row is from the usual one towards that of most pairs, 0 to 1
    less: Floats  # and towards that of fewest
    pairs: Ints

    @classmethod
    def of(cls, batch: Batch) -> Documents | None:
        """Those of a batch; None where all its rows are alike."""
        if batch.packing != PACKED:
            return None
        length = batch.sequence_length
        rows = packed_rows(batch.lengths, length)
        pairs = np.array([_pairs(row, length) for row in rows], dtype=np.int64)
        usual = _pairs(typical_row(batch.lengths, length), length)
        high, low = int(pairs.max()), int(pairs.min())
        if high == low:
            return None
        more = np.maximum(pairs - usual, 0) / max(high - usual, 1)
        less = np.maximum(usual - pairs, 0) / max(usual - low, 1)
        most, least = (replace(batch, lengths=rows[int(each)]) for each in (pairs.argmax(), pairs.argmin()))
        return cls(most, least, more, less, pairs)

    def draw(self, rng: np.random.Generator, num_replicas: int, shape: tuple[int, int, int]) -> tuple[Floats, Floats]:
        """How far micro_batches are from the usual documents, both ways, [micro_batch, sample].

        Args:
            rng: the source of numbers.
            num_replicas: whose micro_batches pass side by side; the one with most pairs holds up the others.
            shape: micro_batches, rows in each, samples.
        """
        found: tuple[Floats, Floats] | None = None
        highest = np.full((shape[0], shape[2]), -1)
        for _ in range(num_replicas):
            drawn = rng.integers(len(self.pairs), size=shape)
            pairs = self.pairs[drawn].sum(axis=1)
            own = self.more[drawn].mean(axis=1), self.less[drawn].mean(axis=1)
            later = pairs > highest
            found = own if found is None else (np.where(later, own[0], found[0]), np.where(later, own[1], found[1]))
            highest = np.maximum(highest, pairs)
        assert found is not None
        return found


def _pairs(row: tuple[int, ...], length: int) -> int:
    """Pairs of query and key that a causal mask leaves, those of padding included, which is computed, too."""
    return sum(each * (each + 1) // 2 for each in with_rest(row, length))
