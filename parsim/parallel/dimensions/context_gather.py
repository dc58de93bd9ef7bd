"""Context parallelism that gathers keys and values for the queries of each rank, over chunks that balance a causal mask or not."""

from parsim.parallel.dimensions.context import register_kind, zigzag

SOURCE = "Grattafiori et al. 2024 (arXiv:2407.21783), section 3.3.2"
register_kind("all_gather", ("Q",), SOURCE, zigzag)
register_kind("contiguous", ("Q",), "the same, of neighbouring tokens: the last rank has most pairs")
