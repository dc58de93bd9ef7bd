"""What makes runs comparable: software, class of training, generation of the accelerator, number of devices, and what was assumed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from parsim.parallel.plan import Plan
    from parsim.scenario import Scenario

# What makes a prediction less sure where it is assumed.  Runs of which heads, vocabulary, dtype or release are assumed were no further off.
UNSURE: Final = frozenset({"micro_batch", "recompute"})
_DECODER: Final = "transformer"
_FAMILIES: Final = ("tpu", "rtx")  # first words of names that span generations
# What a row is called that starts from one of the catalog: an inline one, and one that `parsim calibrate` wrote.
_EDITED: Final = (" (changed)", ", calibrated")
_RELEASE: Final = re.compile(r"-\d+(\.\d+)*$")


class Setting(Struct, frozen=True):
    """What a prediction is of, as far as others are comparable to it."""

    stack: str  # without its release; "" where nobody chose one
    accelerator: str  # its generation
    kind: str  # experts, context parallel, 8 and 4 bits, dense, or the family of another model
    num_devices: int
    num_assumed: int = 0


def setting_of(scenario: Scenario, plan: Plan) -> Setting:
    """That of a plan in its scenario; what other plans leave open is not assumed of it.

    >>> import parsim
    >>> scenario = parsim.load("scenarios/table5-175b.yaml")
    >>> setting_of(scenario, scenario.plan("full"))
    Setting(stack='megatron', accelerator='a100', kind='dense', num_devices=64, num_assumed=0)
    """
    assumed = {each.name for each in scenario.assumed if not each.plan or scenario.plans.get(each.plan) == plan}
    stack = "" if scenario.default_stack or "stack" in assumed else stem(scenario.stack.name)
    generations = dict.fromkeys(generation_of(each.node.accelerator.name) for each in scenario.cluster.kinds)
    return Setting(stack, "+".join(generations), kind_of(scenario, plan), plan.num_devices, len(assumed & UNSURE))


def generation_of(accelerator: str) -> str:
    """The generation of an accelerator: the first word of its name, or two where the first is that of a whole family.

    >>> generation_of("a100-sxm4-80gb"), generation_of("tpu-v6e"), generation_of("rtx-pro-6000")
    ('a100', 'tpu-v6e', 'rtx-pro')
    """
    words = accelerator.split("-")
    return "-".join(words[: 2 if words[0] in _FAMILIES else 1])


def kind_of(scenario: Scenario, plan: Plan) -> str:
    """The class of training: errors of these differ, as the tables of published steps are scored apart."""
    family = scenario.model.architecture.family
    if getattr(scenario.model, "num_experts", 0):
        return "experts"
    if family != _DECODER:
        return family.replace("_", " ")
    if plan.context_parallel > 1:
        return "context parallel"
    return "8 and 4 bits" if scenario.trained_by(plan).batch.recipe.narrows else "dense"


def stem(stack: str) -> str:
    """A stack without its release, and without what a scenario changed of it, or a calibration.

    >>> stem("megatron-bridge-26.06"), stem("torchtitan (changed)"), stem("megatron-2022, calibrated"), stem("megatron-core-local")
    ('megatron-bridge', 'torchtitan', 'megatron', 'megatron-core-local')
    """
    for each in _EDITED:
        stack = stack.removesuffix(each)
    return _RELEASE.sub("", stack)
