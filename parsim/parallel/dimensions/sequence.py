"""Sequence parallelism (Megatron's): the residual stream's T split over `tp`; a block's S stays whole, so entering a block
gathers and leaving it scatters."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

SOURCE = "Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.2"
DIMENSIONS.register("sequence_parallel", Dimension("sequence_parallel", "tp", ("T", "t"), SOURCE, None))
