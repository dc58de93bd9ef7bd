"""Small data sets to train on, one file each: rows under the names that a model's blocks draw, split into two parts by a seed.

Which rows make the batch of a step is decided here, so every plan trains on the same; cutting them to a rank's shard is the executor's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
from msgspec import Struct

from parsim.errors import ScenarioError
from parsim.model.dims import MASK
from parsim.model.families import blocks_of
from parsim.model.spec import ModelSpec
from parsim.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DATASETS", "DataArray", "Dataset", "Origin", "fault", "load", "names", "too_few"]

DataArray: TypeAlias = "NDArray[np.float64] | NDArray[np.int64]"
AnyArray = TypeVar("AnyArray", bound="NDArray[Any]")
_SEGMENT: Final = "token_types"  # 0 for all of a text that is one segment: Devlin et al. 2019 (arXiv:1810.04805), figure 2
_ROUNDING: Final = 1e-9  # 0.29 of 100 is 29, though 0.29 x 100 is a little below


class Origin(Struct, frozen=True):
    """A data set as its file states it; a sequence is `sequence_length` tokens, or rows of features."""

    source: str
    trains: str  # the models it is for, in words
    gives: tuple[str, ...]  # the arrays it has, by the names that blocks draw; one label a sequence, or one a token or row
    misfit: Callable[[Any, int], str]  # (model that draws what it gives, sequence_length) -> why it cannot be trained on this, or ""
    rows: Callable[[Any, int, int], Mapping[str, DataArray]]  # (model, sequence_length, seed) -> the arrays, first index the sequence
    source_length: int = 0  # tokens of a source; 0: sequences have none


DATASETS: Registry[Origin] = Registry("data set")


class Dataset(Struct, frozen=True):
    """Sequences to train on and sequences held back, as read-only arrays of equal length by the names that a model's blocks draw."""

    name: str
    source: str
    train: Mapping[str, DataArray]
    validation: Mapping[str, DataArray]

    @property
    def num_train(self) -> int:
        """Sequences to train on."""
        return len(next(iter(self.train.values())))

    @property
    def num_validation(self) -> int:
        """Sequences held back."""
        return len(next(iter(self.validation.values())))

    def steps_per_epoch(self, global_batch: int) -> int:
        """Whole batches of an epoch; the remainder that does not fill one is left out.

        Raises:
            ScenarioError: not even one batch fills.
        """
        if global_batch > self.num_train:
            what = f'global_batch = {global_batch} is above the {self.num_train} sequences that data set "{self.name}" has to train on'
            raise ScenarioError(what, "batch.global_batch", f"Legal: at most {self.num_train}.")
        return self.num_train // global_batch

    def num_steps(self, epochs: int, global_batch: int) -> int:
        """Steps of so many epochs.

        Raises:
            ScenarioError: not even one batch fills.
        """
        return epochs * self.steps_per_epoch(global_batch)

    def rows(self, step: int, global_batch: int, seed: int) -> NDArray[np.int64]:
        """Which sequences of `train` make the batch of a step, counted from 0: each epoch takes them in a fresh order.

        Raises:
            ScenarioError: not even one batch fills.
        """
        epoch, batch = divmod(step, self.steps_per_epoch(global_batch))
        return _order(seed, epoch, self.num_train)[batch * global_batch : (batch + 1) * global_batch]


def names() -> tuple[str, ...]:
    """All known data sets, sorted.

    >>> names()
    ('digit-images', 'digit-words', 'digits', 'praise', 'pydoc-sections', 'pydoc-topics', 'roles', 'translation')
    """
    DATASETS.discover(__name__)
    return DATASETS.names()


def fault(name: str, model: ModelSpec, sequence_length: int, source_length: int = 0) -> str:
    """Why the model cannot be trained on the data set, or ""; nothing is loaded.  A `source_length` of 0 is that of the data set.

    Raises:
        ParsimError: no such data set.
    """
    DATASETS.discover(__name__)
    origin = DATASETS.get(name)
    missing = sorted(_needs(model) - {*origin.gives, _SEGMENT})
    if missing:
        return f'data set "{name}" trains {origin.trains}; model "{model.name}" takes {" and ".join(missing)}, which it has not'
    said = origin.misfit(model, sequence_length)
    if (length := origin.source_length) and source_length not in (0, length):
        said = said or f"source_length = {source_length} must be {length}"
    return f'data set "{name}" trains {origin.trains}; {said}' if said else ""


def too_few(model: ModelSpec, least: Mapping[str, int]) -> str:
    """Which figure of the model is below the least that a data set needs, or ""."""
    short = next((name for name, count in least.items() if getattr(model, name) < count), "")
    return f'{short} = {getattr(model, short)} of model "{model.name}" must be at least {least[short]}' if short else ""


def load(name: str, validation_split: float, seed: int, model: ModelSpec, sequence_length: int, source_length: int = 0) -> Dataset:
    """The data set, shuffled by the seed, its last `validation_split` (a share, rounded down to sequences) held back.

    Raises:
        ScenarioError: the model cannot be trained on it, or the share is not in [0, 1).
        ParsimError: no such data set, or what it is read from is not installed.
    """
    if said := fault(name, model, sequence_length, source_length):
        raise ScenarioError(said, "data.name")
    if not 0 <= validation_split < 1:
        raise ScenarioError(f"must be at least 0 and below 1, not {validation_split}", "data.validation_split")
    origin = DATASETS.get(name)
    whole = dict(origin.rows(model, sequence_length, seed))
    first = whole[origin.gives[0]]
    if _SEGMENT in _needs(model) and _SEGMENT not in whole:
        whole[_SEGMENT] = np.zeros((len(first), sequence_length), np.int64)
    order = np.random.default_rng([seed, zlib.crc32(b"validation split")]).permutation(len(first))
    held_back = int(validation_split * len(first) + _ROUNDING)
    kept, held = order[: len(first) - held_back], order[len(first) - held_back :]
    train, validation = ({each: _read_only(array[rows]) for each, array in whole.items()} for rows in (kept, held))
    return Dataset(name, origin.source, train, validation)


def _needs(model: ModelSpec) -> set[str]:
    """What the blocks of a model draw, less masks, which no data set has."""
    ops = (op for block in blocks_of(model.architecture).values() for op in block.ops)
    return {op.outputs[0] for op in ops if op.kind == "draw" and MASK not in op.dtypes}


@lru_cache(maxsize=2)  # every tensor of a step asks for the same
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return _read_only(np.random.default_rng([seed, epoch]).permutation(count))


def _read_only(array: AnyArray) -> AnyArray:
    array.setflags(write=False)
    return array
