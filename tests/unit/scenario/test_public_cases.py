"""Small inputs from public questions give their right value or the sentence that names what is not built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parsim import scenario, units
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate
from parsim.estimator.result import Estimate
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.report.results import cannot_run
from parsim.scenario import from_mapping

REST: dict[str, Any] = {"cluster": {"node": "dgx-a100-40gb"}, "batch": {"global_batch": 8, "sequence_length": 128}, "plans": {"a": {}}}


def model_of(**row: object) -> TransformerSpec:
    found = from_mapping({"model": row, **REST}).model
    assert isinstance(found, TransformerSpec)
    return found


def test_heads_of_a_base_that_has_as_many_kv_heads_stay_as_many() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1024, num_heads=16)
    assert (changed.num_kv_heads, changed.head_dim, changed.ffn_hidden_size) == (16, 64, 4096)


def test_a_wider_base_is_wider_in_all_that_follows_from_its_width() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1536)
    width, layers = 1536, 12
    block = 12 * width * width + 13 * width  # four matrices of attention, eight of the MLP; nine biases and two norms of 2 x width
    assert num_parameters(changed) == layers * block + (50_257 + 1024) * width + 2 * width == 418_748_928  # base3.yaml: 418.8 M


def test_figures_that_the_base_states_for_itself_stay() -> None:
    changed = model_of(base="llama3-8b", num_layers=16, hidden_size=2048)
    assert (changed.num_kv_heads, changed.head_dim, changed.ffn_hidden_size) == (8, 64, 14_336)  # 8 of 32 heads and 3.5 x 4096 are no rule


def test_a_stated_figure_of_a_changed_base_is_kept() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1536, ffn_hidden_size=3072, head_dim=64)
    assert (changed.ffn_hidden_size, changed.head_dim) == (3072, 64)


CASES = Path(__file__).parents[4] / "shared" / "cases"
# File -> the parts of the sentences that it asks for.
SENTENCES = {
    "casual.yaml": (
        "batch.micro_batch_size: unknown key; give it as plans.NAME.micro_batch",
        "plans.a.zero: unknown key (did you mean 'zero_stage'?)",
        "plans.a.tp: unknown key (did you mean 'tensor_parallel'?)",
        "cluster.gpu: unknown key (did you mean 'node'?)",
        "cluster.num_gpus: unknown key (did you mean 'num_devices'?)",
        "batch.seq_len: unknown key (did you mean 'sequence_length'?)",
        "batch.tokens: unknown key: the tokens of a step are global_batch x sequence_length",
        "unknown model 'Llama-3.1-8B' (did you mean 'llama3-8b'?)",
    ),
    "cost7b.yaml": ("batch.total_tokens: unknown key; give it as training.total_tokens",),
    "geglu.yaml": ("model.parallel_attention: unknown key (did you mean 'parallel_block'?)",),
    "infer.yaml": ("inference is not built: only training steps are predicted",),
    "kvtp.yaml": ("tensor_parallel = 8 does not divide num_heads = 28",),
    "lora.yaml": ("give it as tuning.lora_rank", "give it as tuning.quantization", "give it as tuning.freeze"),
    "mixed.yaml": ("cluster.fabric: missing: 2 nodes need a fabric",),
    "moe.yaml": ("model.top_k: unknown key (did you mean 'experts_per_token'?)",),
}


def text_of(name: str) -> str:
    """The text of a case; the test is skipped where the cases are not."""
    if not (CASES / name).exists():
        pytest.skip(f"no {CASES / name} here")
    return (CASES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SENTENCES)
def test_a_public_case_says_what_is_not_built(name: str) -> None:
    text_of(name)
    with pytest.raises(ScenarioError) as caught:
        scenario.load(CASES / name)
    for part in SENTENCES[name]:
        assert part in str(caught.value)
    others = [fault for fault in caught.value.faults if "missing; give" not in fault.message]
    assert all(any(part in str(fault) for part in SENTENCES[name]) for fault in others if name != "casual.yaml")


def test_two_kinds_of_node_are_predicted_once_a_fabric_joins_them() -> None:
    text_of("mixed.yaml")
    found = scenario.load(CASES / "mixed.yaml", changes={"cluster.fabric": "ethernet-100g"})
    assert [(each.name, each.num_devices) for each in found.cluster.runs] == [("pcie4-8x-rtx-4090", 8), ("pcie4-8x-rtx-3090", 8)]
    assert estimate(found, "a").critical_rank == 1  # of as many layers the RTX 3090 takes longer


def predictions(name: str) -> dict[str, Estimate]:
    """What is predicted of each plan of a case."""
    text_of(name)
    found = scenario.load(CASES / name)
    return {plan: estimate(found, plan) for plan in found.plans}


def gib(text: str) -> float:
    return units.parse(f"{text} GiB", "bytes")


def test_every_file_of_the_cases_is_asserted_somewhere() -> None:
    if not CASES.exists():
        pytest.skip(f"no {CASES} here")
    elsewhere = {"a3mega.yaml", "g5.yaml", "v100four.yaml"}  # tests/unit/catalog/test_catalog_names.py
    here = {f"{name}.yaml" for name in (*PUBLISHED, "fp8", "seq128kb", "alibi")} | {
        f"{name}.yaml" for name in ("base1", "base3", "eth", "hfu", "zero2ga", "titan8b", "selflash", "hostoom", "tune8b4090", "mistralsw")
    }
    assert {path.name for path in CASES.glob("*.yaml")} == {*SENTENCES, *elsewhere, *here}


PUBLISHED = {
    **{"hf-mixtral-8x7b": 46_702_792_704, "hf-qwen3-8b": 8_190_735_360, "hf-gemma-2-2b": 2_614_341_888, "hf-phi-3-mini": 3_821_079_552},
    **{"hf-falcon-7b": 6_921_720_704, "hf-gpt-neox-20b": 20_554_567_680, "hf-opt-1.3b": 1_315_758_080},
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_configs_of_the_cases_have_the_parameters_that_are_published(name: str, parameters: int) -> None:
    text_of(f"{name}.yaml")
    assert num_parameters(scenario.load(CASES / f"{name}.yaml").model) == parameters


def test_fp8_leaves_weights_and_what_updates_them_as_wide_as_bf16_has_them() -> None:
    found, model = predictions("fp8.yaml")["a"], scenario.load(CASES / "fp8.yaml").model
    memory = {part: max(rank[part] for rank in found.memory_bytes) for part in found.memory_bytes[0]}
    assert memory["parameters"] >= 2 * num_parameters(model) // 8 and memory["optimizer"] >= 8 * num_parameters(model) // 8


def test_a_long_sequence_fits_over_eight_ranks_of_its_own_and_takes_about_the_time_of_tensor_parallelism() -> None:
    found = predictions("seq128kb.yaml")
    assert found["cp8"].fits and found["tp8"].fits and not found["fsdp"].fits
    assert found["cp8"].step_s == pytest.approx(found["tp8"].step_s, rel=0.15)  # attention takes most, and all ranks have as many pairs


def test_bases_of_the_cases_have_the_figures_that_follow() -> None:
    text_of("base1.yaml")
    heads, wide = (scenario.load(CASES / name).model for name in ("base1.yaml", "base3.yaml"))
    assert isinstance(heads, TransformerSpec) and (heads.num_heads, heads.num_kv_heads, heads.head_dim) == (16, 16, 64)
    assert num_parameters(wide) == 418_748_928  # as reckoned above


def test_zero_3_over_one_slow_port_takes_what_its_bytes_take() -> None:
    found = predictions("eth.yaml")
    weights, port = 2 * num_parameters(scenario.load(CASES / "eth.yaml").model), units.parse("25 Gb/s", "bytes/s")
    wire_s = 15 / 16 * weights / (port * 0.8) * 3 * 4  # gathered twice and scattered once, in each of 4 micro-batches; 2.5 GB/s is reached
    assert found["z3"].step_s == pytest.approx(wire_s, rel=0.01) and found["z3"].step_s == pytest.approx(60.6, rel=0.01)
    assert found["pp2"].step_s < found["hsdp"].step_s < found["z3"].step_s / 5


def test_hfu_is_mfu_and_recomputation() -> None:
    found = predictions("hfu.yaml")
    assert found["none"].hfu == found["none"].mfu and found["full"].hfu > 1.2 * found["full"].mfu


def test_zero_2_reduces_in_every_micro_batch_and_deepspeed_has_it_without_a_pipeline_only() -> None:
    found = predictions("zero2ga.yaml")
    case = scenario.load(CASES / "zero2ga.yaml")
    micro_batches, width = 512 // (8 * 4), {"fp32": 4, "compute": 2}[case.stack.gradient_dtype]
    # Both gather weights of 2 bytes once a step; ZeRO-1 scatters gradients once, ZeRO-2 in each micro-batch.
    sent = {name: found[name].sent_bytes[0]["dp"] for name in ("z1", "z2")}
    assert sent["z2"] / sent["z1"] == pytest.approx((micro_batches * width + 2) / (width + 2), rel=0.04)  # the tied embedding goes twice
    assert found["z2"].step_s > 1.5 * found["z1"].step_s
    assert "under a pipeline (zero_stage above 1)" in cannot_run(case, case.plans["z2pp"])
    assert not any(cannot_run(case, case.plans[name]) for name in ("z1", "z2", "z3"))


def test_a_window_of_4096_leaves_a_model_of_32768_tokens_less_to_do() -> None:
    """Its note: full causal attention is 1.41 times as much; a token sees 4096 x (1 - 4096 / (2 x 32768)) others on average."""
    text_of("mistralsw.yaml")
    model = scenario.load(CASES / "mistralsw.yaml").model
    length, seen, weights = 32768, 4096 * (1 - 4096 / 65536), 7_241_732_096 - 32000 * 4096  # all behind the embedding
    flops = model_flops_per_token(model, length)[1]
    assert flops == pytest.approx(6 * weights + 12 * 32 * 4096 * seen, rel=1e-9)
    assert (6 * weights + 6 * 32 * 4096 * length) / flops == pytest.approx(1.41, abs=0.005)


def test_torchtitan_on_eight_h100_of_96_gb_is_as_measured() -> None:
    found = predictions("titan8b.yaml")["fsdp"]  # torchtitan benchmarks, table 1, eager: 82.4 GiB reserved and 2.843 s
    assert found.fits and found.reserved_bytes == pytest.approx(gib("82.4"), rel=0.02) and found.step_s == pytest.approx(2.843, rel=0.10)


def test_selective_recomputation_of_torchtitan_saves_memory() -> None:
    found = predictions("selflash.yaml")
    full, selective, every2, none = (found[name].peak_bytes for name in ("full", "selective", "every2", "none"))
    assert full < selective < 0.7 * none and full < every2 < 0.8 * none
    assert found["none"].step_s < found["selective"].step_s < found["full"].step_s


@pytest.mark.parametrize(("capacity", "fits"), [("600 GB", False), ("800 GB", True)])
def test_a_host_runs_out_of_memory(capacity: str, fits: bool, tmp_path: Path) -> None:
    """DeepSpeed#3448: died at 600 GB of RAM, ran with 750 to 800."""
    text = text_of("hostoom.yaml").replace("stack: pytorch-2", "stack: deepspeed")
    node = f"{{base: dgx-a100-40gb, name: mine, host_memory_capacity: {capacity}, source: of the thread}}"
    (tmp_path / "host.yaml").write_text(text.replace("node: dgx-a100-40gb", f"node: {node}"), encoding="utf-8")
    assert estimate(scenario.load(tmp_path / "host.yaml"), "z3off").fits is fits


def test_an_8b_model_is_trained_whole_on_one_24_gb_card(tmp_path: Path) -> None:
    text = text_of("tune8b4090.yaml").replace("sequence_length: 512}", "sequence_length: 512, dtype: bf16_pure}")
    text = text.replace("optimizer: adamw_8bit", "optimizer: paged_adamw_8bit, optimizer_in_backward: true")
    (tmp_path / "tune.yaml").write_text(text, encoding="utf-8")
    found = estimate(scenario.load(tmp_path / "tune.yaml"), "a")
    assert found.fits and found.peak_bytes == pytest.approx(gib("18.9"), rel=0.1)
