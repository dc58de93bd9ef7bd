"""The rows of a sweep are what `estimate` and `plan` say, whoever computes them; what is wrong with a point is a row of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict

from parsim import estimate, from_mapping, plan
from parsim.errors import ParsimError
from parsim.sweeps import SweepProgress, SweepResult, sweep, workers
from parsim.sweeps.chunk import SweepQuestion, answer
from parsim.sweeps.points import read_sweep

BASE: dict[str, Any] = {
    "name": "tiny",
    "model": "tiny-gpt",
    "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
    "batch": {"global_batch": 8, "sequence_length": 16},
    "plans": {"a": {"tensor_parallel": 2}, "b": {"pipeline_parallel": 2}},
}
OVER = {"batch.global_batch": [8, 16], "plans.a.tensor_parallel": [1, 3, 2]}
NUM_ASKED = 2 * 2 + 2  # plan a as tp 1 and tp 2, plan b once for all its three points, of each batch


def texts(result: SweepResult) -> list[dict[str, Any]]:
    return [asdict(each) for each in result.rows]


def test_each_row_is_the_estimate_of_its_plan() -> None:
    result = sweep(BASE, over=OVER)
    assert (result.num_points, len(result.rows), result.num_estimated) == (6, 12, NUM_ASKED)
    for row in result.rows:
        batch = {**BASE["batch"], "global_batch": row.changes["batch.global_batch"]}
        plans = {**BASE["plans"], "a": {"tensor_parallel": row.changes["plans.a.tensor_parallel"]}}
        if row.name == "a" and plans["a"]["tensor_parallel"] == 3:
            assert "plans.a.tensor_parallel: tensor_parallel = 3 does not divide num_kv_heads = 2" in row.reason
            assert (row.figures, row.plan) == ({}, {"tensor_parallel": 3})
            continue
        own = estimate(from_mapping({**BASE, "batch": batch, "plans": {row.name: plans[row.name]}}), row.name)
        for name in ("step_s", "tokens_per_s", "mfu", "hfu", "peak_bytes", "capacity_bytes", "fits"):
            assert row.figures[name] == getattr(own, name)
        assert sum(value for name, value in row.figures.items() if f"{name}".removesuffix("_s") in own.breakdown_s) == pytest.approx(
            own.step_s
        )
        assert row.plan["tensor_parallel"] == own.plan.tensor_parallel and not row.reason


def test_processes_say_the_same() -> None:
    assert texts(sweep(BASE, over=OVER, workers=2)) == texts(sweep(BASE, over=OVER))


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(3), lambda: ProcessPoolExecutor(1, get_context("spawn"))])
def test_any_executor_says_the_same_and_stays_open(make: Callable[[], Executor]) -> None:
    with make() as executor:
        assert texts(sweep(BASE, over=OVER, executor=executor, workers=2)) == texts(sweep(BASE, over=OVER))
        assert executor.submit(max, 1, 2).result() == 2


def test_what_does_not_fit_is_a_row_with_its_figures() -> None:
    large = {**BASE, "model": "gpt3-175b"}
    row = sweep(large, plan="a").rows[0]
    assert row.figures["fits"] is False and row.figures["peak_bytes"] > row.figures["capacity_bytes"]
    assert row.reason.startswith("out of memory: a device needs ") and " GiB of 79.1 GiB" in row.reason


def test_the_best_is_the_planners_first_or_the_nearest_where_none_fits() -> None:
    space = {"tensor_parallel": "auto", "pipeline_parallel": "auto", "recompute": ["none", "full"]}
    open_base = {**BASE, "plans": {"s": space}}
    rows = sweep(open_base, over={"model": ["tiny-gpt", "gpt3-175b"], "plans.s.micro_batch": [1, 32]}, plan="best").rows
    assert [row.name for row in rows] == ["s"] * 4
    first = plan(from_mapping({**open_base, "plans": {"s": {**space, "micro_batch": 1}}}), top=1, contention=False).rows[0]
    assert (rows[0].figures["step_s"], rows[0].plan) == (first.step_s, {**rows[0].plan, "recompute": first.plan.recompute})
    assert rows[1].reason.startswith("no legal plan in this space") and not rows[1].figures
    assert rows[2].reason.startswith("out of memory") and rows[2].figures["fits"] is False


def test_the_best_of_a_scenario_without_open_axes_is_that_of_all_plans() -> None:
    row = sweep(BASE, plan="best").rows[0]
    assert (row.name, row.figures["step_s"]) == ("best", plan(from_mapping(BASE), top=1, contention=False).rows[0].step_s)


def test_a_plan_that_only_some_scenarios_have_is_a_row_of_the_others() -> None:
    other = {**BASE, "plans": {"b": BASE["plans"]["b"]}}
    rows = sweep([BASE, other], plan="b").rows
    assert [row.reason for row in rows] == ["", ""]
    with pytest.raises(ParsimError, match="unknown plan 'a'"):
        sweep([BASE, other], plan="a")


def test_where_all_plans_have_open_axes_the_best_of_each_is_asked_for() -> None:
    rows = sweep({**BASE, "plans": {"s": {"tensor_parallel": "auto"}}}).rows
    assert rows[0].name == "s" and rows[0].figures["fits"]


def test_a_second_sweep_takes_all_from_the_cache_unless_told_otherwise(tmp_path: Path) -> None:
    first = sweep(BASE, over=OVER, cache=tmp_path / "c.sqlite")
    told: list[SweepProgress] = []
    again = sweep(BASE, over=OVER, cache=tmp_path / "c.sqlite", progress=told.append)
    assert (first.num_estimated, again.num_estimated, again.num_cached) == (NUM_ASKED, 0, 10)
    assert texts(again) == texts(first)
    anew = sweep(BASE, over=OVER, cache=tmp_path / "c.sqlite", resume=False)
    assert (anew.num_estimated, anew.num_cached, texts(anew)) == (NUM_ASKED, 0, texts(first))
    wider = sweep(BASE, over={**OVER, "batch.global_batch": [16, 32]}, cache=tmp_path / "c.sqlite", progress=told.append)
    assert wider.num_estimated == NUM_ASKED / 2
    assert told[-1] == SweepProgress(12, 12, 5)


def test_names_find_the_same_results(tmp_path: Path) -> None:
    first = sweep(BASE, cache=tmp_path / "c.sqlite")
    other = {**BASE, "name": "other", "model": {"base": "tiny-gpt", "name": "mine"}, "plans": {"z": BASE["plans"]["b"]}}
    again = sweep(other, cache=tmp_path / "c.sqlite")
    assert (again.num_estimated, again.rows[0].figures) == (0, first.rows[1].figures)
    assert (again.rows[0].scenario, again.rows[0].name) == ("other", "z")


def questions(count: int) -> list[tuple[str, SweepQuestion]]:
    points = read_sweep([BASE], over={"seed": list(range(count))}).points
    return [(f"{n}", SweepQuestion(point, "a")) for n, point in enumerate(points)]


class Counted(Executor):
    """Answers at once, and counts what is under way: given, and not yet taken back."""

    def __init__(self) -> None:
        self.given, self.taken, self.most = 0, 0, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        self.most = max(self.most, self.given - self.taken)
        future = Future[Any]()
        future.set_result(fn(*args, **kwargs))
        return future


def test_no_more_chunks_than_workers_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a sweep that is killed repeats at most one chunk a worker: each is kept before another is given out."""
    monkeypatch.setattr(workers, "answer", lambda asked, limit_s, version: ([each.plan for each in asked], 0.1 * len(asked)))
    executor = Counted()
    sizes = []
    for finished in workers.chunks(executor, questions(40), 3):
        executor.taken += 1
        sizes.append(len(finished))
    assert executor.most == 3
    assert sizes[:3] == [8, 8, 8] and sum(sizes) == 40
    assert set(sizes[3:]) <= {1, 2, 3, 4, 5}  # of 0.1 s each


