"""What goes wrong between an encoder and its decoder is noticed by the formulas, or by the contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import count
from parsim.cost.buckets import num_bytes
from parsim.executor.bind import Bound
from parsim.executor.rank import Rank
from parsim.model import blocks, op_kinds
from parsim.model.families import encoder_decoder
from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.parallel.plan import Batch, Plan
from parsim.step import finish, gradient, lower
from parsim.step.task import Hold, Send
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, machine
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


def _stages_forward_no_gradient(patch: pytest.MonkeyPatch) -> None:
    right = Rank.send

    def send(self: Rank, bound: Bound, task: Send) -> None:
        for name in bound.reads:
            if name.endswith("/d_memory") and self.at["pp"] < 3:
                self.machine.get(self.number, name)[...] = 0
        right(self, bound, task)

    patch.setattr(Rank, "send", send)


def _messages_without_the_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(count, "message_bytes", lambda task, sizes: num_bytes(task.sent[0], sizes))


def _table_of_two_ends(patch: pytest.MonkeyPatch) -> None:
    right = finish._sum

    def _sum(name, group, weights, part):  # type: ignore[no-untyped-def]
        if name.startswith("tied"):
            weights = tuple(each for each in weights if each[0] != "decoder_embedding")
            group = replace(group, homes=tuple(name for name, _ in weights))
        return right(name, group, weights, part)

    patch.setattr(finish, "_sum", _sum)


OVER_STAGES: dict[str, tuple[Patch, str]] = {
    "stages hand on no gradient of the memory": (_stages_forward_no_gradient, "weight gradients"),
    "a message weighs as much as the stream alone": (_messages_without_the_memory, "bytes sent over pp"),
    "the table of targets learns by itself": (_table_of_two_ends, "weight gradients"),
}


def _decoder_sees_what_follows(patch: pytest.MonkeyPatch) -> None:
    right = KERNELS["relative_biases"]
    wrong = {**KERNELS, "relative_biases": lambda inputs, told, *more: right(inputs, {**told, "two_sided": 1}, *more)}
    patch.setattr(machine, "KERNELS", wrong)


def _scores_scaled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "_UNSCALED", blocks._SCALE)


def _biases_of_one_layer(patch: pytest.MonkeyPatch) -> None:
    right = gradient._Derivation.grow

    def grow(self, op, target, *part):  # type: ignore[no-untyped-def]
        call = right(self, op, target, *part)
        return replace(call, inputs=(call.inputs[1], call.inputs[1])) if target == "biases" else call

    patch.setattr(gradient._Derivation, "grow", grow)


OF_T5: dict[str, tuple[Patch, str]] = {
    "a query of the decoder sees what follows it": (_decoder_sees_what_follows, "loss, by hand"),
    "scores of the memory are scaled": (_scores_scaled, "loss, by hand"),
    "the gradient of biases is twice that of the first layer": (_biases_of_one_layer, "weight gradients, by hand"),
}


@pytest.mark.parametrize("mutant", [None, *OF_T5])
def test_what_goes_wrong_with_biases_of_scores_is_noticed(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant:
        OF_T5[mutant][0](monkeypatch)
    own = {"norm": "rms_norm", "norm_last": False, "positions": "relative", "relative_buckets": 8, "relative_distance": 6}
    toy = scenario(model=replace(TRANSLATOR, bias=False, qkv_bias=False, scores_scaled=False, **own), batch=Batch(2, 8), stack=STACKS[0])
    wrong = {check.quantity for check in verify_plan(toy, Plan(), "toy") if not check.ok}
    assert OF_T5[mutant][1] in wrong if mutant else not wrong


@pytest.mark.parametrize("mutant", [None, *OVER_STAGES])
def test_what_goes_wrong_between_stages_of_a_translator_is_noticed(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant:
        OVER_STAGES[mutant][0](monkeypatch)
    toy = scenario(model=TRANSLATOR, batch=Batch(2, 8, source_length=4))
    wrong = {check.quantity for check in verify_plan(toy, Plan(pipeline_parallel=4), "toy") if not check.ok}
    assert OVER_STAGES[mutant][1] in wrong if mutant else not wrong


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_what_goes_wrong_between_encoder_and_decoder_is_noticed(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant:
        MUTANTS[mutant][0](monkeypatch)
    toy = scenario(model=TRANSLATOR, batch=Batch(4, 8), stack=STACKS[2])  # a source as long as a sequence
    wrong = {check.quantity for check in verify_plan(toy, Plan(tensor_parallel=2), "toy") if not check.ok}
    assert MUTANTS[mutant][1] in wrong if mutant else not wrong
