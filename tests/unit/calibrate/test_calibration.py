"""From samples to the row of a machine, and from the row's file back to the node: nothing is lost, and faults are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from calibrations import BETWEEN_S, BYTE_S, CALL_S, FLOP_S, NAMES, PACE_S, START_S, WIRE_BYTE_S, calibration, exchanges, many, walk
from msgspec.structs import replace

from parsim.calibrate import calibration as steps
from parsim.calibrate import links
from parsim.calibrate.calibration import fit_machine
from parsim.calibrate.machine import build_node, load_node, text_of
from parsim.calibrate.samples import Samples
from parsim.calibrate.walk import TimedCall, Walk
from parsim.cluster.cluster import Cluster
from parsim.cluster.network import p2p_s
from parsim.errors import ScenarioError
from parsim.scenario import check, load

DIGITS = 1e-3  # laws are written with four digits


def test_the_law_that_made_the_samples_is_found() -> None:
    law = {each.name: each.law for each in steps.fit_kernels(walk().calls)}["add"]
    assert law.call_s == pytest.approx(CALL_S, rel=DIGITS)
    assert law.flops_per_s == pytest.approx(1 / FLOP_S, rel=DIGITS)
    assert law.bytes_per_s == pytest.approx(1 / BYTE_S, rel=DIGITS)


def test_a_call_pays_what_lies_between_calls_less_the_timing_of_it() -> None:
    # 1000 calls have 998 gaps of their own kind, and 2 of other kinds; "last" follows the last call: 1001 gaps.
    call_s, byte_s = steps.beside([walk()])
    assert call_s == pytest.approx(1001 * BETWEEN_S / 1000)
    assert byte_s == 0.0


def test_all_cores_at_work_have_laws_of_their_own() -> None:
    found = calibration()
    alone, busy = ({each.name: each.law for each in fits} for fits in (found.kernels, found.busy_kernels))
    assert set(alone) == set(busy) == set(NAMES)
    assert busy["add"].flops_per_s == pytest.approx(alone["add"].flops_per_s / 1.5, rel=2 * DIGITS)


def test_a_collective_is_fitted_in_the_bytes_of_its_ring() -> None:
    law = {each.name: each.law for each in links.fit_links(exchanges())}
    for operation in ("all_reduce", "all_gather", "message"):
        steps = {"all_reduce": 2, "all_gather": 1, "message": 0}[operation]
        assert law[operation].start_s + steps * law[operation].step_s == pytest.approx(START_S, rel=DIGITS)
        assert law[operation].ring_bytes_per_s == pytest.approx(1 / WIRE_BYTE_S, rel=DIGITS)


def test_too_few_clean_samples_give_no_row_and_name_what_lacks_them() -> None:
    poor = Walk({TimedCall("add", 1.0, float(n)): Samples([1e-5], 9, [PACE_S]) for n in range(4)}, walk().between, 4)
    found = fit_machine([poor], [walk()], {**exchanges(), next(iter(exchanges())): many(1e-3)})
    assert found.lacking == ("add",)
    assert not found.row and not found.kernels


def test_cores_that_were_slow_are_sampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def launched(*args: object) -> list[list[Walk]]:
        calls.append(args)
        few = {TimedCall("add", 1.0, float(n)): Samples([1e-5] * 4, 0, [PACE_S] * 3 + [2 * PACE_S]) for n in range(4)}
        return [[Walk(few, walk().between, 4)]]

    monkeypatch.setattr(steps, "_launch", launched)
    (found,) = steps._sample_walks([], 1, 0.0, math.inf, "one core", None)
    assert len(calls) == 2  # three of four samples are at full pace, and ENOUGH are five
    assert [(len(each.seconds), each.num_dropped) for each in found.calls.values()] == 4 * [(6, 2)]


def test_gaps_that_nobody_saw_clean_are_lacking_too() -> None:
    unseen = replace(walk(), between={"first": Samples([1e-5], 9, [PACE_S]), "calls": many(1e-5)})
    assert fit_machine([unseen], [walk()], exchanges()).lacking == ("the gaps between calls",)


def test_the_file_that_calibrate_writes_is_read_back_equal(tmp_path: Path) -> None:
    found, path = calibration(), tmp_path / "machine.yaml"
    path.write_text(text_of(found.row, path.name))
    node = load_node(path)
    assert node == build_node(found.row)
    assert node.accelerator.kernels == {each.name: each.law for each in found.kernels}
    assert node.accelerator.busy_kernels == {each.name: each.law for each in found.busy_kernels}
    assert set(node.accelerator.paces_s.values()) == {PACE_S}
    assert node.laws == {each.name: each.law for each in found.links if each.name != "message"}
    seconds = p2p_s(Cluster(node), 2**20, 1)
    assert float(seconds) == pytest.approx(START_S + WIRE_BYTE_S * 2**20, rel=2 * DIGITS)


SCENARIO = """
model: tiny-gpt
cluster: {node: file:machine.yaml}
batch: {global_batch: 4, sequence_length: 8, dtype: fp32}
plans:
  all: {tensor_parallel: 1}
