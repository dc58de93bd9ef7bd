"""The gate drops what waited for a core, as /proc tells it; no such file is a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsim.calibrate import samples as kept
from parsim.calibrate.gate import Gate, is_clean
from parsim.calibrate.samples import ENOUGH, Samples
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


def test_a_machine_without_the_statistics_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match=r"no schedstat below .*\n.*CONFIG_SCHED_INFO"):
        Gate(tmp_path)


def test_a_sample_may_wait_one_hundredth_of_its_time() -> None:
    assert is_clean(1.0, 0.01)
    assert not is_clean(1.0, 0.0101)


def filled() -> Samples:
    samples = Samples()
    for wait_s in (0.0, 0.5, 0.009, 0.2, 0.0):
        samples.add(1.0, wait_s)
    return samples


def test_samples_that_waited_are_dropped_and_counted() -> None:
    assert (len(filled().seconds), filled().num_dropped) == (3, 2)


def test_a_gate_that_lets_everything_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "is_clean", lambda wall_s, wait_s: True)
    assert (len(filled().seconds), filled().num_dropped) != (3, 2)


def test_what_is_typical_is_a_low_quantile_of_the_clean_samples() -> None:
    samples = Samples([5.0, 1.0, 2.0, 3.0, 4.0])
    assert samples.typical_s == 2.0  # the second of five: a quarter lies below
    assert samples.enough and not Samples([1.0] * (ENOUGH - 1)).enough
