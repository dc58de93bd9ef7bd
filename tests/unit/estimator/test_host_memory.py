"""What ranks keep on their hosts: one capacity a node, which a plan can miss as it can miss its devices'."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.cluster.cluster import Cluster
from parsim.estimator.estimate import estimate, estimates
from parsim.estimator.host import _crews
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.verify.contract import verify_plan
from support import GPT, NODE, scenario

GB = 10**9
RUNNER = CliRunner()
OFFLOADED = Plan(offload_optimizer=True)
# LLaMA 33B on 8 x A100-40GB, ZeRO 3 with the optimizer on the host: deepspeedai/DeepSpeed issue 3448.
LLAMA_33B = """
model: {{base: llama2-13b, num_layers: 60, hidden_size: 6656, ffn_hidden_size: 17920, num_heads: 52, num_kv_heads: 52, head_dim: 128}}
cluster: {{node: {{base: dgx-a100-40gb, name: mine, host_memory_capacity: {capacity}, source: mine}}}}
batch: {{global_batch: 8, sequence_length: 2048}}
stack: deepspeed
plans: {{host: {{zero_stage: 3, recompute: full, offload_optimizer: true}}}}
"""


def on_host(plan: Plan, stack: Stack | None = None, **others: object) -> dict[str, int]:
    chosen = scenario(**({"stack": stack} if stack else {}), **others)  # type: ignore[arg-type]
    return dict(estimate(chosen, plan).host_memory_bytes)


def loaded(tmp_path: Path, capacity: str) -> parsim.Scenario:
    path = tmp_path / "llama.yaml"
    path.write_text(LLAMA_33B.format(capacity=capacity))
    return parsim.load(path)


def test_a_host_keeps_master_weights_moments_and_gradients_of_all_its_devices() -> None:
    model = replace(GPT, vocab_size=64)  # no padding: 4 ranks hold the same
    found = on_host(replace(OFFLOADED, data_parallel=4), model=model)
    weights = num_parameters(model)
    assert found == {"optimizer": 4 * 12 * weights, "gradients": 4 * 4 * weights, "pinned": 0, "processes": 0}
    assert on_host(Plan(data_parallel=4)) == {}  # nothing is kept there


def test_the_stack_says_what_else_is_kept_and_how_pinned_buffers_are_rounded_up() -> None:
    stack = Stack("mine", vocab_multiple=8, gradient_dtype="compute", host_float32_gradients=True, pinned_elements=1000, process_bytes=7)
    model = replace(GPT, vocab_size=64)
    assert num_parameters(model) == 6040
    found = on_host(OFFLOADED, stack, model=model)
    assert found["gradients"] == (2 + 4) * 6040
    assert found["gradients"] + found["pinned"] == (6 * 2048 + 128) + (6 * 4096 + 256)  # buffers of 2000 and 80 B, of 4000 and 160 B
    assert found["processes"] == 7


def test_the_fullest_node_counts_where_stages_differ() -> None:
    plan = Plan(pipeline_parallel=2, data_parallel=4, offload_optimizer=True, layers_per_stage=(3, 1))
    apart, mixed = (on_host(replace(plan, rank_order=order), batch=Batch(8, 8)) for order in ("tp-dp-pp", "tp-pp-dp"))
    assert apart["optimizer"] > mixed["optimizer"]  # a node of four first stages; two of each
    assert _crews(8, 4, 2, 4).tolist() == [[0, 4], [4, 0]]
    assert _crews(8, 1, 2, 4).tolist() == [[2, 2]]


@pytest.mark.parametrize(("capacity", "fits"), [("600 GB", False), ("800 GB", True)])
def test_33b_parameters_outgrow_600_gb_of_a_host_and_fit_800(tmp_path: Path, capacity: str, fits: bool) -> None:
    found = estimate(loaded(tmp_path, capacity), "host")
    assert found.fits is found.host_fits is fits
    assert found.host_memory_bytes["optimizer"] == pytest.approx(12 * 32.53 * GB, rel=1e-3)
    assert found.host_memory_bytes["gradients"] == pytest.approx(6 * 32.53 * GB, rel=1e-3)


def test_a_plan_that_outgrows_its_host_is_told_so(tmp_path: Path) -> None:
    said = RUNNER.invoke(app, ["run", loaded(tmp_path, "600 GB").path, "--out", str(tmp_path)])
    assert said.exit_code == 1
    assert "host: the fullest host needs 581 of 559 GiB, " in said.stderr
    assert " too many (optimizer 364, gradients 182, processes 22.4, pinned 13.2)" in said.stderr
    assert "memory, GiB on the fullest host" in said.stdout


def test_a_capacity_that_nobody_says_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    unstated = LLAMA_33B.replace(" host_memory_capacity: {capacity},", "").replace("dgx-a100-40gb", "pcie4-8x-a100-40gb")
    path.write_text(unstated.format())
    said = RUNNER.invoke(app, ["run", str(path), "--out", str(tmp_path)])
    assert 'host memory not checked: nobody says what the host of node "mine" holds; give its host_memory_capacity' in said.stdout


def test_plans_by_the_dozen_fit_their_hosts_as_each_alone_does() -> None:
    small = replace(NODE, host_memory_bytes=3 * 16 * num_parameters(replace(GPT, vocab_size=64)))
    chosen = scenario(model=replace(GPT, vocab_size=64), cluster=Cluster(small, 1))
    plans = [replace(OFFLOADED, data_parallel=degree, zero_stage=stage) for degree in (2, 4) for stage in (0, 1)]
    found = estimates(chosen, plans)
    assert found.fits.tolist() == [estimate(chosen, plan).fits for plan in plans] == [True, True, False, True]


@pytest.mark.parametrize("name", ["host_state_bytes", "host_gradient_bytes"])
@pytest.mark.parametrize(("reader", "quantity"), [("estimator.host", "host bytes"), ("simulator.memory", "host bytes, simulated")])
def test_a_mutant_that_forgets_what_the_host_keeps_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, reader: str, quantity: str
) -> None:
    monkeypatch.setattr(f"parsim.{reader}.{name}", lambda structure, sizes: 0)
    assert [check.quantity for check in verify_plan(scenario(), OFFLOADED, "toy") if not check.ok] == [quantity]
