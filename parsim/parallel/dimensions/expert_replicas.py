"""Replicas of experts: the ranks of a stage that expert parallelism leaves hold the same experts, and share out their tokens."""

from parsim.parallel.dimensions import DIMENSIONS, EXPERT, Dimension

SOURCE, WAIT = "Liu et al. 2025 (arXiv:2504.14960), section 3.2", "the sum of gradients of experts over their replicas"
rest = Dimension("expert_replicas", "edp", ("G",), SOURCE, 25, waits_for=WAIT, replicates=True, view=EXPERT, fills=True)
DIMENSIONS.register("expert_replicas", rest)
