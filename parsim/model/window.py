"""The tokens around it that a query sees, where it does not see all: which pairs those are is counted by parsim.cost.causal."""

from __future__ import annotations

from typing import Final, NamedTuple


class Window(NamedTuple):
    """The tokens that a query sees at most: the last so many, itself among them, and perhaps the next as well, or those of its own chunk;
    0: all.  With `documents`, tokens of each that a sequence is made of, those of its own alone."""

    tokens: int = 0
    chunked: bool = False
    two_sided: bool = False
    documents: tuple[int, ...] = ()

    def pairs(self, length: int) -> int:
        """Pairs of a sequence as MFU counts them: of all tokens length^2, which is twice what a causal mask leaves, and of a window twice
        what it leaves of those, too; the diagonal is left out.  Of one that is two-sided, what it leaves.

        Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B, for all tokens; derived here for a window.

        >>> Window().pairs(8), Window(2).pairs(8), Window(3, chunked=True).pairs(8), Window(2, two_sided=True).pairs(8)
        (64, 28, 22, 22)
        >>> Window(documents=(5, 3)).pairs(8)
        34
        """
        if self.documents:
            alone = self._replace(documents=())
            return sum(alone.pairs(each) for each in self.documents)
        size = min(self.tokens or length, length)
        if self.two_sided:
            return int(length**2 - (length - size) * (length - size + 1))
        if self.chunked:
            return length // size * size**2 + (length % size) ** 2
        return length**2 - (length - size) ** 2

    def share_worked(self, length: int, block: int) -> float:
        """Times its pairs that a kernel works which takes blocks of so many queries and keys whole: all but the window's own are masked.

        A block of queries meets the blocks in which its window begins and ends, and those between; of a causal mask alone the diagonal is
        part of the law.  Derived here.

        >>> [Window(tokens).share_worked(8192, 512) for tokens in (128, 1024, 0)], Window(128).share_worked(256, 512)
        ([8.0, 1.5, 1.0], 1.0)
        """
        if not self.tokens or self.chunked or self.two_sided or self.documents or self.tokens >= length:
            return 1.0
        met = (-(-(self.tokens - 1) // block) + 1) * block
        return max(1.0, min(met, length / 2) / self.tokens)


ALL: Final = Window()
