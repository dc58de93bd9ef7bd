"""The checks of what feeds a step can fail: each wrong rule below turns one red."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from feed_by_hand import unlike_by_hand, unlike_lines
from parsim.feed import events, stages, supply
from parsim.feed.closed_forms import mm1k_stall
from parsim.feed.jitter import draw
from parsim.feed.line import pass_through


def test_without_a_mutant_all_is_green() -> None:
    assert not unlike_by_hand() and not unlike_lines(range(60))


def test_a_place_more_between_stages_begins_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    right = events._Places.__init__
    monkeypatch.setattr(events._Places, "__init__", lambda self, env, room: right(self, env, room + 1))
    assert unlike_lines(range(60))


def test_a_step_that_does_not_wait_for_its_batch_begins_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(self: Any) -> Any:
        self.held = max(0, self.held - 1)
        yield from ()

    monkeypatch.setattr(events._Places, "take", take)
    assert unlike_lines(range(60))


def test_a_place_more_is_another_queue_than_that_of_the_closed_form() -> None:
    made, steps = draw([10**6, 10**6], 1.0, seed=3, count=20_000)
    found = np.mean(steps) + pass_through([made], steps, 2).stall_ps(500)
    assert found != pytest.approx(1e6 * (1 + mm1k_stall(1.0, 1.0, 1)), rel=0.03)


@pytest.mark.parametrize(
    ("field", "reds"),
    [
        ("stored_bytes", {"storage", "a node's share", "requests in flight"}),
        ("device_bytes", {"host memory"}),
        ("sequences", {"requests in flight"}),
    ],
)
def test_a_load_that_is_a_half_more_is_noticed(field: str, reds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = stages.load_of

    def load_of(*args: Any) -> stages.FeedLoad:
        load = right(*args)
        return replace(load, **{field: getattr(load, field) * 3 // 2})

    monkeypatch.setattr(supply, "load_of", load_of)
    assert unlike_by_hand() & reds == reds


def test_readers_that_are_counted_on_the_wrong_node_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = stages.readers_of
    monkeypatch.setattr(supply, "readers_of", lambda *args: replace(right(*args), on_a_node=1))
    assert unlike_by_hand() == {"a node's share", "host memory"}


def test_a_batch_that_is_copied_but_once_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_COPIES", 1)
    assert unlike_by_hand() == {"host memory"}
