"""Expert tensor parallelism: the FFN of each expert split over `etp`, whatever tensor parallelism splits outside experts."""

from parsim.parallel.dimensions import DIMENSIONS, EXPERT, Dimension

SOURCE = "Liu et al. 2025 (arXiv:2504.14960), section 3.2: MoE parallel folding"
WAIT = "tokens that the ranks of an expert gather, and their sums"
DIMENSIONS.register(
    "expert_tensor_parallel", Dimension("expert_tensor_parallel", "etp", ("J", "be"), SOURCE, 95, waits_for=WAIT, view=EXPERT)
)