"""


def test_a_scenario_names_the_file_beside_it(tmp_path: Path) -> None:
    found = calibration()
    (tmp_path / "machine.yaml").write_text(text_of(found.row, "machine.yaml"))
    (tmp_path / "a.yaml").write_text(SCENARIO)
    assert load(tmp_path / "a.yaml").cluster.node == build_node(found.row)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cluster.node: .*machine.yaml: no such file"),
        ("[1, 2]", "cluster.node: .*machine.yaml: is no mapping; a node's row is one"),
        ("{accelerator: {", "cluster.node: .*machine.yaml:1:.*: not YAML"),
        ("{naem: x}", "cluster.node.naem: unknown key"),
    ],
)
def test_a_scenario_whose_machine_file_is_wrong_says_so_at_its_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "machine.yaml").write_text(content)
    (tmp_path / "a.yaml").write_text(SCENARIO)
    faults = [str(fault) for fault in check(tmp_path / "a.yaml")]
    assert faults and all(f"a.yaml:3:{11}" in fault for fault in faults)
    with pytest.raises(ScenarioError, match=message):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("[1, 2]", "is no node's row\n.*parsim calibrate"),
        ("{naem: x}", r"machine.yaml:1:2: naem: unknown key"),
        ("name: x\ndevices_per_node: none\n", r"machine.yaml:2:1: devices_per_node: must be a whole number"),
    ],
)
def test_a_wrong_machine_file_is_told_with_its_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "machine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ScenarioError, match=message):
        load_node(path)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("{einsun: {call: 1 us}}", r"unknown kernel 'einsun' \(did you mean 'einsum'\?\)"),
        ("{einsum: {call: 1}}", r"1 has no unit"),
        ("{einsum: {call: 1 us, rate: 1 GB/s}}", r"'GB/s' is a unit of bytes/s, not of FLOP/s"),
        ("{einsum: {call: 1 us, knees: [{beyond: 1 MiB}]}}", r"bandwidth: missing"),
    ],
)
def test_a_wrong_law_is_told_with_its_place(tmp_path: Path, law: str, message: str) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(f"base: one-cpu-generic\naccelerator: {{base: cpu-generic, kernels: {law}}}\n")
    with pytest.raises(ScenarioError, match=message):
        load_node(path)


@pytest.mark.parametrize("rich, ranks, lacking", [((), [1], (steps._ALL_CORES, steps._MESSAGES)), ((1,), [1, 2], (steps._MESSAGES,))])
def test_what_can_give_no_row_any_more_is_not_measured_and_is_named(
    monkeypatch: pytest.MonkeyPatch, rich: tuple[int, ...], ranks: list[int], lacking: tuple[str, ...]
) -> None:
    poor = Walk({TimedCall("add", 1.0, float(n)): Samples([1e-5], 9, [PACE_S]) for n in range(4)}, walk().between, 4)
    sampled: list[int] = []

    def sample(runs: object, num_ranks: int, *_: object) -> list[Walk]:
        sampled.append(num_ranks)
        return [walk() if num_ranks in rich else poor]

    monkeypatch.setattr(steps, "num_cores", lambda: 2)
    monkeypatch.setattr(steps, "_sample_walks", sample)
    assert steps.calibrate(-1.0).lacking == ("add", *lacking)  # the time is over before it begins
    assert sampled == ranks
