"""Back-end 3: numbers.  Walks the very Step that estimate prices on numpy ranks, which count what they really do.

Bytes, FLOPs and peak memory come from the arrays of parsim_kernels; `sizes` only shapes what is drawn.
"""
