"""Elements of what a task reads or writes on one rank: of an operand, or of weights laid end to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from parsim.cost.sizes import Ints, Sizes
from parsim.step.stages import Copies
from parsim.step.structure import Structure
from parsim.step.task import Operand, Part, Value, Weight

Role = Literal["parameters", "packed", "gradients", "narrow_gradients", "optimizer", "quantised", "scales"]
Held = Mapping[str, Copies] | None  # how often a rank holds each segment; None: a pass, through one copy of one segment


def elements(value: Value, sizes: Sizes, held: Held = None) -> Ints:
    """Elements of an operand, or of a bucket over all copies that a rank holds."""
    if isinstance(value, Operand):
        return sizes.elements(value.sharding)
    of_copy: dict[str, Ints] = {}  # of a segment
    for segment, weight in value.weights:
        of_copy[segment] = of_copy.get(segment, 0) + weight_elements(weight, value.part, sizes)
    return sum((own * (1 if held is None else held.get(segment, 0)) for segment, own in of_copy.items()), start=sizes.zero)


def num_bytes(value: Value, sizes: Sizes, held: Held = None) -> Ints:
    """Bytes of the same, as they are stored."""
    if isinstance(value, Operand):
        return sizes.num_bytes(value)
    return elements(value, sizes, held) * sizes.itemsize_bytes[value.dtype]


def weight_elements(weight: Weight, part: Part, sizes: Sizes) -> Ints:
    """Elements of a part of a weight."""
    key = weight.sharding.dims, weight.sharding.axes, weight.group, part
    if part == "scale":
        count, rows, columns = matrices(weight, sizes)
        side = weight.narrow_block
        return count * -(-rows // side) * -(-columns // side) if side else count
    return sizes.once(key, lambda: part_elements(sizes.elements(weight.sharding), sizes.num_ranks(weight.group), part))


def matrices(weight: Weight, sizes: Sizes) -> tuple[Ints, Ints, Ints]:
    """How many matrices of a linear layer a rank holds of a weight, one or an expert each, and their rows and columns."""
    count, rows, columns = (sizes.zero + 1 for _ in range(3))
    for place, dim in enumerate(weight.sharding.dims):
        local = sizes.local(weight.sharding, dim)
        if dim == "E":
            count = count * local
        elif place < weight.narrow_rows:
            rows = rows * local
        else:
            columns = columns * local
    return count, rows, columns


def part_elements(whole: Ints, num_ranks: Ints, part: Part) -> Ints:
    """A weight is flattened and padded to a multiple of its group; each rank owns one of the equal parts (Rajbhandari et al. 2020).

    >>> import numpy as np
    >>> [int(part_elements(np.array(10), np.array(4), part)) for part in ("whole", "shard", "padded")]
    [10, 3, 12]
    """
    shard = -(-whole // num_ranks)
    return {"whole": whole, "shard": shard, "padded": shard * num_ranks}[part]


def lasting_weights(weights: Iterable[Weight], role: Role, structure: Structure) -> list[Weight]:
    """Those that have a buffer in a role: a weight that no linear layer multiplies is not quantised, one that is need be nothing else.

    One that is not trained has no gradient, and no states.
    """
    if role in ("parameters", "packed"):
        weights = [weight for weight in weights if weight.packed is (role == "packed")]
    elif role != "quantised":
        weights = [weight for weight in weights if weight.trained]
    of_narrow, of_wide = role in ("quantised", "scales"), role == "parameters" and structure.narrow_alone
    return [weight for weight in weights if not (of_wide if weight.narrow_rows else of_narrow)]


def lasting_elements(weight: Weight, part: Part, sizes: Sizes) -> Ints:
    """Elements of a part that lasts: nothing is padded for the sake of gradients that are not there."""
    return weight_elements(weight, "whole" if part == "padded" and not weight.trained else part, sizes)


def lasting_parts(structure: Structure) -> dict[Role, Part]:
    """Which part of each weight lives through the whole step: its parameters, optimizer state and, unless they come and go, gradients.

    Source: Rajbhandari et al. 2020 (arXiv:1910.02054), section 5.
    """
    zero_stage = structure.zero_stage
    flat: Part = "padded" if zero_stage else "whole"
    found: dict[Role, Part] = {"parameters": "shard" if zero_stage >= 3 else flat, "optimizer": "shard" if zero_stage else "whole"}
    if structure.packs:
        found["packed"] = "whole"
    if structure.lasting_narrow and not structure.casts_shards:
        found["quantised"] = found["parameters"] if structure.gathers_narrow else "whole"
    if structure.gathers_narrow:
        found["scales"] = "scale"
    if structure.narrow_gradients:
        found["narrow_gradients"] = "whole"
    return {**found, "gradients": "shard" if zero_stage >= 2 else flat} if structure.gradients_last else found
