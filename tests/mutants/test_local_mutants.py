"""The checks of replicas that train apart can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from parsim import Plan
from parsim.estimator import memory
from parsim.executor import calls, job, weights
from parsim.model.families.mlp import MlpSpec
from parsim.parallel.plan import Batch
from parsim.step.structure import Structure
from parsim.verify import verify_plan
from support import forget_steps, scenario

Patch = Callable[[pytest.MonkeyPatch], None]
_MODEL = MlpSpec(name="toy mlp", num_layers=2, hidden_size=8, ffn_hidden_size=8, num_features=4, num_labels=4, activation="relu")
_TOY = scenario(model=_MODEL, batch=Batch(4, 1, "bf16"))
_PLAN = Plan(data_parallel=2, gradient_sync="local_sgd", local_steps=2, outer_optimizer="nesterov", micro_batch=2)


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    forget_steps()
    yield
    forget_steps()


def _told(**others: Callable[[float], float]) -> Patch:
    """What the outer optimizer is told, made wrong."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = calls._WeightKernel.attributes

        def attributes(self):  # type: ignore[no-untyped-def]
            found = right(self)
            return {**found, **{name: wrong(found[name]) for name, wrong in others.items()}} if "replicas" in found else found

        patch.setattr(calls._WeightKernel, "attributes", attributes)

    return mutate


def _misses_a_sum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job.Job, "syncs", lambda self, step: step == 1)


def _comes_together_too_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job.Job, "syncs", lambda self, step: step in (0, 3))


def _takes_the_mean_over_all_sequences(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job, "OF_BATCH", ("nothing",))


def _still_sums_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Structure, "ranks_of_sum", lambda self, group: group)


def _begins_with_no_anchor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(weights, "ANCHOR", "nothing")


def _forgets_the_anchor_in_memory(patch: pytest.MonkeyPatch) -> None:
    right = memory.state_bytes
    patch.setattr(memory, "state_bytes", lambda structure, sizes: right(structure, sizes) - 4)


MUTANTS: dict[str, tuple[Patch, str]] = {
    "a missed sum": (_misses_a_sum, "bytes sent over dp"),
    "a sum too soon": (_comes_together_too_soon, "weights, by hand"),
    "a sum in place of a mean": (_told(replicas=lambda count: 1), "weights, by hand"),
    "momentum of the wrong sign": (_told(momentum=lambda share: -share), "weights, by hand"),
    "a step forward": (_told(lr=lambda rate: -rate), "weights, by hand"),
    "the mean over all sequences": (_takes_the_mean_over_all_sequences, "weights, by hand"),
    "gradients that are still summed": (_still_sums_gradients, "weights, by hand"),
    "no anchor": (_begins_with_no_anchor, "weights, by hand"),
    "an anchor that costs nothing": (_forgets_the_anchor_in_memory, "peak bytes"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_period_turns_its_check_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, quantity = MUTANTS[name]
    mutate(monkeypatch)
    with np.errstate(all="ignore"):
        assert quantity in {check.quantity for check in verify_plan(_TOY, _PLAN, "wrong") if not check.ok}
