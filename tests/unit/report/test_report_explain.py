from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan
from parsim.report.explain import FIGURES, Note, explain
from parsim.scenario import Scenario, from_mapping


def line(note: Note, label: str) -> str:
    return dict(note.lines)[label]


@pytest.fixture(scope="module")
def gpt3() -> Scenario:
    cluster = {"node": "dgx-a100-80gb", "num_nodes": 2, "fabric": "ib-hdr-8rail"}
    plans = {
        "across": {"tensor_parallel": 2, "data_parallel": 8, "micro_batch": 2},
        "stages": {"tensor_parallel": 8, "pipeline_parallel": 2},
    }
    batch = {"global_batch": 16, "sequence_length": 2048}
    return from_mapping({"model": "gpt3-6.7b", "cluster": cluster, "batch": batch, "plans": plans})


def test_a_gemm_is_explained_by_its_local_shapes_and_two_flops_a_multiplication(gpt3: Scenario) -> None:
    forward, *gradients = explain(gpt3, "across", "up_gemm")
    assert forward.title == "layer forward: up_gemm"
    assert line(forward, "expression") == "B/dp S D, D F/tp -> B/dp S F/tp"
    assert "[2 x 2048 x 4096], up.weight [4096 x 8192] -> up_gemm [2 x 2048 x 8192]" in line(forward, "on a rank")
    assert line(forward, "FLOPs") == units.format(2 * 2 * 2048 * 4096 * 8192, "FLOP")
    assert line(forward, "HBM") == units.format(2 * (2 * 2048 * 4096 + 4096 * 8192 + 2 * 2048 * 8192), "bytes")
    assert line(forward, "bound by").startswith("compute")
    assert "A100 datasheet" in line(forward, "peak")
    assert [note.title for note in gradients] == ["layer backward: up_gemm.d_mlp_in", "layer backward: up_gemm.d_up.weight"]
    assert line(gradients[0], "partial") == "d_mlp_in over tp (sum)"


def test_a_norm_is_bound_by_hbm(gpt3: Scenario) -> None:
    assert line(explain(gpt3, "across", "norm1")[0], "bound by").startswith("HBM")


def test_a_collective_in_a_node_is_bound_by_its_link_and_sends_2_n_minus_1_over_n(gpt3: Scenario) -> None:
    note = explain(gpt3, "stages", "leave_mlp")[0]
    payload = 1 * 2048 * 4096 * 2
    assert line(note, "payload") == units.format(payload, "bytes")
    assert line(note, "sent") == f"{units.format(payload * 2 * 7 // 8, 'bytes')} by a rank"
    assert line(note, "bound by") == "node link (nvlink3)"


def test_gradients_summed_across_nodes_are_bound_by_the_nic(gpt3: Scenario) -> None:
    (note,) = explain(gpt3, "across", "data_parallel_gradients")
    assert line(note, "bound by") == "NIC (ib-hdr)"


