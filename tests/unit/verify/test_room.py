"""A run that would take more memory than there is ends before anything of it is allocated, with what it would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsim import execute, load
from parsim.errors import CapacityError
from parsim.scenario import from_mapping
from parsim.verify import room
from parsim.verify.room import check_room, free_bytes, run_bytes
from parsim_kernels import TransportError, shared_bytes
from parsim_kernels.transport.segment import SharedSegment

SCENARIOS = Path(__file__).parents[3] / "scenarios"


@pytest.mark.parametrize("name", ["data_parallel", "layers", "columns_and_rows"])
def test_what_a_run_takes_is_what_its_ranks_count_and_return(name: str) -> None:
    mlp = load(SCENARIOS / "digits-mlp.yaml")  # in fp32: float32 is stored as it is charged
    found = execute(mlp, name, num_steps=1, precision="float32")
    weights = sum(array.nbytes for each in found.weights for array in each.values())
    held = sum(ledger.peak_bytes for ledger in found.ledgers)
    assert run_bytes(mlp, mlp.plan(name), "float32", "lockstep") == int(room._AT_WORK * (held + 2 * weights))
    assert run_bytes(mlp, mlp.plan(name), "float64", "lockstep") > 1.9 * room._AT_WORK * (held + 2 * weights)


def test_more_memory_than_is_free_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = load(SCENARIOS / "tiny.yaml")
    monkeypatch.setattr(room, "free_bytes", lambda: iter([2_000_000, 10**12]))
    with pytest.raises(CapacityError, match=r"executing tensor on 4 ranks would take about \d+ MB of memory, and 2 MB are free here"):
        check_room(tiny, tiny.plan("tensor"), "tensor", precision="float64", transport="shared_memory")
    check_room(tiny, tiny.plan("tensor"), "tensor", precision="float64", transport="mpi")  # whose ranks lie on any machine


def test_thousands_of_processes_and_what_lies_between_them_are_counted() -> None:
    cluster = {"node": "hgx-h100-80gb", "num_nodes": 250, "fabric": "ib-ndr-8rail"}
    batch = {"global_batch": 2000, "sequence_length": 8, "dtype": "bf16"}
    many = from_mapping({"model": "tiny-gpt", "cluster": cluster, "batch": batch, "plans": {"dp": {}}})
    asked = many, many.plan("dp"), "float64"
    assert run_bytes(*asked, "shared_memory") > run_bytes(*asked, "lockstep") + shared_bytes(2000) > 2 * 2000**2 * 4096


def test_no_shared_file_is_made_that_the_memory_does_not_hold() -> None:
    with pytest.raises(TransportError, match=r"no shared memory of 34[0-9]+ bytes for 20000 ranks: Cannot allocate memory"):
        SharedSegment.create(20_000, 4096)


def test_what_a_control_group_keeps_of_files_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux, Documentation/admin-guide/cgroup-v2.rst: memory.current counts pages of files, given up before any is refused."""
    for name, text in {"max": "1000", "current": "990", "stat": "anon 300\nfile 690\ninactive_file 400\nactive_file 200\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    assert 1000 - (990 - 400 - 200) in [*free_bytes()]  # of 690 of files 90 are shared memory, which stays
    (tmp_path / "memory.stat").unlink()
    assert 10 in [*free_bytes()]


def test_the_memory_that_is_free_is_known_here() -> None:
    assert all(each > 0 for each in free_bytes()) and [*free_bytes()]
