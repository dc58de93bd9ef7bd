"""Which layers a pipeline stage holds: even, uneven by a stated rule, or the plan's own list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parsim.errors import PlanError
from parsim.parallel.plan import Plan


def _remainder_first(num_layers: int, num_stages: int) -> list[int]:
    each, rest = divmod(num_layers, num_stages)
    return [each + (stage < rest) for stage in range(num_stages)]


def _embedding_and_head(num_layers: int, num_stages: int) -> list[int]:
    """Embedding and head count as a layer each, so the first and the last stage hold one layer less (BLOOM, Zero-Bubble)."""
    if num_stages == 1:
        return [num_layers]
    layers = _remainder_first(num_layers + 2, num_stages)
    layers[0] -= 1
    layers[-1] -= 1
    return layers


SPLITS: Final[dict[str, Callable[[int, int], list[int]]]] = {
    "even": _remainder_first,  # where the stages do not divide the layers, the first stages hold one more
    "remainder_first": _remainder_first,
    "embedding_and_head": _embedding_and_head,
}


def layers_of(plan: Plan, num_layers: int, rule: str) -> tuple[int, ...]:
    """Layers of each (virtual) stage, first stage first.

    Raises:
        PlanError: the plan's own list has the wrong length or sum, or a stage would hold less than nothing.

    >>> layers_of(Plan(pipeline_parallel=4), 10, "even")
    (3, 3, 2, 2)
    """
    layers = plan.layers_per_stage or tuple(SPLITS[rule](num_layers, plan.num_stages))
    if len(layers) != plan.num_stages or sum(layers) != num_layers or min(layers) < 0:
        message = f"layers_per_stage = {list(layers)} does not lay {num_layers} layers on {plan.num_stages} stages"
        raise PlanError(message, remedy=f"give {plan.num_stages} numbers that sum to {num_layers}")
    return layers
