"""Context parallelism that trades tokens for heads: attention sees whole sequences of some heads (DeepSpeed-Ulysses)."""

from parsim.parallel.dimensions.context import register_kind, zigzag

register_kind("ulysses", ("A",), "Jacobs et al. 2023 (arXiv:2309.14509), section 3.1", zigzag)
