"""What goes wrong between an encoder and its decoder is noticed by the formulas, or by the contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.executor.bind import Bound
from parsim.executor.rank import Rank
from parsim.model import op_kinds
from parsim.model.families import encoder_decoder
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.parallel.plan import Batch, Plan
from parsim.step import gradient, lower
from parsim.step.task import Hold
from parsim.verify import verify_plan
from support import STACKS, scenario

TRANSLATOR = EncoderDecoderSpec.of(
    name="toy", num_layers=4, hidden_size=12, ffn_hidden_size=16, num_heads=4, vocab_size=60, max_positions=8
)
Patch = Callable[[pytest.MonkeyPatch], None]


def _attends_to_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(encoder_decoder, "_to_memory", lambda op: op)


def _gradient_begins_at_one(patch: pytest.MonkeyPatch) -> None:
    right = Rank.begin

    def begin(self: Rank, bound: Bound, task: Hold) -> None:
        right(self, bound, task)
        for name in bound.writes:
            self.machine.get(self.number, name)[...] += np.float64(1)

    patch.setattr(Rank, "begin", begin)


def _memory_lasts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lower, "Hold", lambda name, values=(), frees=(): Hold(name, values))


def _encoder_learns_nothing(patch: pytest.MonkeyPatch) -> None:
    right = gradient._Derivation.pass_through

    def pass_through(self, op, target, d_out):  # type: ignore[no-untyped-def]
        if target != "memory":
            yield from right(self, op, target, d_out)

    patch.setattr(gradient._Derivation, "pass_through", pass_through)


def _sines_cost_more(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(op_kinds.COSTS, "sinusoid", replace(op_kinds.COSTS["sinusoid"], per_element=2))


MUTANTS: dict[str, tuple[Patch, str]] = {
    "a decoder attends to itself where it should attend to the memory": (_attends_to_itself, "loss, by hand"),
    "the gradient of the memory begins at one": (_gradient_begins_at_one, "weight gradients, by hand"),
    "no gradient of the memory flows back": (_encoder_learns_nothing, "weight gradients, by hand"),
    "the memory is never let go": (_memory_lasts, "lasting bytes, by hand"),
    "positions cost more than they do": (_sines_cost_more, "FLOPs"),
}


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_what_goes_wrong_between_encoder_and_decoder_is_noticed(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant:
        MUTANTS[mutant][0](monkeypatch)
    toy = scenario(model=TRANSLATOR, batch=Batch(4, 8), stack=STACKS[2])  # a source as long as a sequence
    wrong = {check.quantity for check in verify_plan(toy, Plan(tensor_parallel=2), "toy") if not check.ok}
    assert MUTANTS[mutant][1] in wrong if mutant else not wrong
