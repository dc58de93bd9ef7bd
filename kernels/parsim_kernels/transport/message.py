"""Messages as blocks: a header in front, the payload cut to slots, and each block applied as it arrives."""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from parsim_kernels.signature import Array
from parsim_kernels.transfer import Operator
from parsim_kernels.transport.channel import Incoming, Message, Outgoing
from parsim_kernels.transport.errors import TransportError

HEADER_BYTES: Final = 192
_FIXED: Final = Struct("=qqq8sq")  # tag, clock, payload bytes, dtype, dims
_MAX_DIMS: Final = 16  # extents of 8 bytes that the header holds behind the fixed part
_EXTENTS: Final = tuple(Struct(f"={num_dims}q") for num_dims in range(_MAX_DIMS + 1))
_HEADERS: Final = tuple(Struct(f"{_FIXED.format}{num_dims}q") for num_dims in range(_MAX_DIMS + 1))
_PLAIN: Final = frozenset("?bBhHiIlLqQefd")  # dtypes whose memory a memoryview copies, which takes a third of numpy's time for few bytes
_OPERATORS: Final = {"sum": np.add, "max": np.maximum}


class Slot(NamedTuple):
    """Room for one block."""

    header: memoryview
    payload: Array  # uint8


class Departing:
    """A message on its way out."""

    __slots__ = ("_data", "_header", "_offset", "_sent", "_step", "dst", "gone", "tag")

    def __init__(self, outgoing: Outgoing, slot_bytes: int) -> None:
        """Start a message; the array is not copied unless its elements lie apart."""
        array = raw(outgoing.array)
        self.dst, self.tag, self.gone, self._offset, self._sent = outgoing.dst, outgoing.tag, False, 0, 0
        check_dims(outgoing, array)
        self._header = _HEADERS[array.ndim].pack(self.tag, outgoing.clock, array.nbytes, _code(array.dtype), array.ndim, *array.shape)
        self._data = array.reshape(-1).view(np.uint8)
        self._step = slot_bytes - slot_bytes % (array.itemsize or 1)

    def fill(self, slot: Slot) -> int:
        """Write the next block; returns its payload [bytes]."""
        start = self._offset
        if start + self._sent == 0:
            slot.header[: len(self._header)] = self._header
        size = self._data.size
        num_bytes = min(self._step, size - start)
        if num_bytes:
            slot.payload[:num_bytes] = self._data[start : start + num_bytes]
        self._offset = start + num_bytes
        self.gone = self._offset >= size
        return num_bytes

    def detach(self) -> None:
        """Copy what has not left, so the sender may write to its array."""
        self._data, self._sent, self._offset = self._data[self._offset :].copy(), self._sent + self._offset, 0


class Arriving:
    """A message on its way in: `land` says where it goes, `take` applies a block."""

    __slots__ = ("_function", "_into", "_offset", "_own", "_step", "array", "clock", "dtype", "index", "left", "shape", "tag")

    def __init__(self, tag: int, clock: int, num_bytes: int, dtype: np.dtype[np.generic], shape: tuple[int, ...], slot_bytes: int) -> None:
        """Start a message of which no block has been applied."""
        self.tag, self.clock, self.left, self.dtype, self.shape = tag, clock, num_bytes, dtype, shape
        self._step, self._offset = slot_bytes - slot_bytes % (dtype.itemsize or 1), 0

    @classmethod
    def from_slot(cls, slot: Slot, slot_bytes: int) -> Arriving:
        """Read the header."""
        tag, clock, num_bytes, code, num_dims = _FIXED.unpack_from(slot.header)
        return cls(tag, clock, num_bytes, _dtype(code), _EXTENTS[num_dims].unpack_from(slot.header, _FIXED.size), slot_bytes)

    def land(self, index: int | None, incoming: Incoming | None) -> None:
        """Choose the destination: that of the `index`-th Incoming, or a new array."""
        self.index = index
        if incoming is None or incoming.into is None:
            self.array = np.empty(self.shape, self.dtype) if incoming is None else incoming.out(self.shape, self.dtype)
            self._function, self._own = None, None
        else:
            self.array = incoming.into
            check_fits(self.dtype, self.shape, incoming)
            self._function = _function(incoming.operator)
            self._own = (incoming.into if incoming.own is None else incoming.own).reshape(-1)
        self._into = self.array.reshape(-1)

    def take(self, slot: Slot) -> None:
        """Apply the next block."""
        num_bytes = min(self._step, self.left)
        if num_bytes:
            block = slot.payload[:num_bytes].view(self.dtype)
            start, stop = self._offset, self._offset + block.size
            if self._function is None:
                self._into[start:stop] = block
            else:
                assert self._own is not None
                self._function(self._own[start:stop], block, out=self._into[start:stop])
            self._offset = stop
            self.left -= num_bytes