def test_a_stage_boundary_sends_a_rank_s_share_of_the_residual_stream(gpt3: Scenario) -> None:
    note, *gathers = explain(gpt3, "stages", "boundary")
    assert note.title == "stage boundary forward, stage boundary backward: send"
    assert line(note, "sent").startswith(units.format(2048 * 4096 * 2 // 8, "bytes"))  # megatron-2022 scatters over 8 ranks
    assert line(note, "bound by").startswith("NIC (ib-hdr)")
    assert [line(each, "collective") for each in gathers] == ["all_gather over tp"] * 2
    assert all(line(each, "payload") == units.format(2048 * 4096 * 2, "bytes") for each in gathers)


def test_adam_does_12_flops_a_weight_and_moves_memory(gpt3: Scenario) -> None:
    (note,) = explain(gpt3, "across", "adam")
    weights = int(line(note, "elements").partition(" ")[0].replace(",", ""))
    assert line(note, "FLOPs") == units.format(12 * weights, "FLOP")
    assert line(note, "bound by").startswith("HBM")


def test_forward_names_every_task_of_the_pass(gpt3: Scenario) -> None:
    titles = [note.title for note in explain(gpt3, "across", "forward")]
    assert {title.split(":")[0] for title in titles} == {"embedding forward", "layer forward", "head forward"}


def test_a_recomputed_task_says_so(scenario: Scenario) -> None:
    from msgspec.structs import replace

    full = replace(scenario, plans={"full": replace(scenario.plans["split"], recompute="full")})
    assert any(note.title == "layer backward: up_gemm (computed again)" for note in explain(full, "full", "up_gemm"))


@pytest.mark.parametrize("figure", FIGURES)
def test_every_reported_figure_is_explained_with_its_meaning(scenario: Scenario, figure: str) -> None:
    for note in explain(scenario, "split", figure):
        assert len(line(note, "means")) > 20
        assert [name for name, _ in note.lines][:2] in (["means", "value"], ["means", "by stage"]) and len(note.lines) <= 3


def test_a_figure_s_value_is_that_of_the_estimate(scenario: Scenario) -> None:
    (note,) = explain(scenario, "split", "step_s")
    assert line(note, "value") == units.format(estimate(scenario, "split").step_s, "s", digits=4)


@pytest.mark.parametrize("op", ["up_gem", "", "nonsense", "no such thing"])
def test_an_unknown_task_lists_what_there_is(scenario: Scenario, op: str) -> None:
    if op == "up_gem":
        assert explain(scenario, "split", op)  # the start of a name will do
        return
    with pytest.raises(ParsimError, match="nothing is called") as raised:
        explain(scenario, "split", op)
    assert "up_gemm" in raised.value.remedy


def test_a_misspelled_task_is_recognised(scenario: Scenario) -> None:
    with pytest.raises(ParsimError, match="did you mean 'up_gemm'"):
        explain(scenario, "split", "up_gmm")


def test_a_device_of_the_scenario_is_cited_as_the_scenario_states_it() -> None:
    device = {"base": "a100-sxm4-80gb", "name": "a100-sxm4-80gb", "hbm_bandwidth": "1 TB/s", "source": {"hbm_bandwidth": "my own test"}}
    node = {"base": "dgx-a100-80gb", "accelerator": device, "devices_per_node": 1}
    batch = {"global_batch": 1, "sequence_length": 16}
    scenario = from_mapping({"model": "tiny-gpt", "cluster": {"node": node}, "batch": batch, "plans": {"one": {}}})
    assert "my own test" in line(explain(scenario, "one", "up_gemm")[0], "HBM peak")


def test_a_collective_cites_the_law_alone(gpt3: Scenario) -> None:
    for op, law, other in (("leave_mlp", "nccl-tests sweeps", "NVSwitches"), ("boundary", "ConnectX-6", "NVIDIA DGX SuperPOD")):
        said = " ".join(text for _, text in explain(gpt3, "stages", op)[0].lines)
        assert law in said and other not in said


def test_a_kernel_that_was_measured_by_itself_is_explained_by_its_own_law() -> None:
    law = {"call": "1 ms", "rate": "1 MFLOP/s", "bandwidth": "1 GB/s"}
    device = {"base": "a100-sxm4-80gb", "name": "mine", "kernels": {"einsum": law, "adam": law}, "source": {"kernels": "clocked here"}}
    node = {"base": "dgx-a100-80gb", "accelerator": device, "devices_per_node": 1}
    batch = {"global_batch": 1, "sequence_length": 16}
    scenario = from_mapping({"model": "tiny-gpt", "cluster": {"node": node}, "batch": batch, "plans": {"one": {}}})
    gemm, update = explain(scenario, "one", "up_gemm")[0], explain(scenario, "one", "update")[0]
    # 2 x 16 rows x 32 x 128 = 131,072 FLOPs at a million a second.
    assert line(gemm, "bound by").startswith("compute (the calls themselves 1 ms, compute 131 ms,")
    assert line(gemm, "reached").startswith("1 ms a call, at most 1 MFLOP/s, at most 1 GB/s, as `einsum` was measured by itself [")
    assert "clocked here" in line(gemm, "reached")
    assert "as `adam` was measured by itself" in line(update, "reached")


def test_only_a_reduction_has_an_operator() -> None:
    plans = {"a": {"tensor_parallel": 2, "sequence_parallel": True}}
    node = {"base": "dgx-a100-80gb", "devices_per_node": 2}
    batch = {"global_batch": 1, "sequence_length": 16}
    found = from_mapping({"model": "tiny-gpt", "cluster": {"node": node}, "batch": batch, "plans": plans})
    assert line(explain(found, "a", "enter_mlp.all_gather")[0], "collective") == "all_gather over tp"
    assert line(explain(found, "a", "leave_mlp.reduce_scatter")[0], "collective") == "reduce_scatter over tp (sum)"


def test_what_passes_to_the_host_and_back_is_bound_by_its_link_and_the_update_by_its_memory(gpt3: Scenario) -> None:
    offloaded = replace(gpt3, plans={"host": Plan(tensor_parallel=8, data_parallel=2, offload_optimizer=True)})
    node = gpt3.cluster.node
    (there,), (back,), (update,) = (explain(offloaded, "host", op) for op in ("gradients_to_host", "weights_from_host", "update"))
    elements = int(line(there, "elements").split()[0].replace(",", ""))
    assert (line(there, "copy"), line(back, "copy")) == ("to host", "from host")
    assert line(there, "payload") == units.format(4 * elements, "bytes")  # float32 gradients out, bf16 weights in
    assert line(back, "payload") == units.format(2 * elements, "bytes")
    assert line(there, "bound by").startswith(f"host link: {units.format(node.host_link.bandwidth_bytes_per_s, 'bytes/s')}")
    moved = elements * (2 * (4 + 8) + 4)  # weight and two moments in float32, read and written; the gradient read
    assert line(update, "bound by").startswith(f"memory of the host: {units.format(moved, 'bytes')} at ")
    assert line(update, "time") == units.format(moved / (node.host_memory_bytes_per_s / 8), "s")


def test_a_collective_whose_algorithm_the_stack_names_is_explained_by_that_algorithm(gpt3: Scenario) -> None:
    named = replace(gpt3, stack=replace(gpt3.stack, collectives={"all_reduce": "tree"}))
    for op, plan in (("leave_mlp", "stages"), ("data_parallel_gradients", "across")):
        plain, tree = (explain(each, plan, op)[0] for each in (replace(named, stack=replace(named.stack, collectives={})), named))
        assert "algorithm" not in dict(plain.lines)
        assert line(tree, "algorithm").startswith("tree, as the stack says")
        assert line(tree, "bound by") != line(plain, "bound by") and "through the busiest port" in line(tree, "because")


@pytest.mark.parametrize("overlap", [False, True])
def test_parameters_that_are_gathered_and_gradients_that_are_scattered_in_each_pass_are_explained(gpt3: Scenario, overlap: bool) -> None:
    plans = {"zero": Plan(tensor_parallel=2, data_parallel=8, zero_stage=3)}
    sharded = replace(gpt3, plans=plans, stack=replace(gpt3.stack, gradient_overlap=overlap))
    (gather,), (scatter,) = (explain(sharded, "zero", name) for name in ("layer_parameters", "layer_gradients"))
    assert gather.title.endswith(": layer_parameters")
    beside = ", beside compute" if overlap else ""
    assert line(gather, "collective") == f"all_gather over dp{beside}"
    assert line(scatter, "collective") == f"reduce_scatter over dp (sum){beside}"
    for note in (gather, scatter):  # 16 of an A100's 108 multiprocessors
        found = dict(note.lines).get("beside", "")
        assert found.startswith("kernels take 0.148 of its time longer meanwhile") and "nccl issue 689" in found if overlap else not found
    for note, itemsize in ((gather, 2), (scatter, 4)):
        elements = int(line(note, "elements").partition(" ")[0].replace(",", ""))
        assert line(note, "group") == "8 ranks along dp, 2 devices apart"
        assert line(note, "link") == "ib-hdr"
        assert line(note, "payload") == units.format(itemsize * elements, "bytes")
        assert line(note, "sent") == f"{units.format(itemsize * elements * 7 // 8, 'bytes')} by a rank"
        assert "ib-hdr" in line(note, "load")
        assert "lost to others" in dict(note.lines)


def test_gradients_that_are_summed_beside_compute_are_explained_bucket_by_bucket(gpt3: Scenario) -> None:
    beside = replace(gpt3, stack=replace(gpt3.stack, gradient_overlap=True))
    notes = explain(beside, "across", "layer_gradients")
    assert [line(note, "collective") for note in notes] == ["all_reduce over dp (sum), beside compute"]


def test_every_task_that_takes_time_is_explained_with_its_seconds(gpt3: Scenario) -> None:
    plans = {"all": Plan(tensor_parallel=2, pipeline_parallel=2, data_parallel=4, zero_stage=1, offload_optimizer=True)}
    chosen = replace(gpt3, plans=plans)
    for op in ("forward", "backward", "finish", "boundary"):
        assert all("time" in dict(note.lines) for note in explain(chosen, "all", op))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(optimizer="adamw_8bit"), "adamw_8bit: m 1 bytes, v 1 bytes, a weight 4 bytes an element, on the device"),
        (
            Plan(optimizer="paged_adamw_8bit"),
            "paged_adamw_8bit: m 1 bytes, v 1 bytes, a weight 4 bytes an element, states on the host, in pages",
        ),
        (Plan(data_parallel=8, zero_stage=3), "adamw: m 4 bytes, v 4 bytes an element, on the device"),
        (Plan(offload_optimizer=True), "adamw: m 4 bytes, v 4 bytes, a weight 4 bytes an element, all on the host"),
    ],
)
def test_what_an_optimizer_keeps_is_said_of_the_one_that_runs(gpt3: Scenario, plan: Plan, said: str) -> None:
    stack = replace(gpt3.stack, master_shards=True)
    chosen = replace(gpt3, stack=stack, plans={"mine": replace(plan, tensor_parallel=8, data_parallel=2)})
    note = next(each for each in explain(chosen, "mine", "optimizer") if "memory" in each.title)
    assert said in line(note, "means")


