"""Ulysses inside a group, as a node, and a ring between groups: heads are traded where links are fast, keys go round beside attention.

A group holds two chunks of a sequence, one from each end, which its ranks cut into equal parts; Megatron Core has the same pairs of query
and key with the chunks of a group dealt out to its ranks in turn.
"""

from parsim.parallel.dimensions.context import register_kind, zigzag

SOURCE = "Fang and Zhao 2024 (arXiv:2405.07719), section 3; Megatron Core, hierarchical_context_parallel_sizes with cp_comm_type a2a+p2p"
register_kind("ulysses_ring", ("Q", "Z"), SOURCE, zigzag, inside=("A",))
