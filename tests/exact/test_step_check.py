"""Every Step is sound, whatever features, stack and phases: reads exist, frees are of what lives, streams and groups are known.

The default tier has so many triples that each legal pair is in one; the rest are in the slow tier.  What a fault looks like:
tests/mutants/test_step_mutants.py.
"""

from __future__ import annotations

import pytest

from parsim.parallel.plan import Stack
from parsim.schedules.phase import SPLIT, WHOLE
from parsim.step.check import faults
from parsim.step.lower import lower
from parsim.step.structure import Structure
from support import STACKS, covering, feature_sets, tiered, with_features

FEW = covering(3)
SETS = [tiered(names, "-".join(names), slow=names not in FEW) for names in feature_sets(3)]


@pytest.mark.parametrize("names", SETS)
def test_every_step_of_up_to_three_features_is_sound_on_every_stack_and_chain_of_phases(names: tuple[str, ...]) -> None:
    for stack in STACKS:
        assert not _faults(names, stack), stack


def _faults(names: tuple[str, ...], stack: Stack) -> list[str]:
    scenario, plan = with_features(names, stack)
    step = lower(Structure.of(scenario.model, scenario.batch, plan, stack))
    return [fault for phases in (WHOLE, SPLIT) for fault in faults(step, phases)]
