"""Collectives of buffers: what each rank is left with and has counted, by its own part over a channel, and by all ranks at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct

from parsim.collectives import COLLECTIVES, names
from parsim_kernels import Channel, Machine
from parsim_kernels.fabric import TransferPlan
from parsim_kernels.part import communicate, exchange_shards

Outcome = tuple[dict[str, tuple[str, tuple[int, ...], bytes]], dict[str, int], dict[tuple[str, str], int], int, int]


class Case(Struct, frozen=True):
    """A collective of buffers of these shapes; with `shards`, of flat buffers of these shapes and their parts."""

    operation: str
    algorithm: str
    shapes: tuple[tuple[int, ...], ...]
    dim: int = 0
    operator: str = "sum"
    dtype: str = "f4"
    apart: bool = False  # elements of the buffers lie apart
    uneven: bool = False  # the shard of rank r is r longer
    shards: bool = False
    add: bool = False
    split: int = 0
    extents: str = ""  # where a dim is cut in unlike parts: "alike" on all ranks, or each rank its "own"

    def parts(self, rank: int, num_ranks: int) -> list[int] | None:
        """0, 1, 2 ... and the rest; each rank's own begin at another position."""
        if not self.extents:
            return None
        dim = self.split if self.operation == "all_to_all" else self.dim
        extents = list(range(num_ranks - 1))
        extents.append(self.shapes[0][dim] + (rank if self.uneven and dim == 0 else 0) - sum(extents))
        first = rank if self.extents == "own" else 0
        return extents[first:] + extents[:first]

    def transfers(self, num_ranks: int) -> Any:
        return COLLECTIVES.get(self.algorithm).transfers(self.operation, num_ranks, self.operator)

    def hold(self, machine: Machine, rank: int, num_ranks: int) -> tuple[list[str], list[str]]:
        """Names of the buffers, and of the shards; random floats, so the order of additions shows."""
        rng = np.random.default_rng([rank, len(self.shapes)])

        def hold(name: str, shape: tuple[int, ...]) -> str:
            whole = (rng.standard_normal((*shape, 2)) * 1e3).astype(self.dtype)
            machine.hold(rank, name, whole[..., 0] if self.apart else whole[..., 0].copy(), 2)
            return name

        longer = rank if self.uneven else 0
        buffers = [hold(f"b{i}", (shape[0] + longer, *shape[1:]) if shape else ()) for i, shape in enumerate(self.shapes)]
        return buffers, [hold(f"s{i}", (shape[0] // num_ranks,)) for i, shape in enumerate(self.shapes)] if self.shards else []

    @property
    def target(self) -> str | None:
        return "target" if self.operation in ("all_gather", "reduce_scatter", "all_to_all") else None


def outcome(machine: Machine, rank: int) -> Outcome:
    ledger, arrays = machine.ledgers[rank], {name: machine.get(rank, name) for name in machine.names(rank)}
    kept = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
    return kept, ledger.sent_bytes, ledger.calls, ledger.live_bytes, ledger.peak_bytes


def parts(channel: Channel, group: list[int], cases: list[Case]) -> list[Outcome]:
    """Each case twice by the caller's part: the second finds used memory in the pool."""
    names()
    found, rank, n = [], channel.rank, len(group)
    for case in cases:
        machine, plan = Machine(n), TransferPlan(case.transfers(n))
        buffers, shards = case.hold(machine, rank, n)
        for _ in range(2):
            if case.shards:
                exchange_shards(machine, channel, case.operation, "dp", group, shards, buffers, plan, itemsize=2, add=case.add)  # type: ignore[arg-type]
                continue
            if case.target in machine.names(rank):
                machine.free(rank, "target")
            communicate(
                *(machine, channel, case.operation, "dp", group, buffers, case.target, plan),
                dim=case.dim,
                split=case.split,
                extents=case.parts(rank, n),
                operator=case.operator,  # type: ignore[arg-type]
                itemsize=2,
            )
        found.append(outcome(machine, rank))
    return found


def at_once(group: list[int], cases: list[Case]) -> list[list[Outcome]]:
    """The same by the machine of all ranks: by rank, then by case."""
    names()
    n, found = len(group), [list[Outcome]() for _ in group]
    for case in cases:
        machine = Machine(n)
        held = [case.hold(machine, rank, n) for rank in group]
        for _ in range(2):
            if case.shards:
                own, whole = [shards for _, shards in held], [buffers for buffers, _ in held]
                machine.exchange_shards(case.operation, "dp", group, own, whole, case.transfers(n), itemsize=2, add=case.add)  # type: ignore[arg-type]
                continue
            for rank in group:
                if case.target in machine.names(rank):
                    machine.free(rank, "target")
            machine.communicate(
                *(case.operation, "dp", group, [buffers for buffers, _ in held], case.target, case.transfers(n)),
                dim=case.dim,
                split=case.split,
                extents=[case.parts(rank, n) for rank in group] if case.extents else None,
                operator=case.operator,  # type: ignore[arg-type]
                itemsize=2,
            )
        for rank in range(n):
            found[rank].append(outcome(machine, rank))
    return found
