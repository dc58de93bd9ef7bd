"""Tensor parallelism: kv heads with their queries, FFN and vocabulary split over `tp`."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register(
    "tensor_parallel",
    Dimension(
        "tensor_parallel",
        "tp",
        ("K", "F", "V"),
        "Shoeybi et al. 2019 (arXiv:1909.08053), section 3",
        nesting=90,
        waits_for="tensor-parallel collectives that no compute hides",
    ),
)
