"""What a run reads, as a scenario states it: a row's name, a row in a file, an inline row, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

import parsim
from parsim.errors import ScenarioError
from parsim.scenario.feeding import Input

FILE = "name: tiny\nmodel: tiny-gpt\ncluster: {node: dgx-a100-80gb}\nbatch: {global_batch: 8, sequence_length: 16}\nplans: {a: {}}\n"


def scenario(tmp_path: Path, said: str, storage: str = "storage: orion\n") -> parsim.Scenario:
    path = tmp_path / "scenario.yaml"
    path.write_text(f"{FILE}{storage}input: {said}\n")
    return parsim.load(path)


def test_an_input_is_a_row_a_changed_row_or_stated_in_place(tmp_path: Path) -> None:
    row = scenario(tmp_path, "text").input
    assert row is not None and (row.per, row.size_bytes, row.workers, row.prefetch) == ("token", 3.94, 2, 2)
    changed = scenario(tmp_path, "{base: text, workers: 8, compression: 2.5}").input
    assert changed is not None and (changed.workers, changed.compression, changed.tokenize_per_s) == (8, 2.5, row.tokenize_per_s)
    own = scenario(tmp_path, "{name: ours, per: sample, size: 1 MB, device_size: 2 MB, decode_per_s: 50, readers: device}").input
    assert own == Input(name="ours", source="", per="sample", size_bytes=1e6, device_size_bytes=2e6, decode_per_s=50, readers="device")
    assert parsim.load("scenarios/tiny.yaml").input is None


def test_a_sequence_of_compressed_text_lies_in_storage_with_its_tokens_times_their_bytes_over_the_ratio() -> None:
    text = Input(name="", source="", per="token", size_bytes=3.0, device_size_bytes=28.0, compression=1.5)
    assert text.stored_bytes(4096) == 8192.0  # 4096 x 3 / 1.5
    assert Input(name="", source="", per="sample", size_bytes=3.0, device_size_bytes=1.0).stored_bytes(4096) == 3.0


@pytest.mark.parametrize(
    ("said", "storage", "message"),
    [
        ("txt", "storage: orion\n", "input: unknown input 'txt'"),
        ("{base: text, num_workers: 4}", "storage: orion\n", r"input.num_workers: unknown key \(did you mean 'workers'\?\)"),
        ("{per: token, size: 4 B}", "storage: orion\n", "input.device_size: missing; give the bytes of one as it goes to a device"),
        ("{base: text, jitter: 4}", "storage: orion\n", "input.jitter: must be at most 3, not 4"),
        ("{base: text, jitter: 1.0e-200}", "storage: orion\n", "input.jitter: must be 0 or at least 1e-09"),
        ("text", "", "storage: missing: say where the input is read from"),
    ],
)
def test_an_input_at_fault_is_told_with_its_place(tmp_path: Path, said: str, storage: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(tmp_path, said, storage)


def test_a_storage_at_fault_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as found:
        scenario(tmp_path, "text", "storage: orian\n")
    assert "unknown storage 'orian'" in str(found.value) and "missing" not in str(found.value)
