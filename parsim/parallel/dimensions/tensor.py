"""Tensor parallelism: kv heads with their queries, groups of Mamba heads, FFN, shared experts and vocabulary split over `tp`."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

SOURCE, WAIT = "Shoeybi et al. 2019 (arXiv:1909.08053), section 3", "tensor-parallel collectives that no compute hides"
DIMENSIONS.register("tensor_parallel", Dimension("tensor_parallel", "tp", tuple("KAFLVWadg"), SOURCE, nesting=90, waits_for=WAIT))
