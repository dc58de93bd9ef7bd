"""A machine of ranks with named buffers, in lockstep: it computes, communicates and frees, and a ledger counts what each rank did.

Not charged as memory: what a kernel needs inside itself, the flat staging copy of a reduction (the transport's), messages on their way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from parsim_kernels import fabric
from parsim_kernels.bucket import IN_PLACE, NEW_BUFFER, cut_chunks, cut_shards, join, names_by_rank, outcome, write_back, write_gathered
from parsim_kernels.exchange import SlotExchange
from parsim_kernels.fabric import Chunks
from parsim_kernels.kernels import KERNELS, OVERLAYS
from parsim_kernels.ledger import Ledger
from parsim_kernels.memory import Memory, root_of
from parsim_kernels.pool import Into, Pool
from parsim_kernels.signature import Array, Attributes, Out
from parsim_kernels.traffic import touched_bytes
from parsim_kernels.transfer import Transfer
from parsim_kernels.transport import Lockstep


class Machine:
    """`num_ranks` ranks, each with named buffers and a ledger.  The caller issues; nothing here decides.

    Results of kernels and collectives lie in memory of `pool`, which all ranks share; a step that repeats another one needs no more of it.
    A misuse (unknown or taken name, shapes that do not fit) is a ValueError that names rank and buffer.

    >>> import numpy as np
    >>> machine = Machine(1)
    >>> machine.hold(0, "x", np.array([-1.0, 2.0]), itemsize=2)
    >>> machine.compute(0, "relu", ["x"], ["y"], [2], {})
    >>> machine.get(0, "y").tolist(), machine.ledgers[0].flops, machine.ledgers[0].peak_bytes
    ([0.0, 2.0], 2, 8)
    """

    def __init__(self, num_ranks: int) -> None:
        """Create ranks that hold nothing."""
        self.ledgers = [Ledger() for _ in range(num_ranks)]
        self._memories = [Memory(rank, ledger) for rank, ledger in enumerate(self.ledgers)]
        self.pool = Pool()
        self._transport = Lockstep()

    def names(self, rank: int) -> tuple[str, ...]:
        """The names held on a rank, in the order in which they came."""
        return self._memory(rank).names()

    def get(self, rank: int, name: str) -> Array:
        """The buffer itself, not a copy."""
        return self._memory(rank).get(name)

    def hold(self, rank: int, name: str, array: Array, itemsize: int) -> None:
        """Take an array over; the machine may write to it later.

        A view of a held array is charged with it, once; a view of any other array is charged as the whole of it, so copy a shard first.

        Args:
            rank: where it lies.
            name: not yet held there.
            array: float64 or float32, or integers.
            itemsize: bytes an element is charged at.

        Raises:
            ValueError: the name is taken, another rank owns the memory, or the memory is charged at another itemsize.
        """
        own, root = self._memory(rank), root_of(array)
        for other in self._memories:
            if other is not own and other.owns_root(root):
                raise ValueError(f"rank {rank}: buffer {name!r} lies in memory of rank {other.rank}; copy it first")
        own.hold(name, array, itemsize)

    def alias(self, rank: int, name: str, of: str) -> None:
        """Give the buffer `of` a second name; it lives until both are freed."""
        self._memory(rank).alias(name, of)

    def rename(self, rank: int, old: str, new: str) -> None:
        """Give the same buffer another name."""
        self.alias(rank, new, old)
        self.free(rank, old)

    def free(self, rank: int, *names: str) -> None:
        """Forget the names, and release memory with the last name in it."""
        memory = self._memory(rank)
        for name in names:
            memory.free(name)

    def reset_peak(self) -> None:
        """Restart every rank's peak from its live bytes."""
        for ledger in self.ledgers:
            ledger.reset_peak()

    def compute(
        self,
        rank: int,
        kernel: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        itemsizes: Sequence[int],
        attributes: Attributes,
        *,
        accumulate: bool = False,
        in_place: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Run a kernel on a rank, add its FLOPs and what it moves; the outputs are new buffers, charged while the inputs are alive.

        Args:
            rank: where.
            kernel: a name in KERNELS.
            inputs: held buffers, in the kernel's order.
            outputs: names of the results.
            itemsizes: bytes an element of each new buffer; a buffer that exists keeps its own.
            attributes: the kernel's.
            accumulate: the outputs are held already; the results are added to them, as a GEMM with beta = 1 does: no FLOPs, no bytes.
            overwrite: the outputs are held already and the results replace what they hold.
            in_place: the i-th result overwrites the i-th input, whose buffer then bears the output's name too; the caller frees the old.

        Raises:
            ValueError: an unknown kernel or name, a name already taken, shapes that do not fit.
        """
        memory = self._memory(rank)
        if accumulate and in_place:
            raise ValueError(f"rank {rank}: {kernel} cannot both accumulate into {list(outputs)} and run in place")
        if kernel not in KERNELS:
            raise ValueError(f"rank {rank}: no kernel {kernel!r}; there are {', '.join(sorted(KERNELS))}")
        read = memory.charges(inputs)
        arrays = [array for array, _ in read]
        out: Out = self.pool.take
        if in_place and kernel in OVERLAYS:
            out = Into(arrays[: len(outputs)], out)
        elif overwrite:
            out = _over([memory.get(name) for name in outputs], arrays, out)
        try:
            results, flops = KERNELS[kernel](arrays, attributes, out)
        except ValueError as error:
            raise ValueError(f"rank {rank}: {kernel}({', '.join(inputs)}): {error}") from error
        per_result = outputs if accumulate or overwrite else inputs[: len(results)] if in_place else itemsizes
        if not len(results) == len(outputs) == len(per_result):
            raise ValueError(f"rank {rank}: {kernel} has {len(results)} results, not {list(outputs)} with itemsizes {list(itemsizes)}")
        sizes = [each if isinstance(each, int) else memory.itemsize(each) for each in per_result]
        self.ledgers[rank].run(kernel, flops, touched_bytes(kernel, read, list(zip(results, sizes, strict=True)), accumulate=accumulate))
        for i, (name, result) in enumerate(zip(outputs, results, strict=True)):
            if overwrite:
                memory.overwrite(name, result)
            elif accumulate:
                memory.overwrite(name, result, add=True)
            elif in_place:
                memory.overwrite(inputs[i], result)
                if name != inputs[i]:
                    memory.alias(name, inputs[i])
            else:
                memory.hold_result(name, result, itemsizes[i])

    def communicate(
        self,
        operation: str,
        axis: str,
        group: Sequence[int],
        sources: Sequence[str] | Sequence[Sequence[str]],
        target: str | None,
        transfers: Iterable[Transfer],
        *,
        dim: int = 0,
        split: int = 0,
        extents: Sequence[int] | Sequence[Sequence[int]] | None = None,
        operator: Literal["sum", "max"] = "sum",
        exchange: SlotExchange | None = None,
        itemsize: int,
    ) -> None:
        """Run a collective among `group` by its transfers, and count every message at its sender.

        all_reduce, reduce and broadcast change a bucket of buffers in place, as one flat array: all_reduce in np.array_split chunks, one
        a rank; the others in one chunk (after a reduce only the root's is whole).  all_gather joins the shards along `dim` into the new
        buffer `target`, reduce_scatter leaves the own shard there; all_to_all cuts each source along `split`, a part a position, and
        joins the parts for a position along `dim` in the order of the group; shift leaves what the rank before has.  The source stays held.

        Args:
            operation: all_reduce | reduce | broadcast | all_gather | reduce_scatter | all_to_all | shift.
            axis: the mesh axis that the ledger charges.
            group: ranks, in the order of the transfers' positions.
            sources: the bucket's names, the same on every rank, or one list a rank.
            target: the new buffer's name; None where the operation is in place.
            transfers: of this operation among len(group) positions.
            dim: where all_gather and all_to_all join and reduce_scatter cuts.
            split: where all_to_all cuts.
            extents: of each position's part, where reduce_scatter or all_to_all cuts: one list for all ranks, or one a rank;
                None: equal parts.
            operator: what "sum" in the transfers stands for.
            exchange: cuts and joins slots of experts, in place of dim and the like.
            itemsize: bytes an element, on the wire and of the new buffer.

        Raises:
            ValueError: unknown operation or name, shapes that differ, a dim that is not cut so, or transfers that leave a chunk behind.
        """
        names = self._checked_names(operation, group, sources, target, operator)
        buckets = [[self.get(rank, name) for name in bucket] for rank, bucket in zip(group, names, strict=True)]
        asked = (t._replace(operator=operator) if t.operator == "sum" else t for t in transfers)
        try:
            if exchange:
                chunks = [exchange.first_chunks(own, position) for position, (own,) in enumerate(buckets)]
            else:
                chunks = cut_chunks(operation, buckets, dim, group, split=split, extents=extents)
            sent = _run(asked, chunks, itemsize, axis, exchange)
            results = _results(operation, chunks, dim, self.pool.take, exchange)
        except ValueError as error:
            raise ValueError(f"{operation} over {axis} of {names[0]} on ranks {list(group)}: {error}") from error
        for rank, bucket, result, by_link in zip(group, buckets, results, sent, strict=True):
            self.ledgers[rank].call(axis, operation)
            self.ledgers[rank].send_over(by_link)
            if target is None:
                write_back(bucket, result)
            else:
                self._memory(rank).hold_result(target, result, itemsize)

    def exchange_shards(
        self,
        operation: Literal["reduce_scatter", "all_gather"],
        axis: str,
        group: Sequence[int],
        shards: Sequence[Sequence[str]],
        flats: Sequence[Sequence[str]],
        transfers: Iterable[Transfer],
        *,
        itemsize: int,
        add: bool = False,
    ) -> None:
        """Move between whole flat buffers and the shard of each position, a bucket of both on each rank; no new buffer.

        Args:
            operation: reduce_scatter sums the flats and leaves the own part in the shards; all_gather fills the flats from the shards.
            axis: the mesh axis that the ledger charges.
            group: ranks, in the order of the transfers' positions.
            shards: names of the own parts, by position.
            flats: names of the whole buffers, each as long as the shards of all positions.
            transfers: of this operation among len(group) positions.
            itemsize: bytes an element on the wire.
            add: reduce_scatter adds to the shards instead of writing over them.

        Raises:
            ValueError: unknown names, lengths that do not fit, or transfers that leave a chunk behind.
        """
        own = [[self.get(rank, name) for name in names] for rank, names in zip(group, shards, strict=True)]
        whole = [[self.get(rank, name) for name in names] for rank, names in zip(group, flats, strict=True)]
        chunks = cut_shards(operation, own, whole)
        sent = _run(transfers, chunks, itemsize, axis)
        for position, rank in enumerate(group):
            self.ledgers[rank].call(axis, operation)
            self.ledgers[rank].send_over(sent[position])
            if operation == "all_gather":
                write_gathered(whole[position], chunks[position])
                continue
            result = join([chunks[position][position]], 0)
            write_back(own[position], result + np.concatenate(own[position]) if add else result)

    def send(self, src: int, dst: int, name: str, new_name: str, axis: str, itemsize: int) -> None:
        """Post a copy of a buffer to the mailbox of `dst` as `new_name`; the bytes count at `src`, which still holds the buffer."""
        array = self.get(src, name)
        self._transport.post(self._memory(dst).rank, new_name, array)
        self.ledgers[src].call(axis, "send")
        self.ledgers[src].send(axis, array.size * itemsize)

    def receive(self, dst: int, new_name: str, itemsize: int) -> bool:
        """Hold the oldest message of that name as a new buffer of `dst`; False where none has arrived."""
        self._memory(dst).check_free(new_name)
        message = self._transport.take(dst, new_name)
        if message is not None:
            self._memory(dst).hold(new_name, message, itemsize)
        return message is not None

    def receive_over(self, dst: int, new_name: str, target: str) -> bool:
        """Write the oldest message of that name over the buffer `target`, which has as many elements; False where none has arrived."""
        message = self._transport.take(dst, new_name)
        if message is not None:
            self._memory(dst).overwrite(target, message.reshape(self.get(dst, target).shape))
        return message is not None

    def num_waiting(self) -> int:
        """Messages sent and not received, over all ranks; 0 at the end of a correct run."""
        return self._transport.num_waiting()

    def _memory(self, rank: int) -> Memory:
        if not 0 <= rank < len(self._memories):
            raise ValueError(f"rank {rank} is not one of {len(self._memories)} ranks")
        return self._memories[rank]

    def _checked_names(
        self, operation: str, group: Sequence[int], sources: Sequence[str] | Sequence[Sequence[str]], target: str | None, operator: str
    ) -> list[tuple[str, ...]]:
        if operator not in ("sum", "max"):
            raise ValueError(f"{operation} of {sources}: the operator is sum or max, not {operator!r}")
        if operation not in (*IN_PLACE, *NEW_BUFFER):
            raise ValueError(f"no operation {operation!r}; there are {', '.join((*IN_PLACE, *NEW_BUFFER))}")
        if not group or len(set(group)) != len(group):
            raise ValueError(f"{operation}: the group {list(group)} is empty or names a rank twice")
        names = names_by_rank(sources, len(group))
        if operation in IN_PLACE and target is not None:
            raise ValueError(f"{operation} of {names[0]} runs in place: it has no target {target!r}")
        if operation in NEW_BUFFER and (target is None or len(names[0]) != 1):
            raise ValueError(f"{operation} of {names[0]} needs one source and a target, not target {target!r}")
        if target is not None:
            for rank in group:
                self._memory(rank).check_free(target)
        return names


def _run(
    transfers: Iterable[Transfer], chunks: Chunks, itemsize: int, axis: str, exchange: SlotExchange | None = None
) -> list[Counter[str]]:
    """Execute the transfers; bytes that each position sent over each link, message by message."""
    sent = [Counter[str]() for _ in chunks]

    def send(src: int, dst: int, message: Array) -> None:
        sent[src][exchange.link(axis, src, dst) if exchange else axis] += message.size * itemsize

    fabric.run(transfers, chunks, send)
    return sent


def _over(buffers: Sequence[Array], arrays: Sequence[Array], otherwise: Out) -> Out:
    """The buffers that the results replace, where a kernel that still reads `arrays` may write to them."""
    are_apart = not any(np.may_share_memory(buffer, array) for buffer in buffers for array in arrays)
    return Into(buffers, otherwise) if are_apart else otherwise


def _results(operation: str, chunks: Chunks, dim: int, out: Out, exchange: SlotExchange | None) -> list[Array]:
    if exchange:
        return [exchange.join(own, position, out) for position, own in enumerate(chunks)]
    along, num_ranks = dim if operation in NEW_BUFFER else 0, len(chunks)
    return [join(own[outcome(operation, position, num_ranks)], along, out) for position, own in enumerate(chunks)]
