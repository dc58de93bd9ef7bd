"""The gate drops what waited for a core, as /proc tells it; no such file is a sentence."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from parsim.calibrate import samples as kept
from parsim.calibrate.gate import Gate, is_clean, pace_s
from parsim.calibrate.samples import ENOUGH, Samples, at_full_pace, least_pace_s
from parsim.errors import ParsimError


def schedstat(tasks: Path, thread: int, wait_ns: int) -> None:
    (tasks / str(thread)).mkdir(exist_ok=True)
    (tasks / str(thread) / "schedstat").write_text(f"700 {wait_ns} 3\n")


def test_the_wait_of_all_threads_is_the_sum_of_the_second_fields(tmp_path: Path) -> None:
    schedstat(tmp_path, 11, 5000)
    schedstat(tmp_path, 12, 70)
    gate = Gate(tmp_path)
    assert gate.wait_ns() == 5070
    schedstat(tmp_path, 12, 100)
    assert gate.wait_ns() == 5100
    gate.close()


def test_a_thread_that_has_ended_stays_at_what_it_had_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedstat(tmp_path, 11, 5000)
    schedstat(tmp_path, 12, 70)
    gate, read, ended = Gate(tmp_path), os.pread, set[str]()
    assert gate.wait_ns() == 5070

    def pread(file: int, *args: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{file}") in ended:
            raise ProcessLookupError(errno.ESRCH, "No such process")  # what Linux says of it
        return read(file, *args)

    monkeypatch.setattr(os, "pread", pread)
    ended.add(str(tmp_path / "11" / "schedstat"))
    schedstat(tmp_path, 12, 100)
    assert gate.wait_ns() == 5100  # not 100, which would be less than before
    gate.close()


def test_a_gate_outlives_a_thread_of_this_process() -> None:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    gate = Gate()
    before, path = gate.wait_ns(), Path(f"/proc/self/task/{thread.native_id}")
    ends.set()
    thread.join()
    while path.exists():  # the kernel's part of a thread ends a little after Python's
        os.sched_yield()
    assert gate.wait_ns() >= before
    gate.close()


def test_a_thread_that_ends_before_its_file_is_opened_is_none_of_the_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedstat(tmp_path, 11, 5000)
    schedstat(tmp_path, 12, 70)
    opened = os.open

    def gone(path: Path, flags: int) -> int:
        if path.parent.name == "11":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return opened(path, flags)

    monkeypatch.setattr(os, "open", gone)
    gate = Gate(tmp_path)
    assert gate.wait_ns() == 70
    gate.close()


def test_a_machine_without_the_statistics_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match=r"no schedstat below .*\n.*CONFIG_SCHED_INFO"):
        Gate(tmp_path)


def test_a_sample_may_wait_one_hundredth_of_its_time() -> None:
    assert is_clean(1.0, 0.01)
    assert not is_clean(1.0, 0.0101)


def filled() -> Samples:
    samples = Samples()
    for wait_s in (0.0, 0.5, 0.009, 0.2, 0.0):
        samples.add(1.0, wait_s, 1.0)
    return samples


def test_samples_that_waited_are_dropped_and_counted() -> None:
    assert (len(filled().seconds), filled().num_dropped) == (3, 2)


def test_a_gate_that_lets_everything_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "is_clean", lambda wall_s, wait_s: True)
    assert (len(filled().seconds), filled().num_dropped) != (3, 2)


def test_a_core_at_half_its_pace_gives_no_samples() -> None:
    fast, slow = Samples([1.0, 2.0], 3, [5e-5, 1e-4]), Samples([4.0], 0, [5.9e-5])
    assert least_pace_s([fast, slow]) == 5e-5
    kept = [each.at_pace(5e-5) for each in (fast, slow)]
    assert [(each.seconds, each.num_dropped, each.num_slow) for each in kept] == [
        ([1.0], 4, 1),
        ([4.0], 0, 0),
    ]  # 5.9 is near 5


def test_full_pace_is_that_of_as_many_busy_cores() -> None:
    alone, two, slow = Samples([1.0], 0, [5.0]), Samples([1.0, 2.0], 0, [9.0, 10.0]), Samples([3.0], 0, [12.0])
    kept = at_full_pace({"a": alone, "b": two, "c": slow}, {"a": 1, "b": 2, "c": 2}.__getitem__)
    assert [each.seconds for each in kept.values()] == [[1.0], [1.0, 2.0], []]  # 12 is over a fifth above 9


def test_cores_that_are_slower_than_when_they_were_calibrated_give_no_samples() -> None:
    assert at_full_pace({"a": Samples([1.0], 0, [9.0])}, lambda case: 2, {2: 5.0})["a"] == Samples([], 1, [], 1)
    assert at_full_pace({"a": Samples([1.0], 0, [9.0])}, lambda case: 2, {1: 5.0})["a"].seconds == [1.0]


def test_the_pace_is_the_time_of_real_work() -> None:
    assert 0.0 < min(pace_s() for _ in range(20)) < 0.1  # of many, since a busy machine may stop any of them


def test_what_is_typical_is_the_mean_without_the_least_and_the_most_tenth() -> None:
    samples = Samples([90.0, 1.0, 2.0, 3.0, 7.0])
    assert samples.typical_s == 4.0  # of 2, 3 and 7: a tenth of five is less than one sample, so one goes at either end
    assert Samples([float(n) for n in range(20)] + [1e9]).typical_s == 10.0  # of 3 to 17: three of 21 go at either end
    assert samples.enough and not Samples([1.0] * (ENOUGH - 1)).enough
