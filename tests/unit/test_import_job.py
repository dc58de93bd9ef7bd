"""A job's file as a scenario: what it says, what is assumed beside it, what is left, what is refused; on the command line and in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_cli import call, here

import parsim
from parsim import catalog
from parsim.errors import ParsimError, ScenarioError
from parsim.parallel.plan import Plan
from parsim.targets.kinds import kinds_in

__all__ = ["here"]
JOB: dict[str, Any] = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,
    "zero_optimization": {"stage": 3, "overlap_comm": True},
    "bf16": {"enabled": True},
    "no_key_of_deepspeed": 7,
}


def job(folder: Path, name: str = "job.json", **changes: Any) -> Path:
    """The file of a job with other keys; of None it has none."""
    keys = {key: value for key, value in {**JOB, **changes}.items() if value is not None}
    (folder / name).write_text(json.dumps(keys, indent="\t"))
    return folder / name


def imported(path: Path, **options: Any) -> parsim.ImportedJob:
    return parsim.import_job(path, model="tiny-gpt", node="dgx-a100-80gb", **options)


def test_a_job_becomes_a_scenario_that_reads_as_what_was_imported(tmp_path: Path) -> None:
    found = imported(job(tmp_path))
    assert found.scenario.plan("imported") == Plan(data_parallel=8, micro_batch=2, zero_stage=3)
    assert (found.scenario.batch.global_batch, found.scenario.batch.dtype, found.scenario.stack.name) == (64, "bf16", "deepspeed")
    (tmp_path / "job.yaml").write_text(found.text)
    again = parsim.load(tmp_path / "job.yaml")
    assert (again.plans, again.batch, again.model, again.cluster) == tuple(
        getattr(found.scenario, name) for name in ("plans", "batch", "model", "cluster")
    )


def test_what_is_not_carried_over_is_listed_with_its_line_and_why(tmp_path: Path) -> None:
    left = {each.key: each for each in imported(job(tmp_path)).left}
    assert {key: (each.value, each.line) for key, each in left.items()} == {
        "zero_optimization.overlap_comm": (True, 7),  # JSON with a key a line
        "no_key_of_deepspeed": (7, 12),
    }
    assert all(each.why for each in left.values())


def test_what_nobody_said_is_marked_as_assumed_beside_its_key(tmp_path: Path) -> None:
    found = imported(job(tmp_path))
    lines = {line.split(":")[0].strip(): line for line in found.text.splitlines()}
    assert {path.rpartition(".")[2] for path in found.assumed} == {"num_devices", "fabric", "sequence_length", "stack"}
    assert all("# assumed: " in lines[path.rpartition(".")[2]] for path in found.assumed)
    assert "assumed" not in lines["global_batch"] and "assumed" not in lines["node"]


def test_options_and_changes_stand_in_place_of_the_file_and_of_defaults(tmp_path: Path) -> None:
    found = imported(job(tmp_path), plan="mine", dtype="fp16", sequence_length=8, changes={"plans.mine.zero_stage": 1})
    assert found.scenario.plan("mine").zero_stage == 1 and found.scenario.batch.dtype == "fp16"
    assert found.scenario.batch.sequence_length == 8 and "batch.sequence_length" not in found.assumed


def test_a_global_batch_follows_from_micro_batches_and_replicas_and_the_reverse(tmp_path: Path) -> None:
    accumulated = imported(job(tmp_path, train_batch_size=None))
    assert accumulated.scenario.batch.global_batch == 2 * 4 * 8  # a node of 8
    one = imported(job(tmp_path, train_micro_batch_size_per_gpu=None))
    assert one.scenario.plan("imported").micro_batch == 64 // 4 // 8


def test_a_job_of_another_number_of_devices_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"but the cluster has 16 devices[^\n]*\n.*--set PATH=VALUE") as refused:
        imported(job(tmp_path), num_devices=16)
    assert str(refused.value).count("\n") == 1


def test_a_job_without_model_or_node_says_which_options_to_add(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match=r"says no model and no node.*\n.*--model llama3-8b --node"):
        parsim.import_job(job(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x04\x95", "a pickle, .* never loaded"),
        (b"", "is empty"),
        (b"{", "not YAML"),
        (b'{"train_batch_size": 8, "train_batch_size": 9}', "stands twice"),
        (b'{"train_batch_size":' + b"[" * 200 + b"]" * 200 + b"}", "levels deep"),
        (
            b"a: &a [x, x]\nb: &b [*a, *a]\n"
            + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(99, 110)),
            "many values",
        ),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"hello world", "no known launcher reads it"),
        (b"7", "no known launcher reads it"),
    ],
)
def test_what_is_no_job_is_refused_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "job.json").write_bytes(content)
    with pytest.raises(ParsimError, match=said):
        imported(tmp_path / "job.json")


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b" " * 4_000_001)
    with pytest.raises(ParsimError, match="larger than 4000000 bytes"):
        imported(tmp_path / "large.json")
    with pytest.raises(ParsimError, match="No such file"):
        imported(tmp_path / "none.json")


def test_a_comment_cannot_leave_its_line_whatever_the_file_holds(tmp_path: Path) -> None:
    found = imported(job(tmp_path, **{"evil\nplans: {}": "x\ny: 1", "ü: #": "\u2028seed: 3"}))
    (tmp_path / "job.yaml").write_text(found.text)
    again = parsim.load(tmp_path / "job.yaml")
    assert again.plans == found.scenario.plans and again.seed == 0


def test_the_command_writes_the_file_once_and_says_what_comes_next(here: Path) -> None:
    job(here)
    asked = ("import", "job.json", "--model", "tiny-gpt", "--node", "dgx-a100-80gb", "-o", "mine.yaml")
    told = call(*asked)
    assert told.exit_code == 0 and told.stdout.endswith("wrote mine.yaml; next: parsim run mine.yaml\n")
    assert "not carried over: job.json:12: no_key_of_deepspeed = 7: " in told.stdout
    assert call("check", "mine.yaml").exit_code == 0
    before = (here / "mine.yaml").read_bytes()
    again = call(*asked)
    assert again.exit_code == 2 and "is not written over" in again.stderr and (here / "mine.yaml").read_bytes() == before


def test_a_job_that_is_refused_leaves_no_file(here: Path) -> None:
    job(here, train_batch_size=63)
    told = call("import", "job.json", "--model", "tiny-gpt", "--node", "dgx-a100-80gb", "-o", "new/mine.yaml")
    assert told.exit_code == 2 and "63 is no multiple of" in told.stderr and not (here / "new" / "mine.yaml").exists()


def test_json_holds_the_scenario_what_is_assumed_and_what_is_left(here: Path) -> None:
    job(here)
    told = json.loads(call("import", "job.json", "--model", "tiny-gpt", "--node", "dgx-a100-80gb", "--json").stdout)
    assert parsim.from_mapping(told["scenario"]).plan("imported").zero_stage == 3
    assert told["target"] == "deepspeed" and told["left"][0]["line"] == 7 and "cluster.fabric" in told["assumed"]


MEGATRON = "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 128"
MEGATRON += " --max-position-embeddings 128 --micro-batch-size 2 --tokenizer-type NullTokenizer"
ADAM = {"learning_rate": 1e-3, "beta2": 0.999, "weight_decay": 0.0}
# What each takes where no key says it: megatron/training/arguments.py (0.16.1, 0.20.0); torchtitan 0.2.2, config/job_config.py; MaxText
# e591f30c, configs/base.yml; DeepSpeed 0.19.8, ops/adam; torch.optim.AdamW; transformers, training_args.py.
USUAL: dict[str, tuple[str, dict[str, float]]] = {
    "m.sh": (f"{MEGATRON} --vocab-size 1000", {**ADAM, "weight_decay": 0.01}),
    "t.toml": (
        '[model]\nname = "llama3"\nflavor = "8B"\n[training]\nlocal_batch_size = 1\n',
        {"learning_rate": 8e-4, "beta2": 0.95, "weight_decay": 0.1},
    ),
    "x.yml": ("model_name: llama2-7b\nper_device_batch_size: 2\n", {"learning_rate": 3e-5, "beta2": 0.95, "weight_decay": 0.1}),
    "d.json": ('{"train_batch_size": 8, "optimizer": {"type": "AdamW", "params": {}}}', ADAM),
    "torch.json": (
        '{"train_batch_size": 8, "optimizer": {"type": "AdamW", "params": {"torch_adam": true}}}',
        {**ADAM, "weight_decay": 0.01},
    ),
    "a.sh": ("accelerate launch --num_processes 8 run.py --per_device_train_batch_size 2", {**ADAM, "learning_rate": 5e-5}),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_figure_that_no_key_says_is_the_launchers_own_default(name: str, tmp_path: Path) -> None:
    text, expected = USUAL[name]
    (tmp_path / name).write_text(text)
    model = "tiny-gpt" if name in ("d.json", "torch.json", "a.sh") else None
    found = parsim.import_job(tmp_path / name, model=model, node="dgx-a100-80gb").scenario.training
    assert {each: getattr(found, each) for each in expected} == expected


def test_a_megatron_line_without_a_global_batch_has_one_micro_batch_a_step(tmp_path: Path) -> None:
    (tmp_path / "m.sh").write_text(USUAL["m.sh"][0])
    found = parsim.import_job(tmp_path / "m.sh", node="dgx-a100-80gb")
    assert found.scenario.batch.global_batch == 2 * 8


def test_a_value_of_another_kind_is_told_where_its_field_is_missing(tmp_path: Path) -> None:
    (tmp_path / "m.sh").write_text(f"{MEGATRON} \\\n  --vocab-size 1k\n")
    with pytest.raises(ScenarioError, match=r"model.vocab_size: missing(.|\n)*m.sh:2: vocab_size = '1k': it is no whole number"):
        parsim.import_job(tmp_path / "m.sh", node="dgx-a100-80gb")


@pytest.mark.parametrize("target", ["megatron-lm", "megatron-bridge", "torchtitan"])
def test_a_job_on_nodes_of_two_kinds_comes_back_by_its_first_lines_or_once_these_are_said(target: str, tmp_path: Path) -> None:
    asked = parsim.load(Path(__file__).parents[2] / "scenarios/two-generations.yaml")
    launch = parsim.export_plan(asked, "balanced", target)
    told = "[{node: hgx-h100-80gb, count: 2, fabric: ib-ndr-8rail}, {node: dgx-a100-80gb, count: 4}]"
    assert f"--set 'cluster.nodes={told}' --set cluster.fabric=ib-hdr-8rail" in launch.notes[-1]
    name, text = next(iter(launch.files.items()))
    (tmp_path / name).write_text(text)
    head = next(line for line in text.splitlines() if line.startswith("# parsim: cluster"))
    (tmp_path / f"without-{name}").write_text(text.replace(head, ""))
    nodes = [{"node": "dgx-h100", "count": 2, "fabric": "ib-ndr-8rail"}, {"node": "dgx-a100-80gb", "count": 4}]
    changes = {"cluster.nodes": nodes, "cluster.fabric": "ib-hdr-8rail"}
    for found in (parsim.import_job(tmp_path / name), parsim.import_job(tmp_path / f"without-{name}", changes=changes)):
        plan = replace(found.scenario.plan("imported"), context_kind=asked.plan("balanced").context_kind)  # of no effect here
        assert plan == asked.plan("balanced") and found.scenario.cluster == asked.cluster


@pytest.mark.parametrize("head", ["{", '{"nodes": 3}', '{"nodes": [{"node": "file:a.yaml", "count": 2}]}', '{"nodes": ' + "[" * 5000 + "}"])
def test_first_lines_that_say_no_nodes_of_the_catalog_say_nothing(head: str) -> None:
    assert kinds_in(f"# parsim: cluster = {head}\n") == {}


def test_a_job_of_maxtext_on_tpus_runs_on_the_stack_that_xla_has_there(tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    path.write_text("base_config: base.yml\nmodel_name: llama2-7b\nper_device_batch_size: 2\nici_fsdp_parallelism: -1\n")

    def stack(**said: Any) -> Any:
        return parsim.import_job(path, **said).document["stack"]

    assert stack(node="tpu-v6e-16x16") == "jax-xla-tpu" and stack(node="hgx-h100-80gb") == "jax-xla"
    assert stack(node="tpu-v6e-16x16", stack="jax-xla") == "jax-xla"  # as it was asked for
    path.write_text(path.read_text() + "attention: dot_product\n")
    assert stack(node="tpu-v6e-16x16") == {"base": "jax-xla-tpu", "attention": "unfused"}


@pytest.mark.parametrize(("precision", "stated"), [("bf16_mixed", {"gradient_dtype": "fp32"}), ("fp16_mixed", {})])
def test_a_figure_that_the_stack_has_anyway_is_not_stated(precision: str, stated: dict[str, str], tmp_path: Path) -> None:
    row = catalog.find("stacks", "megatron-bridge")
    assert catalog.row("stacks", row)["gradient_dtype"] == "compute"
    path = tmp_path / "recipe.py"
    body = f"cfg = ConfigContainer(mixed_precision={precision!r}, train=T(global_batch_size=8, micro_batch_size=1))\n    return cfg"
    path.write_text(f"from megatron.bridge.training.config import ConfigContainer\n\ndef own_config():\n    {body}\n")
    said = {"model": "tiny-gpt", "node": "dgx-a100-80gb", "sequence_length": 16}
    assert parsim.import_job(path, **said).document["stack"] == ({"base": row, **stated} if stated else row)
