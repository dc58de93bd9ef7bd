"""Ring attention: keys and values stay with their tokens and go round from rank to rank, beside attention to the block at hand."""

from parsim.parallel.dimensions.context import register_kind, zigzag

register_kind("ring", ("Q", "Z"), "Liu et al. 2023 (arXiv:2310.01889), section 3; chunks as in Megatron Core's p2p", zigzag)
