"""Measurements made from known factors, with noise, give these factors back, and what they predict of sizes left out is nearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from own_logs import SIZES

from parsim import units
from parsim.calibrate import factor_fit, own_cluster, wires
from parsim.calibrate.collective_log import TimedCollective
from parsim.calibrate.factor_fit import Knob, Point, fit_jointly
from parsim.calibrate.measured_files import TimedGemm
from parsim.calibrate.own_cluster import TimedStep, calibrate_own, sustained_of
from parsim.calibrate.own_gemms import isolated_s
from parsim.calibrate.own_rows import OwnCluster, RowBase
from parsim.calibrate.wires import WIRES, Row, faults_of, seconds_of, settle, state_all
from parsim.cluster.cluster import Fabric, Node
from parsim.confidence.shrink import Deviations
from parsim.parallel.plan import Stack
from parsim.scenario.rows import read

NODE, FABRIC, STACK = "hgx-h100-80gb", "ib-ndr-8rail", "megatron-2022"
REFS = (NODE, FABRIC, STACK)
NOISE = 0.02
TRUE = {"bandwidth": 0.7, "latency": 1.4}  # of rates, and over starts
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


def cite(paths: Sequence[str]) -> str:
    return f"{len(paths)} points"


def changed(kind: str, name: str, factors: Mapping[str, float]) -> Any:
    """The struct of a row whose wires all have the factors."""
    base = RowBase.of(kind, name)
    full: Row = state_all(base.full, base.build({}))
    changes: Row = {}
    for wire in WIRES:
        if wire.kind == kind:
            changes |= wire.change(full, {wire.bandwidth: factors["bandwidth"], wire.latency: factors["latency"]})
    return base.build(settle(full, changes))


def sweep(
    operation: str, hosts: int, node: Node, fabric: Fabric, noise: float = NOISE, sizes: Sequence[int] = SIZES
) -> list[TimedCollective]:
    plain = [TimedCollective(operation, 8 * hosts, hosts, size, 1.0, f"{operation}.log", line) for line, size in enumerate(sizes, start=1)]
    seconds = seconds_of(node, fabric, plain) * np.exp(noise * np.random.default_rng(hosts).normal(size=len(plain)))
    return [replace(each, seconds=float(s)) for each, s in zip(plain, seconds, strict=True)]


def calibrate(collectives: Sequence[TimedCollective] = (), gemms: Sequence[TimedGemm] = (), steps: Sequence[TimedStep] = ()) -> OwnCluster:
    return calibrate_own(REFS, gemms, collectives, steps, cite=cite)


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_bandwidth_and_latency_of_wires_are_found_again(hosts: int, operation: str) -> None:
    own = calibrate(sweep(operation, hosts, changed("nodes", NODE, TRUE), changed("fabrics", FABRIC, TRUE)))
    assert not own.faults
    bandwidth, latency = own.factors
    assert bandwidth.name.startswith("between nodes" if hosts > 1 else "in a node")
    # Of each, eleven sizes of 2 % noise, of which two or more feel it.
    if hosts == 1 or operation not in ("all_reduce", "all_gather", "reduce_scatter"):  # there the node, as the catalog has it, binds, too
        assert bandwidth.found.shrunk == pytest.approx(TRUE["bandwidth"], rel=0.05)
    assert latency.found.shrunk == pytest.approx(TRUE["latency"], rel=0.06)
    assert bandwidth.before > 0.1 > 0.03 > bandwidth.left_out > 0


def test_between_nodes_both_are_found_beside_those_of_the_node() -> None:
    node, fabric = changed("nodes", NODE, TRUE), changed("fabrics", FABRIC, TRUE)
    runs = [("all_reduce", 1), ("all_reduce", 4), ("all_gather", 4)]
    own = calibrate([each for operation, hosts in runs for each in sweep(operation, hosts, node, fabric, sizes=SIZES[1::3])])
    found = {each.name: each.found.shrunk for each in own.factors}
    assert {name for name in found if name.endswith("bandwidth")} == {
        "in a node: bandwidth",
        "between nodes: all_reduce bandwidth",
        "between nodes: all_gather, reduce_scatter bandwidth",
    }
    for name, value in found.items():
        assert value == pytest.approx(TRUE["bandwidth" if name.endswith("bandwidth") else "latency"], rel=0.08)


def test_the_rows_predict_as_the_cluster_does() -> None:
    node, fabric = changed("nodes", NODE, TRUE), changed("fabrics", FABRIC, TRUE)
    own = calibrate([each for hosts in (1, 4) for each in sweep("all_reduce", hosts, node, fabric, sizes=SIZES[1::3])])
    rows = RowBase.of("nodes", own.node).build({}), RowBase.of("fabrics", own.fabric).build({})
    asked = [TimedCollective(each, 32, 4, 3 * 2**20, 1.0, "", 0) for each in ("all_reduce", "all_gather")]  # rings go the same way as trees
    assert seconds_of(*rows, asked) == pytest.approx(seconds_of(node, fabric, asked), rel=0.05)
    assert own.node["base"] == NODE and own.node["source"] == {"law": "4 points", "in_switch": "4 points"}
    assert own.fabric is not None and own.fabric["source"]["ring_efficiency"].startswith(
        "as between nodes: all_reduce, which goes the same way"
    )


def test_measurements_as_the_catalog_predicts_them_change_nothing() -> None:
    node, fabric = read("nodes", NODE), read("fabrics", FABRIC)
    own = calibrate(sweep("all_to_all", 4, node, fabric, noise=0.0))
    assert [each.found.shrunk for each in own.factors] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert own.factors[0].before == pytest.approx(0.0, abs=1e-3)


def test_several_hosts_of_one_nvlink_domain_are_one_node() -> None:
    timed = [TimedCollective("all_reduce", 32, 8, 2**30, 4e-3, "a.log", 1), TimedCollective("all_reduce", 144, 36, 2**30, 9e-3, "a.log", 2)]
    assert [each.num_nodes for each in wires.by_nodes(read("nodes", "gb200-nvl72"), timed)] == [1, 2]
    assert wires.by_nodes(read("nodes", NODE), timed) == timed


@pytest.mark.parametrize(
    ("timed", "said"),
    [
        (
            TimedCollective("all_gather", 8, 1, 2**30, 1e-3, "", 0),
            "all_gather has busbw 940 GB/s, above the 450 GB/s that nvlink4 can carry",
        ),
        (
            TimedCollective("all_reduce", 8, 1, 2**30, 2e-3, "", 0),
            "all_reduce has busbw 940 GB/s, above the 700 GB/s",
        ),  # x 14 / 9 by the switch
        (TimedCollective("all_to_all", 32, 4, 2**30, 1e-3, "", 0), "above the"),
        (
            TimedCollective("p2p", 2, 2, 2**30, 1e-2, "", 0),
            "p2p has busbw 107 GB/s, above the 50 GB/s that the NICs of hgx-h100-80gb can carry",
        ),
        (TimedCollective("p2p", 8, 1, 2**30, 3.0, "", 0), "takes 3 s where"),
        (TimedCollective("p2p", 16, 1, 2**30, 1.0, "", 0), "16 ranks on a host, but node hgx-h100-80gb has 8 devices"),
    ],
)
def test_no_wire_carries_more_than_it_can(timed: TimedCollective, said: str) -> None:
    ((_, found),) = faults_of(read("nodes", NODE), read("fabrics", FABRIC), [timed])
    assert said in found
    assert not [*faults_of(read("nodes", NODE), read("fabrics", FABRIC), [TimedCollective("all_gather", 8, 1, 2**30, 2.1e-3, "", 0)])]


def test_no_law_is_faster_than_its_wires() -> None:
    fast = changed("nodes", NODE, {"bandwidth": 1.3, "latency": 1.0})
    own = calibrate(sweep("all_gather", 1, fast, read("fabrics", FABRIC)))
    assert own.factors[0].found.at_most
    assert RowBase.of("nodes", own.node).build({}).law.ring_bytes_per_s <= read("nodes", NODE).link.bandwidth_bytes_per_s


def test_nodes_need_a_fabric_between_them() -> None:
    timed = TimedCollective("p2p", 16, 2, 2**30, 1.0, "a.log", 7)
    own = calibrate_own((NODE, None, None), (), [timed], (), cite=cite)
    assert [str(each) for each in own.faults] == ["a.log:7:1: 2 hosts, but no fabric joins nodes here; name it with --fabric"]


# GEMMs


def gemms(efficiency: float, dtype: str, noise: float = NOISE) -> list[TimedGemm]:
    base = RowBase.of("accelerators", "h100-sxm5-80gb")
    law = {"gemm_by_dtype": {dtype: {"efficiency": efficiency}}} if dtype == "fp8" else {"gemm": {"efficiency": efficiency}}
    shapes = [(m, n, 4096) for m in (512, 4096, 8192) for n in (1024, 4096, 8192)]
    plain = [TimedGemm(*shape, dtype, 1.0, "gemms.csv", line) for line, shape in enumerate(shapes, start=2)]
    seconds = isolated_s(base.build(law), plain, dtype) * np.exp(noise * np.random.default_rng(0).normal(size=len(plain)))
    return [replace(each, seconds=float(s)) for each, s in zip(plain, seconds, strict=True)]


def test_the_efficiency_of_gemms_is_found_again_by_dtype() -> None:
    own = calibrate(gemms=[*gemms(0.7, "bf16"), *gemms(0.6, "fp8")])
    device = RowBase.of("nodes", own.node).build({}).accelerator
    assert device.gemm_law("bf16").efficiency == pytest.approx(0.7, rel=0.03)
    assert device.gemm_law("fp16").efficiency == device.gemm_law("bf16").efficiency  # one law
    assert device.gemm_law("fp8").efficiency == pytest.approx(0.6, rel=0.03)
    assert device.tuned_as == "h100-sxm5-80gb"  # stacks know its sustained factor still
    assert [each.name for each in own.factors] == ["GEMM bf16", "GEMM fp8"]


@pytest.mark.parametrize(
    ("dtype", "seconds", "said"),
    [
        ("bf16", 1e-4, "1.37 PFLOP/s is above the peak of h100-sxm5-80gb in bf16, 989 TFLOP/s"),
        ("mxfp4", 1.0, "has no peak for dtype mxfp4"),
        ("bf16", 1.0, "takes 1 s where"),
    ],
)
def test_no_gemm_is_above_the_peak(dtype: str, seconds: float, said: str) -> None:
    own = calibrate(gemms=[TimedGemm(4096, 4096, 4096, dtype, seconds, "g.csv", 3)])
    assert len(own.faults) == 1 and str(own.faults[0]).startswith("g.csv:3:1: ") and said in str(own.faults[0])


# Steps: a share of each is compute at the rate that the stack sustains, another the host's launches.


def steps(sustained: float, host_s: float = 5e-6, num_launches: int = 10_000, compute: float = 0.8, num: int = 4) -> list[TimedStep]:
    device = read("nodes", NODE).accelerator

    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        name, default, _ = sustained_of(stack, node.accelerator)
        rate = stack.sustained_factor.get(name, default)
        step_s = max(compute * device.sustained_factor / rate, num_launches * stack.host_launch_s) + 0.2
        return step_s, 0.4 / step_s

    own = Stack("", sustained_factor={"h100-sxm5-80gb": sustained}, host_launch_s=host_s)
    noise = np.exp(NOISE * np.random.default_rng(1).normal(size=num))
    measured_s = predict(read("nodes", NODE), None, own)[0]
    return [TimedStep(float(measured_s * each), "steps.csv", "steps.csv", line, predict) for line, each in enumerate(noise, start=2)]


def test_the_sustained_factor_is_found_again_and_shrunk() -> None:
    own = calibrate(steps=steps(0.68))  # the default is 0.85
    (found,) = own.factors
    assert float(found.fitted) == pytest.approx(0.68, rel=0.03)
    assert float(found.fitted) < float(found.shrunk) < 0.72
    assert own.stack is not None
    fitted = {"h100-sxm5-80gb": pytest.approx(found.found.shrunk * 0.85, rel=1e-3)}
    assert own.stack["sustained_factor"] == {**read("stacks", "megatron-2022").sustained_factor, **fitted}
    assert found.before > 0.15 > 0.05 > found.left_out > found.after
    assert found.left_out_by == "point"


def test_one_step_moves_the_factor_less_than_four() -> None:
    weights = [calibrate(steps=steps(0.68, num=num)).factors[0].found.weight for num in (1, 2, 4, 8)]
    assert weights == sorted(weights) and weights[0] < 0.6 < 0.75 < weights[2]
    # By hand: four rows of which compute is 0.8 to 0.83: n = 4 x 0.69; k = 0.09^2 / 0.11^2.
    assert weights[2] == pytest.approx(2.76 / (2.76 + 0.0081 / 0.0121), abs=0.01)


def test_no_share_of_a_rate_is_above_all_of_it() -> None:
    (found,) = calibrate(steps=steps(2.0)).factors
    assert float(found.shrunk) <= 1.0 and found.found.at_most


def test_launches_of_the_host_are_found_where_steps_wait_for_them_and_only_there() -> None:
    own = calibrate(steps=steps(0.85, host_s=9e-6, num_launches=200_000))
    assert [each.name for each in own.factors] == ["steps: sustained", "steps: host launch"]
    assert own.stack is not None and own.stack["host_launch"].endswith("us")
    assert float(own.stack["host_launch"].split()[0]) == pytest.approx(9.0, rel=0.05)
    assert [each.name for each in calibrate(steps=steps(0.68)).factors] == ["steps: sustained"]


def eager_steps(host_s: float, message_s: float, num_messages: int) -> list[TimedStep]:
    """Of a core that runs what it launches: 40 ms of kernels, then launches and messages, one after another."""
    own = replace(read("stacks", "pytorch-cpu"), host_launch_s=host_s, message_launch_s=message_s)
    found = []
    for line, (launches, messages) in enumerate(((100, 0), (1000, 0), (100, num_messages), (1000, num_messages)), start=2):

        def predict(
            node: Node, fabric: Fabric | None, stack: Stack, launches: int = launches, messages: int = messages
        ) -> tuple[float, float]:
            rate = stack.sustained_factor.get(sustained_of(stack, node.accelerator)[0], 0.85)
            step_s = 0.034 / rate + launches * stack.host_launch_s + messages * stack.message_launch_s
            return step_s, 0.01 / step_s

        found.append(TimedStep(predict(read("nodes", NODE), None, own)[0], "steps.csv", "steps.csv", line, predict))
    return found


def test_launches_and_messages_of_a_framework_on_a_core_are_told_apart() -> None:
    own = calibrate_own((NODE, None, "pytorch-cpu"), [], [], eager_steps(70e-6, 4e-3, 20), cite=cite)
    assert [each.name for each in own.factors] == ["steps: sustained", "steps: host launch", "steps: message launch"]
    assert [units.parse(each.fitted, "s") for each in own.factors[1:]] == pytest.approx([70e-6, 4e-3], rel=0.01)
    assert own.stack is not None and 50e-6 < units.parse(own.stack["host_launch"], "s") < 70e-6  # four steps, which also wait for kernels
    few = calibrate_own((NODE, None, "pytorch-cpu"), [], [], eager_steps(70e-6, 4e-3, 0), cite=cite)
    assert few.stack is not None and "message_launch" not in few.stack


def test_a_step_above_the_peak_is_of_another_plan() -> None:
    fast = [replace(each, seconds=each.seconds / 10) for each in steps(0.85)]
    assert str(calibrate(steps=fast).faults[0]).startswith("steps.csv:2:1: a step of 0.1")
    in_ms = [replace(each, seconds=each.seconds * 1000) for each in steps(0.85)]
    assert "times as long: is the unit right, and is it what was run?" in str(calibrate(steps=in_ms).faults[3])


# The fit by itself


def joint(scale: float, spread: float) -> float:
    points = [Point("a", str(n), n / scale) for n in (1.0, 2.0, 4.0)]
    fit = fit_jointly(points, lambda scales: np.array([1.0, 2.0, 4.0]) / scales["rate"], [Knob("rate", Deviations(0.05, 0.0, spread))])
    return fit.factors["rate"].shrunk


@pytest.mark.parametrize(("seconds", "end"), [(3.0, 1 / factor_fit.MOST), (0.3, factor_fit.MOST)])
@pytest.mark.parametrize("share", [1e-6, 1e-4])
def test_a_factor_that_hardly_moves_a_point_ends_at_what_is_physical(seconds: float, end: float, share: float) -> None:
    def predict(scales: Mapping[str, float]) -> Any:
        return np.array([1.0 - share + share / scales["rate"]])

    found = fit_jointly([Point("a.csv", "2", seconds)], predict, [Knob("rate", Deviations(0.1, 0.0, 1.0))])
    assert found.factors["rate"].fitted == pytest.approx(end) and found.factors["rate"].shrunk == pytest.approx(1.0, abs=0.05)


def test_a_factor_is_kept_as_far_as_its_points_go() -> None:
    # n / (n + k) with n = 3 and k = (0.05 / 0.1)^2 of its logarithm.
    assert np.log(joint(0.5, 0.1)) == pytest.approx(np.log(0.5) * 3 / 3.25, rel=1e-3)


def test_files_are_left_out_whole_where_there_are_several() -> None:
    points = [Point("a", "1", 2.0), Point("a", "2", 2.0), Point("b", "3", 1.0)]
    fit = fit_jointly(points, lambda scales: np.ones(3) / scales["rate"], [Knob("rate", Deviations(1e-6, 0.0, 1.0))])
    assert fit.left_out_by == "source" and fit.left_out == pytest.approx(0.5)  # a by b: 1 of 2 s


def _no_shrinkage(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deviations, "weight", lambda self, num_rows: 1.0)


def _one_factor_of_the_whole_law(patch: pytest.MonkeyPatch) -> None:
    plain = wires._move
    patch.setattr(wires, "_move", lambda value, kind, bandwidth, latency: plain(value, kind, bandwidth, bandwidth))


def _tensor_in_place_of_what_is_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wires, "bus_factor", lambda operation, num_ranks: 1.0)


def _part_left_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(factor_fit, "_left_out", lambda points: ("", []))


def _step_scaled_as_a_whole(patch: pytest.MonkeyPatch) -> None:
    plain = factor_fit._slopes

    def slopes(points: Any, predict: Any, knobs: Any, logs: Any) -> Any:
        found = plain(points, predict, knobs, logs)
        return factor_fit._Slopes(found.log_ratio, np.ones_like(found.elasticity))

    patch.setattr(factor_fit, "_slopes", slopes)


def _messages_unasked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(own_cluster, "_LAUNCHES", {own_cluster._HOST: own_cluster._LAUNCHES[own_cluster._HOST]})


def _peak_unasked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(own_cluster, "gemm_faults", lambda device, gemms: ())


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (_no_shrinkage, test_the_sustained_factor_is_found_again_and_shrunk),
        (_no_shrinkage, test_a_factor_is_kept_as_far_as_its_points_go),
        (_one_factor_of_the_whole_law, lambda: test_bandwidth_and_latency_of_wires_are_found_again(4, "all_to_all")),
        (
            _tensor_in_place_of_what_is_sent,
            lambda: test_no_wire_carries_more_than_it_can(
                TimedCollective("all_reduce", 8, 1, 2**30, 2e-3, "", 0), "all_reduce has busbw 940 GB/s, above the 700 GB/s"
            ),
        ),
        (_part_left_in, test_files_are_left_out_whole_where_there_are_several),
        (_step_scaled_as_a_whole, test_the_sustained_factor_is_found_again_and_shrunk),
        (_messages_unasked, test_launches_and_messages_of_a_framework_on_a_core_are_told_apart),
        (
            _peak_unasked,
            lambda: test_no_gemm_is_above_the_peak("bf16", 1e-4, "1.37 PFLOP/s is above the peak of h100-sxm5-80gb in bf16, 989 TFLOP/s"),
        ),
    ],
)
def test_mutants_are_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        test()