def write_whole(outgoing: Outgoing, array: Array, slot: Slot) -> int:
    """Write a message of one block, whose array is that of `raw`; returns its payload [bytes].  As Departing, but for few bytes faster."""
    check_dims(outgoing, array)
    num_bytes, dtype = array.nbytes, array.dtype
    _HEADERS[array.ndim].pack_into(slot.header, 0, outgoing.tag, outgoing.clock, num_bytes, _code(dtype), array.ndim, *array.shape)
    if num_bytes and dtype.char in _PLAIN and dtype.isnative:
        slot.payload.data[:num_bytes] = array.data.cast("B")
    elif num_bytes:
        slot.payload[:num_bytes] = array.reshape(-1).view(np.uint8)
    return num_bytes


def take_whole(incoming: Incoming, slot: Slot) -> Message | None:
    """The message in this block, applied; None where it has another tag, or more blocks.  As Arriving, but for few bytes faster."""
    tag, clock, num_bytes, code, num_dims = _FIXED.unpack_from(slot.header)
    if tag != incoming.tag or num_bytes > slot.payload.size:
        return None
    dtype, shape = _dtype(code), _EXTENTS[num_dims].unpack_from(slot.header, _FIXED.size)
    if incoming.into is None and dtype.char in _PLAIN and dtype.isnative:
        array = incoming.out(shape, dtype)
        if num_bytes:
            array.data.cast("B")[:] = slot.payload.data[:num_bytes]
        return Message(array, clock)
    block = slot.payload[:num_bytes].view(dtype).reshape(shape)
    if incoming.into is None:
        array = incoming.out(shape, dtype)
        array[...] = block
        return Message(array, clock)
    return Message(combine(incoming, block), clock)


def check_dims(outgoing: Outgoing, array: Array) -> None:
    """Raise unless a header can describe the array.

    Raises:
        TransportError: it has too many dims.
    """
    if array.ndim > _MAX_DIMS:
        raise TransportError(f"an array to rank {outgoing.dst} has {array.ndim} dims; a message has at most {_MAX_DIMS}")


def raw(array: Array | bytes) -> Array:
    """A contiguous array of plain numbers.

    Raises:
        TransportError: its elements are Python objects.
    """
    if not isinstance(array, np.ndarray):
        return np.frombuffer(array, np.uint8)
    if array.dtype.hasobject:
        raise TransportError(f"an array of dtype {array.dtype} holds Python objects; a message holds numbers")
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def combine(incoming: Incoming, array: Array) -> Array:
    """Apply a message that lies whole in memory; returns where it went."""
    if incoming.into is None:
        return array
    check_fits(array.dtype, array.shape, incoming)
    function = _function(incoming.operator)
    if function is None:
        incoming.into[...] = array
    else:
        function(incoming.into if incoming.own is None else incoming.own, array, out=incoming.into)
    return incoming.into


def check_fits(dtype: npt.DTypeLike, shape: tuple[int, ...], incoming: Incoming) -> None:
    """Raise unless a message can be written to, and combined with, the arrays of an Incoming.

    Raises:
        TransportError: another dtype or shape, or elements that lie apart.
    """
    for array in (incoming.into, incoming.own):
        if array is None or (array.dtype == dtype and array.shape == shape and array.flags.c_contiguous):
            continue
        what = f"a message of rank {incoming.src} with tag {incoming.tag}"
        if array.dtype != dtype or array.shape != shape:
            raise TransportError(f"{what} is {dtype} of shape {shape}; it meets {array.dtype} of shape {array.shape}")
        raise TransportError(f"{what} meets an array whose elements lie apart")


def _function(operator: Operator) -> np.ufunc | None:
    if operator == "copy":
        return None
    if operator not in _OPERATORS:
        raise TransportError(f"the operator is none of copy, sum, max: {operator!r}")
    return _OPERATORS[operator]


@cache
def _code(dtype: np.dtype[np.generic]) -> bytes:
    code = dtype.str.encode()
    if len(code) > 8 or dtype.names:
        raise TransportError(f"an array of dtype {dtype} cannot be sent; send its bytes")
    return code


@cache
def _dtype(code: bytes) -> np.dtype[np.generic]:
    return np.dtype(code.rstrip(b"\0").decode())
