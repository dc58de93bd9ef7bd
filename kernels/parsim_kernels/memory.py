"""The named buffers of one rank.  The arrays that own the memory are charged, so a view or a second name costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parsim_kernels.ledger import Ledger
from parsim_kernels.signature import Array


@dataclass(slots=True)
class _Owner:
    """An array that owns its memory, and how many names lie in it."""

    array: Array
    itemsize: int
    num_bytes: int
    num_names: int = 0


class Memory:
    """The buffers of `rank`; every allocation and release goes to its ledger.  All misuse is a ValueError naming rank and buffer.

    >>> memory = Memory(0, Ledger())
    >>> whole = np.zeros(6)
    >>> memory.hold("whole", whole, 2); memory.hold("half", whole[:3], 2)
    >>> memory.ledger.live_bytes
    12
    """

    __slots__ = ("_buffers", "_by_name", "_owners", "ledger", "rank")

    def __init__(self, rank: int, ledger: Ledger) -> None:
        """Create an empty memory that charges `ledger`."""
        self.rank = rank
        self.ledger = ledger
        self._buffers: dict[str, Array] = {}
        self._owners: dict[int, _Owner] = {}  # by id of the owning array, which _Owner keeps alive
        self._by_name: dict[str, _Owner] = {}

    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they came."""
        return tuple(self._buffers)

    def get(self, name: str) -> Array:
        """The buffer itself, not a copy.  Raises ValueError where the name is unknown."""
        try:
            return self._buffers[name]
        except KeyError:
            raise ValueError(f"rank {self.rank}: no buffer {name!r}") from None

    def itemsize(self, name: str) -> int:
        """Bytes that an element of a buffer is charged at."""
        self.get(name)
        return self._by_name[name].itemsize

    def charges(self, names: Sequence[str]) -> list[tuple[Array, int]]:
        """The buffers, each with the bytes that an element of it is charged at."""
        try:
            return [(self._buffers[name], self._by_name[name].itemsize) for name in names]
        except KeyError:
            return [(self.get(name), self.itemsize(name)) for name in names]

    def owns(self, array: Array) -> bool:
        """Whether the array lies in memory that some name here keeps."""
        return self.owns_root(root_of(array))

    def owns_root(self, root: Array) -> bool:
        """Whether some name here keeps this array, which owns its memory."""
        return id(root) in self._owners

    def check_free(self, name: str) -> None:
        """Raise ValueError where the name is taken."""
        if name in self._buffers:
            raise ValueError(f"rank {self.rank}: buffer {name!r} is already held")

    def hold(self, name: str, array: Array, itemsize: int) -> None:
        """Name an array; the one that owns its memory is charged [elements x itemsize], once.

        Raises:
            ValueError: the name is taken, or the memory is charged at another itemsize already.
        """
        self._hold(name, array, root_of(array), itemsize)

    def _hold(self, name: str, array: Array, root: Array, itemsize: int) -> None:
        self.check_free(name)
        owner = self._owners.get(id(root))
        if owner is None:
            owner = self._owners[id(root)] = _Owner(root, itemsize, root.size * itemsize)
            self.ledger.allocate(owner.num_bytes)
        elif owner.itemsize != itemsize:
            raise ValueError(f"rank {self.rank}: buffer {name!r} at {itemsize} bytes an element is a view of memory at {owner.itemsize}")
        owner.num_names += 1
        self._buffers[name], self._by_name[name] = array, owner

    def hold_result(self, name: str, result: Array, itemsize: int) -> None:
        """Name a new buffer: it shares no memory with a held one, nor keeps more alive than itself."""
        root = root_of(result)
        if root.size != result.size or self.owns_root(root):
            result = root = result.copy()
        self._hold(name, result, root, itemsize)

    def alias(self, name: str, of: str) -> None:
        """Give the buffer `of` a second name."""
        array, owner = self.get(of), self._by_name[of]
        self._hold(name, array, owner.array, owner.itemsize)

    def free(self, name: str) -> None:
        """Forget a name, and release the memory with the last name in it."""
        self.get(name)
        owner = self._by_name.pop(name)
        owner.num_names -= 1
        del self._buffers[name]
        if not owner.num_names:
            del self._owners[id(owner.array)]
            self.ledger.release(owner.num_bytes)

    def overwrite(self, name: str, result: Array, *, add: bool = False) -> None:
        """Write a result over a buffer, or add it in.

        Raises:
            ValueError: shape or kind of number differ.
        """
        buffer = self.get(name)
        if result is buffer and not add:
            return
        is_castable = result.dtype == buffer.dtype or np.can_cast(result.dtype, buffer.dtype, "same_kind")
        if buffer.shape != result.shape or not is_castable:
            found = f"a result of {result.shape} {result.dtype}"
            raise ValueError(f"rank {self.rank}: {found} does not fit buffer {name!r} of {buffer.shape} {buffer.dtype}")
        if add:
            np.add(buffer, result, out=buffer)
        else:
            buffer[...] = result


def root_of(array: Array) -> Array:
    """The array that owns the memory in which this one lies."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
