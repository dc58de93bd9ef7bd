"""What a question without a scenario file leaves out, and what stands for it; each is said beside the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from parsim import catalog
from parsim.parallel.fault import divisors
from parsim.scenario.document import DEFAULT_STACK, Sections
from parsim.scenario.left_open import FABRIC
from parsim.scenario.rows import resolve

# Tokens of a step.  Source: Grattafiori et al. 2024 (arXiv:2407.21783), section 3.4.1: 4 M at the start, 16 M later.
_STEP_TOKENS: Final = 2**22
# The longest sequence by default.  Source: the same section: 8,192 tokens but for the last stage of long contexts.
_LONGEST: Final = 8192

# By the first word of an accelerator's name: the row that a stack has for it, or that runs there where none is stated ("").
STACK_ON_DEVICE: Final[Mapping[str, Mapping[str, str]]] = {
    "tpu": {"jax-xla": "jax-xla-tpu", "": "jax-xla-tpu"},
    **{name: {"": "neuronx-distributed"} for name in ("trainium1", "trainium2")},
    **{name: {"": "megatron-deepspeed-gaudi"} for name in ("gaudi2", "gaudi3")},
}


def add_defaults(value: dict[str, Any], sections: Sections) -> dict[tuple[str, str], str]:
    """Add to the values what they lack, as far as it follows from `sections`, those without fault; by place why it is so."""
    reasons = {}
    for (section, key), each, why in _defaults(value, sections):
        stated = value.setdefault(section, {})
        if isinstance(stated, dict) and key not in stated:
            stated[key] = each
            reasons[section, key] = why
    return reasons


def _defaults(value: Mapping[str, Any], sections: Sections) -> Iterator[tuple[tuple[str, str], str | int, str]]:
    """Place, value and reason; a later one may follow from an earlier."""
    num_devices = 1
    if (cluster := sections.cluster) and cluster.node is not None:
        node = resolve("nodes", cluster.node)
        _, num_devices = cluster.counts(node.devices_per_node)
        yield ("cluster", "fabric"), node.usual_fabric or FABRIC, "usual for the node" if node.usual_fabric else "by default"
    if sections.model is not None:
        longest = getattr(resolve("models", sections.model), "max_positions", 1)
        length = min(longest, _LONGEST)
        yield ("batch", "sequence_length"), length, "the longest of the model" if length == longest else "by default"
        stated = value["batch"]["sequence_length"] if isinstance(value["batch"], dict) else None
        if type(stated) is int and stated > 0:
            yield ("batch", "global_batch"), _global_batch(stated, num_devices), "by default, about 4 M tokens"


def usual_stack(sections: Sections) -> str:
    """The software of a scenario that states none: that of its devices, where Megatron-LM does not run on them."""
    cluster = sections.cluster
    device = resolve("nodes", cluster.node).accelerator.name if cluster and cluster.node is not None else ""
    return STACK_ON_DEVICE.get(device.partition("-")[0], {}).get("", DEFAULT_STACK)


def _global_batch(sequence_length: int, num_devices: int) -> int:
    """Sequences of about _STEP_TOKENS, which many of the ways to divide the devices divide.

    >>> _global_batch(8192, 16), _global_batch(8192, 48), _global_batch(8192, 768)
    (512, 528, 384)
    """
    wanted = max(_STEP_TOKENS // sequence_length, 1)
    part = max(each for each in divisors(num_devices) if each <= wanted)
    return round(wanted / part) * part


def node_called(name: str) -> str:
    """The node that people mean by a name: its own, or the first of those with the accelerator of that name, whole or in part.

    >>> node_called("dgx-h100"), node_called("h200-sxm5-141gb"), node_called("A100-40GB"), node_called("abacus")
    ('hgx-h100-80gb', 'hgx-h200', 'dgx-a100-40gb', 'abacus')
    """
    if found := catalog.find("nodes", name):
        return found
    devices = catalog.rows_meant("accelerators", name)
    rows = ((each, catalog.row("nodes", each)) for each in catalog.names("nodes"))
    return next((each for each, row in rows if row["accelerator"] in devices and row["devices_per_node"] > 1), name)


def stack_on(stack: str, node: str) -> str:
    """The row of a stack on the devices of a node.

    >>> stack_on("jax-xla", "tpu-v5p-8x8x8"), stack_on("jax-xla", "hgx-h100-80gb"), stack_on("torchtitan", "abacus")
    ('jax-xla-tpu', 'jax-xla', 'torchtitan')
    """
    row = catalog.find("nodes", node_called(node))
    device = str(catalog.row("nodes", row)["accelerator"]).partition("-")[0] if row else ""
    return STACK_ON_DEVICE.get(device, {}).get(stack, stack)
