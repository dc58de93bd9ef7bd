"""What a machine charges as memory, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parsim_kernels import Ledger, Machine
from parsim_kernels.memory import Memory


def holding(**shapes: tuple[int, ...]) -> Machine:
    """A machine of one rank with buffers of ones at 2 bytes an element."""
    machine = Machine(1)
    for name, shape in shapes.items():
        machine.hold(0, name, np.ones(shape), 2)
    return machine


def live(machine: Machine) -> int:
    return machine.ledgers[0].live_bytes


def peak(machine: Machine) -> int:
    return machine.ledgers[0].peak_bytes


def test_a_buffer_is_charged_elements_times_declared_itemsize() -> None:
    machine = holding(x=(3, 4))
    machine.hold(0, "master", np.ones((3, 4)), 4)
    assert live(machine) == 12 * 2 + 12 * 4


def test_views_are_charged_once_and_the_memory_lives_until_the_last_of_them() -> None:
    machine, whole = Machine(1), np.ones((4, 3))
    machine.hold(0, "whole", whole, 2)
    machine.hold(0, "row", whole[1], 2)
    machine.hold(0, "part of a view", whole[:2].T[1], 2)
    assert live(machine) == 24
    machine.free(0, "whole", "row")
    assert live(machine) == 24
    machine.free(0, "part of a view")
    assert live(machine) == 0
    assert peak(machine) == 24


def test_a_view_alone_is_charged_as_the_memory_that_it_keeps() -> None:
    machine = Machine(1)
    machine.hold(0, "shard", np.ones((4, 3))[:1], 2)
    assert live(machine) == 24


def test_an_alias_and_a_new_name_cost_nothing() -> None:
    machine = holding(x=(6,))
    machine.alias(0, "also x", "x")
    machine.rename(0, "x", "y")
    assert machine.names(0) == ("also x", "y")
    assert machine.get(0, "y") is machine.get(0, "also x")
    machine.free(0, "y")
    assert live(machine) == peak(machine) == 12
    machine.free(0, "also x")
    assert live(machine) == 0


def test_a_peak_has_inputs_and_outputs_alive() -> None:
    machine = holding(x=(2, 3), w=(3, 5))
    machine.compute(0, "einsum", ["x", "w"], ["y"], [4], {"expr": "B D, D F -> B F"})
    machine.free(0, "x", "w")
    assert live(machine) == 2 * 5 * 4
    assert peak(machine) == 2 * 3 * 2 + 3 * 5 * 2 + 2 * 5 * 4
    assert machine.ledgers[0].flops == 2 * 2 * 3 * 5
    machine.reset_peak()
    assert peak(machine) == 2 * 5 * 4


def test_a_peak_outlives_what_made_it() -> None:
    machine = holding(x=(6,))
    machine.free(0, "x")
    machine.hold(0, "y", np.ones(4), 2)
    assert (live(machine), peak(machine)) == (8, 12)


def test_a_result_that_is_a_view_becomes_a_buffer_of_its_own() -> None:
    memory, whole = Memory(0, Ledger()), np.ones((4, 3))
    memory.hold_result("row", whole[1], 2)  # the kernel's larger array does not stay alive behind it
    assert memory.ledger.live_bytes == 6
    memory.hold("x", np.ones(5), 2)
    memory.hold_result("y", memory.get("x"), 2)
    assert not np.shares_memory(memory.get("x"), memory.get("y"))
    assert memory.ledger.live_bytes == 6 + 10 + 10


def test_every_output_is_charged_at_its_own_itemsize() -> None:
    machine = holding(q=(1, 3, 2, 1, 4), k=(1, 3, 2, 4), v=(1, 3, 2, 4))
    machine.compute(0, "flash_attention", ["q", "k", "v"], ["o", "lse"], [2, 4], {"scale": 0.5})
    assert live(machine) == 4 * 24 * 2 + 6 * 4  # q k v o of 24 elements, lse of 6


def test_in_place_adds_nothing_and_the_old_name_sees_the_result() -> None:
    machine = holding(x=(3,))
    machine.get(0, "x")[...] = [-1, 0, 2]
    machine.compute(0, "relu", ["x"], ["y"], [2], {}, in_place=True)
    assert machine.get(0, "y") is machine.get(0, "x")
    assert machine.get(0, "x").tolist() == [0, 0, 2]
    assert live(machine) == peak(machine) == 6
    machine.free(0, "x")
    assert machine.get(0, "y").tolist() == [0, 0, 2]


def test_an_optimizer_step_in_place_updates_all_of_its_state_under_the_same_names() -> None:
    machine = holding(weight=(3,), m=(3,), v=(3,), g=(3,))
    adam = {"lr": 0.1, "beta1": 0.5, "beta2": 0.5, "eps": 0.0, "weight_decay": 0.0, "step": 1}
    names = ["weight", "m", "v"]
    machine.compute(0, "adam", [*names, "g"], names, [2, 2, 2], adam, in_place=True)
    # ones everywhere: m = v = 1, corrected by 1 - .5: 2 and 2
    np.testing.assert_allclose(machine.get(0, "weight"), 1 - 0.1 * 2 / np.sqrt(2))
    assert machine.get(0, "m").tolist() == machine.get(0, "v").tolist() == [1, 1, 1]
    assert live(machine) == peak(machine) == 4 * 3 * 2
    assert machine.ledgers[0].flops == 12 * 3


def test_accumulate_adds_to_the_buffer_and_nothing_to_the_memory() -> None:
    machine = holding(x=(2, 3), d_y=(2, 5), d_w=(3, 5))
    machine.compute(0, "einsum", ["x", "d_y"], ["d_w"], [2], {"expr": "B D, B F -> D F"}, accumulate=True)
    assert (machine.get(0, "d_w") == 1 + 2).all()
    assert live(machine) == peak(machine) == (6 + 10 + 15) * 2
    assert machine.ledgers[0].flops == 2 * 2 * 3 * 5


def test_a_sent_buffer_is_counted_at_the_sender_and_held_by_the_receiver_from_its_arrival() -> None:
    machine = Machine(2)
    machine.hold(0, "y", np.arange(6.0).reshape(2, 3), 2)
    assert machine.receive(1, "x", 2) is False
    machine.send(0, 1, "y", "x", "pp", 2)
    machine.get(0, "y")[...] = 0  # what was sent left as it was
    assert machine.num_waiting() == 1
    assert machine.ledgers[1].live_bytes == 0
    assert machine.receive(1, "x", 2) is True
    assert machine.get(1, "x").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [ledger.sent_bytes for ledger in machine.ledgers] == [{"pp": 12}, {}]
    assert machine.ledgers[0].calls == {("pp", "send"): 1}
    assert machine.ledgers[1].live_bytes == machine.ledgers[1].peak_bytes == 12
    assert machine.num_waiting() == 0


def test_messages_of_one_name_arrive_in_their_order() -> None:
    machine = Machine(2)
    for name, value in (("a", 1.0), ("b", 2.0)):
        machine.hold(0, name, np.array([value]), 2)
        machine.send(0, 1, name, "x", "pp", 2)
    for value in (1.0, 2.0):
        machine.receive(1, "x", 2)
        assert machine.get(1, "x").tolist() == [value]
        machine.free(1, "x")


Act = Callable[[Machine], object]
REFUSED: list[tuple[Act, str]] = [
    (lambda m: m.get(0, "z"), "rank 0: no buffer 'z'"),
    (lambda m: m.free(0, "z"), "rank 0: no buffer 'z'"),
    (lambda m: m.rename(0, "z", "y"), "rank 0: no buffer 'z'"),
    (lambda m: m.rename(0, "x", "w"), "rank 0: buffer 'w' is already held"),
    (lambda m: m.hold(0, "x", np.ones(2), 2), "rank 0: buffer 'x' is already held"),
    (lambda m: m.hold(1, "x", m.get(0, "x")[:1], 2), "rank 1: buffer 'x' lies in memory of rank 0"),
    (lambda m: m.hold(0, "half", m.get(0, "x")[:1], 4), "rank 0: buffer 'half' at 4 bytes an element is a view of memory at 2"),
    (lambda m: m.get(2, "x"), "rank 2 is not one of 2 ranks"),
    (lambda m: m.get(-1, "x"), "rank -1 is not one of 2 ranks"),
    (lambda m: m.compute(0, "gellu", ["x"], ["y"], [2], {}), "rank 0: no kernel 'gellu'; there are absmax, adam, add"),
    (lambda m: m.compute(0, "gelu", ["z"], ["y"], [2], {}), "rank 0: no buffer 'z'"),
    (lambda m: m.compute(0, "gelu", ["x"], ["w"], [2], {}), "rank 0: buffer 'w' is already held"),
    (lambda m: m.compute(0, "gelu", ["x"], ["y"], [2, 2], {}), "rank 0: gelu has 1 results"),
    (lambda m: m.compute(0, "gelu", ["x", "w"], ["y"], [2], {}), r"rank 0: gelu\(x, w\): too many values"),
    (lambda m: m.compute(0, "add", ["x", "w"], ["y"], [2], {}), r"rank 0: add\(x, w\): shapes differ: \(2,\), \(3,\)"),
    (lambda m: m.compute(0, "gelu", ["x"], ["w"], [2], {}, accumulate=True), r"of \(2,\) float64 does not fit buffer 'w' of \(3,\)"),
    (lambda m: m.compute(0, "gelu", ["x"], ["y"], [2], {}, accumulate=True), "rank 0: no buffer 'y'"),
    (lambda m: m.compute(0, "row_max", ["x"], ["y"], [2], {}, in_place=True), "does not fit buffer 'x'"),
    (lambda m: m.compute(0, "gelu", ["x"], ["w"], [2], {}, in_place=True), "rank 0: buffer 'w' is already held"),
    (lambda m: m.compute(0, "gelu", ["x"], ["y"], [2], {}, in_place=True, accumulate=True), "cannot both"),
    (lambda m: m.compute(0, "gelu", ["tokens"], ["y"], [2], {}, in_place=True), "float64 does not fit buffer 'tokens' of .* int64"),
    (lambda m: m.send(0, 1, "z", "x", "pp", 2), "rank 0: no buffer 'z'"),
    (lambda m: m.send(0, 7, "x", "x", "pp", 2), "rank 7 is not one of 2 ranks"),
    (lambda m: m.receive(0, "x", 2), "rank 0: buffer 'x' is already held"),
]


@pytest.mark.parametrize("act, message", REFUSED)
def test_misuse_names_rank_and_buffer(act: Act, message: str) -> None:
    machine = Machine(2)
    machine.hold(0, "x", np.ones(2), 2)
    machine.hold(0, "w", np.ones(3), 2)
    machine.hold(0, "tokens", np.array([1, 2]), 2)
    with pytest.raises(ValueError, match=message):
        act(machine)
