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


ALL: Final = Window()