def test_a_chunk_ends_when_its_time_is_up_and_the_rest_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(5)
    results, seconds = answer([each for _, each in asked], 0.0)
    assert len(results) == 1 and seconds > 0
    monkeypatch.setattr(workers, "CHUNK_S", 1e-9)
    found = [pair for finished in workers.chunks(Counted(), asked, 2) for pair in finished]
    assert sorted(found) == sorted((key, results[0]) for key, _ in asked)


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(ParsimError, match=r"a worker has model version \d+, and the process that asks has -1\n  Install the same parsim"):
        answer([], 1.0, -1)


def test_what_travels_is_small_and_plain() -> None:
    chunk = [each for _, each in questions(100)]
    sent = pickle.dumps(chunk)
    assert len(sent) < 2_000 + 100 * 60
    assert b"numpy" not in sent and b"ModelSpec" not in sent


class Broken(Executor):
    """A worker that dies."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        future.set_exception(BrokenExecutor("gone"))
        return future


def test_a_worker_that_dies_is_told_in_words() -> None:
    with pytest.raises(ParsimError, match=r"a worker ended before its work.*\n  Run it again: what was finished is kept"):
        sweep(BASE, executor=Broken())
    with pytest.raises(ParsimError, match="workers = -1 is below 0"):
        sweep(BASE, workers=-1)
