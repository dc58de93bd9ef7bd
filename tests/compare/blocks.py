"""What PyTorch's caching allocator holds beside the tensors of a pipeline's last stage:  python tests/compare/blocks.py

It takes the least block that is large enough and splits it; what it asks of the device it gives back only whole, once the device is full.
Followed tensor by tensor through 4 micro_batches of two steps of Aleph-Alpha/scaling@737f8558 (core/nn and transformer/model), under the
least limit at which they run: kept bf16 logits of two micro_batches, float32 logits, their log-softmax, and two gradients of them.
Source of the rules: PyTorch, c10/cuda/CUDACachingAllocator.cpp (get_free_block, should_split, get_allocation_size, malloc).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

MIB, GIB = 2**20, 2**30
VOCABULARY = 128_000
STAGES = ((40, 1, True), (20, 2, True), (40, 2, True), (10, 4, True), (10, 8, False), (20, 4, False), (20, 8, False))


class OutOfMemoryError(Exception):
    """No block fits, and the device has no room for one."""


@dataclass(eq=False)
class Block:
    """A part of a segment, between its neighbours."""

    size: int
    number: int
    left: Block | None = None
    right: Block | None = None
    free: bool = False


@dataclass
class Allocator:
    """Blocks above 1 MiB; smaller ones have a pool of their own, which holds little."""

    limit: float
    held: int = 0
    live: int = 0
    most_held: int = 0
    most_live: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)

    def take(self, size: float) -> Block:
        """A block for a tensor."""
        wanted = -(-int(size) // 512) * 512
        place = bisect_left(self.free, (wanted, 0))
        block = self._unlist(self.blocks[self.free[place][1]]) if place < len(self.free) else self._segment(wanted)
        if block.size - wanted > MIB:
            rest = self._new(block.size - wanted)
            rest.left, rest.right, block.right, block.size = block, block.right, rest, wanted
            if rest.right:
                rest.right.left = rest
            self._list(rest)
        self.live += block.size
        self.most_live = max(self.most_live, self.live)
        return block

    def drop(self, *blocks: Block) -> None:
        """Gives them back, each joined with free neighbours."""
        for block in blocks:
            self.live -= block.size
            for neighbour in (block.left, block.right):
                if neighbour and neighbour.free:
                    self._join(block, neighbour)
            self._list(block)

    def _join(self, block: Block, neighbour: Block) -> None:
        self._unlist(neighbour)
        block.size += neighbour.size
        if neighbour is block.left:
            block.left = neighbour.left
            if block.left:
                block.left.right = block
        else:
            block.right = neighbour.right
            if block.right:
                block.right.left = block

    def _segment(self, wanted: int) -> Block:
        size = 20 * MIB if wanted < 10 * MIB else -(-wanted // (2 * MIB)) * 2 * MIB
        if self.held + size > self.limit:
            for block in [self.blocks[number] for _, number in self.free]:
                if not block.left and not block.right:
                    self.held -= self._unlist(block).size
        if self.held + size > self.limit:
            raise OutOfMemoryError
        self.held += size
        self.most_held = max(self.most_held, self.held)
        return self._new(size)

    def _new(self, size: int) -> Block:
        block = Block(size, len(self.blocks))
        self.blocks[block.number] = block
        return block

    def _list(self, block: Block) -> None:
        block.free = True
        insort(self.free, (block.size, block.number))

    def _unlist(self, block: Block) -> Block:
        block.free = False
        self.free.remove((block.size, block.number))
        return block


@dataclass(frozen=True)
class Stage:
    """The last stage of a Llama, its weights and states in one piece."""

    layers: int
    hidden: int
    ffn: int
    tokens: int
    tp: int
    recompute: bool

    @property
    def kept(self) -> list[float]:
        """Bytes of what a layer keeps: norms, queries, keys and values, turned ones, attention; norm, four of the MLP."""
        wide, own = 2 * self.tokens * self.hidden, 2 * self.tokens * self.hidden / self.tp
        return [wide, 3 * own, own, own, own, wide, wide, *[2 * self.tokens * self.ffn / self.tp] * 4]

    @property
    def matrices(self) -> list[float]:
        """Bytes of the gradients of a layer's weights."""
        return [2 * self.hidden * each / self.tp for each in (3 * self.hidden, self.hidden, self.ffn, self.ffn, self.ffn)]

    def run(self, memory: Allocator) -> None:
        """Two steps."""
        x, logits = 2 * self.tokens * self.hidden, 2.0 * self.tokens * VOCABULARY
        memory.take(self.layers * sum(self.matrices) + 2 * VOCABULARY * self.hidden / self.tp)
        outputs: list[Block] = []
        for _ in range(2):
            gradients: dict[tuple[int, int], Block] = {}
            memory.drop(*outputs)
            outputs = []
            for _ in range(4):
                inputs = [memory.take(x)]
                kept = [self._layer(memory, inputs) for _ in range(self.layers)]
                self._head(memory, outputs, logits)
                gradients = self._accumulate(memory, gradients, (self.layers, 0), 2 * VOCABULARY * self.hidden / self.tp)
                for layer in reversed(range(self.layers)):
                    gradient = memory.take(x)
                    memory.drop(inputs.pop())
                    own = kept.pop() if not self.recompute else [memory.take(each) for each in self.kept]
                    for place, size in enumerate(self.matrices):
                        gradients = self._accumulate(memory, gradients, (layer, place), size)
                    for block in reversed(own):
                        change = memory.take(block.size)
                        memory.drop(block, change)
                    memory.drop(gradient)
                memory.drop(*inputs)
            memory.drop(*gradients.values())

    def _layer(self, memory: Allocator, inputs: list[Block]) -> list[Block]:
        own = [memory.take(each) for each in self.kept]
        inputs.append(memory.take(2 * self.tokens * self.hidden))
        if self.recompute:
            memory.drop(*own)
        return own

    def _head(self, memory: Allocator, outputs: list[Block], logits: float) -> None:
        shard = memory.take(logits / self.tp)
        parts = [memory.take(logits / self.tp) for _ in range(self.tp)] if self.tp > 1 else []
        whole = memory.take(logits) if self.tp > 1 else shard
        memory.drop(*parts, *([shard] if self.tp > 1 else []))
        outputs.append(whole)
        if len(outputs) > 2:
            memory.drop(outputs.pop(0))
        wide, likely = memory.take(2 * logits), memory.take(2 * logits)
        memory.drop(wide)
        of_losses, of_logits = memory.take(2 * logits), memory.take(2 * logits)
        memory.drop(of_losses, likely)
        narrow = memory.take(logits)
        memory.drop(of_logits, narrow)

    @staticmethod
    def _accumulate(
        memory: Allocator, gradients: dict[tuple[int, int], Block], key: tuple[int, int], size: float
    ) -> dict[tuple[int, int], Block]:
        made = memory.take(size)
        if key in gradients:
            memory.drop(made)
            return gradients
        return {**gradients, key: made}


def least_bytes(stage: Stage) -> tuple[int, int]:
    """What is live at most, and the least that the allocator runs with."""
    free = Allocator(float("inf"))
    stage.run(free)
    low, high = free.most_live, free.most_held
    while high - low > GIB / 4:
        memory = Allocator((low + high) / 2)
        try:
            stage.run(memory)
            high = memory.most_held
        except OutOfMemoryError:
            low = int(memory.limit)
    return free.most_live, high


def main(tokens: Sequence[int] = (8192, 16384)) -> None:
    """Prints a line a stage of Llama 13B."""
    for layers, tp, recompute in STAGES:
        for each in tokens:
            live, least = least_bytes(Stage(layers, 5120, 13824, each, tp, recompute))
            copies, again = (least - live) / (4 * each * VOCABULARY), "full" if recompute else "none"
            sizes = f"{live / GIB:.1f} GiB live, {least / GIB:.1f} held, {copies:.1f} copies"
            print(f"{layers} layers, tp {tp}, {each:,} tokens, {again}: {sizes}")


if __name__ == "__main__":
    main()
