"""Tensor parallelism: kv heads with their queries, groups of Mamba heads, FFN, shared experts and vocabulary split over `tp`; of a
vision tower heads and FFN, and the inside of the projector behind it; of a chain of dense layers the units of each second one."""

from parsim.model.dims import CUT_UNITS
from parsim.parallel.dimensions import DIMENSIONS, Dimension

SHARDS = (*"KAFLVWadg", "Ki", "Ai", "Fi", "Fp", *CUT_UNITS)
SOURCE, WAIT = "Shoeybi et al. 2019 (arXiv:1909.08053), section 3", "tensor-parallel collectives that no compute hides"
DIMENSIONS.register("tensor_parallel", Dimension("tensor_parallel", "tp", SHARDS, SOURCE, nesting=90, waits_for=WAIT))
