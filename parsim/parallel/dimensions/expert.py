"""Expert parallelism: experts, and with them the tokens that chose them, split over `ep` of the expert view."""

from parsim.parallel.dimensions import DIMENSIONS, EXPERT, Dimension

SOURCE, WAIT = "Lepikhin et al. 2020 (arXiv:2006.16668), section 3.2", "tokens on their way to experts and back"
DIMENSIONS.register("expert_parallel", Dimension("expert_parallel", "ep", ("E", "X"), SOURCE, 30, waits_for=WAIT, view=EXPERT))
