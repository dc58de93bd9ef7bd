"""Storage of a scenario: a row's name, a row in a file, an inline row; what nodes get of one that is shared, and of their own."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

import parsim
from parsim.cluster import Storage
from parsim.errors import ScenarioError

FILE = "name: tiny\nmodel: tiny-gpt\ncluster: {node: dgx-a100-80gb}\nbatch: {global_batch: 8, sequence_length: 16}\n"


def storage(tmp_path: Path, said: str, **files: str) -> Storage:
    path = tmp_path / "scenario.yaml"
    path.write_text(f"{FILE}storage: {said}\nplans: {{a: {{}}}}\n")
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = parsim.load(path).storage
    assert found is not None
    return found


def test_a_storage_is_a_row_a_file_or_stated_in_place(tmp_path: Path) -> None:
    assert storage(tmp_path, "claix-work").read_bytes_per_s == 80e9
    own = storage(tmp_path, "{name: ours, read_bandwidth: 3 GB/s, write_bandwidth: 16 Gb/s, latency: 2 ms, capacity: 2 TiB}")
    assert own == Storage(name="ours", source="", read_bytes_per_s=3e9, write_bytes_per_s=2e9, latency_s=2e-3, capacity_bytes=2 * 2**40)
    assert storage(tmp_path, "file:ours.yaml", ours="name: ours\nrequest_bandwidth: 85 MB/s\n").request_bytes_per_s == 85e6
    assert storage(tmp_path, "file:cell.yaml", cell="storage: {read_bandwidth: 5 GB/s}\n").read_bytes_per_s == 5e9
    assert storage(tmp_path, "{base: orion, read_bandwidth: 1 TB/s}").write_bytes_per_s == 4.6e12
    assert parsim.load("scenarios/tiny.yaml").storage is None


def test_what_nobody_states_does_not_bind(tmp_path: Path) -> None:
    s3 = storage(tmp_path, "s3")
    assert s3.read_rate(1000) == s3.write_rate(1000) == inf
    assert s3.room_bytes(1) is None
    assert s3.request_s(8_500_000) == pytest.approx(0.15 + 0.1, rel=1e-15)  # 8.5 MB at 85 MB/s; a sum of two rounded decimals


def test_nodes_share_a_file_system_and_have_drives_of_their_own() -> None:
    shared = Storage(name="", source="", read_bytes_per_s=12e9, node_read_bytes_per_s=5e9, requests_per_s=100, capacity_bytes=10)
    assert [shared.read_rate(n) for n in (1, 2, 3)] == [5e9, 10e9, 12e9]
    assert (shared.request_rate(3), shared.room_bytes(3)) == (100, 10)
    own = Storage(name="", source="", read_bytes_per_s=5e9, write_bytes_per_s=1e9, requests_per_s=100, capacity_bytes=10, local=True)
    assert (own.read_rate(3), own.write_rate(3), own.request_rate(3), own.room_bytes(3)) == (15e9, 3e9, 300, 30)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("orin", r"storage: unknown storage 'orin' \(did you mean 'orion'\?\)"),
        ("{latency: 1 ms}", r"storage: states no rate of reading; give one of read_bandwidth, node_read_bandwidth, request_bandwidth"),
        ("{iops: 5}", r"storage.iops: unknown key \(did you mean 'requests_per_s'\?\)"),
        ("{read_bandwidth: 5}", r"storage.read_bandwidth: 5 has no unit; write e.g. '5 GB/s'"),
        ("{read_bandwidth: 5 GB/s, capacity: 0 B}", r"storage.capacity: must be above 0"),
        ("[s3]", r"storage: must be a name or a mapping, not a list"),
        ("file:none.yaml", r"none.yaml: no such file"),
    ],
)
def test_a_storage_at_fault_is_told_with_its_place(tmp_path: Path, said: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        storage(tmp_path, said)