def test_scans_of_hybrid_models_say_what_bounds_them() -> None:
    parts = {"cluster": {"node": "dgx-h100"}, "batch": {"global_batch": 8, "sequence_length": 2048}, "plans": {"a": {}}}
    notes = explain(from_mapping({"model": "mamba2-130m", **parts}), "a", "scan")
    bounds = [line(note, "bound by") for note in notes if line(note, "kernel").startswith("scan")]
    assert len(bounds) > 1
    assert all(bound.startswith(("compute (", "HBM (")) for bound in bounds)


def llama(**stack: object) -> Scenario:
    cluster = {"node": "hgx-h100-80gb", "num_nodes": 2, "fabric": "ib-ndr-8rail"}
    own = {"base": "pytorch-2", "name": "of a test", "source": "a test", **stack}
    plan = {"tensor_parallel": 4, "pipeline_parallel": 2}
    batch = {"global_batch": 16, "sequence_length": 4096, "dtype": "bf16"}
    return from_mapping({"model": "llama3-8b", "cluster": cluster, "batch": batch, "stack": own, "plans": {"a": plan}})


def test_a_norm_that_no_kernel_fuses_is_bound_by_all_that_its_kernels_move() -> None:
    """Of 4 bytes an element 20 in place of the 8 of one kernel, and 68 of 12 (parsim/cost/timing.py)."""
    scenario = llama()
    device = scenario.cluster.node.accelerator
    rate = device.hbm_bandwidth_bytes_per_s * device.elementwise.memory_efficiency
    for note, moved in zip(explain(scenario, "a", "norm1_normalize"), (20, 68), strict=True):
        assert f"(HBM {units.format(moved * 4096 * 4096 / rate, 's')}," in line(note, "bound by")
    assert line(note, "passes").startswith("5.67 times")


def test_what_the_host_does_for_a_communication_is_told_beside_what_its_bytes_take() -> None:
    for task in ("leave_attention", "boundary"):
        plain, late = (explain(each, "a", task)[0] for each in (llama(), llama(message_launch="20 us")))
        assert line(late, "waits").startswith("20 us of its time") and "waits" not in dict(plain.lines)
        assert dict(plain.lines).get("because") == dict(late.lines).get("because")
        assert line(plain, "time") != line(late, "time")
