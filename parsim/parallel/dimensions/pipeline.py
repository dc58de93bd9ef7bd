"""Pipeline parallelism: layers over `pp`.  It shards no dim of a tensor; stages.py says who holds which layers."""

from parsim.parallel.dimensions import DIMENSIONS, OUTSIDE, Dimension

SOURCE, WAIT = "Huang et al. 2019 (arXiv:1811.06965)", "a message between stages that is on its way"
DIMENSIONS.register("pipeline_parallel", Dimension("pipeline_parallel", "pp", (), SOURCE, nesting=0, waits_for=WAIT, view=OUTSIDE))
