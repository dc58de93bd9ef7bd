"""Data parallelism: the micro_batch split over `dp`.  Weight gradients contract B, so they are partial sums over dp."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("data_parallel", Dimension("data_parallel", "dp", ("B",), "Li et al. 2020 (arXiv:2006.15704)"))
