"""Good files of all kinds that commands read, each so small that a command answers at once: what hostile.py damages."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import hf_configs

ROOT: Final = Path(__file__).parents[2]
_SMALL: Final = (
    *("tiny", "digits-softmax", "tiny-moe", "table5-22b", "llama3-8b-fp8", "machine-translation", "llama2-70b-lora", "two-generations"),
    *("plan-gpt3-13b", "digits-async", "digits-diloco"),
)
# A scenario that says something in every section.
_EVERYTHING: Final = b"""\
name: everything
model: tiny-gpt
cluster: {node: {base: hgx-h100-80gb, name: half, devices_per_node: 4, source: made up}, num_nodes: 2, fabric: ib-ndr-8rail}
batch:
  {global_batch: 32, sequence_length: 16, dtype: bf16, packing: packed, lengths: {distribution: lognormal, median: 9, sigma: 0.4}}
stack: {base: megatron-core, name: own, attention: flash, source: made up}
storage: {base: orion, name: own-storage, read_bandwidth: 1 TB/s, source: made up}
input: {base: text, name: own-text, workers: 2, prefetch: 2, source: made up}
training: {total_tokens: 1G, learning_rate: 0.001}
failures: {rates: {base: bloom-a100, name: own-rates, source: made up}, restart: 10 min, repair: 1 day, spare_nodes: 1}
checkpoint: {interval: optimum, keep: 2, asynchronous: true}
disturbance:
  jitter: {kernels: {distribution: gamma, cv: 0.02}}
  stragglers: {probability: 0.01, factor: 1.5}
  slow_devices: {5: 1.1}
  slow_links: {node 1: 0.5}
  samples: 50
seed: 3
plans:
  tensor:   {tensor_parallel: 2, zero_stage: 1, sequence_parallel: true}
  pipeline: {tensor_parallel: 2, pipeline_parallel: 2, micro_batch: 1}
  open:     {tensor_parallel: auto, micro_batch: [1, 2]}
"""
# What `parsim calibrate` writes of a machine, in short.
_MACHINE: Final = b"""\
node:
  base: one-cpu-generic
  name: this-machine
  devices_per_node: 2
  accelerator: {base: cpu-generic, name: this-core, host_launch: 0 s, source: "parsim calibrate, 2026-11-30"}
  source: "parsim calibrate, 2026-11-30"
"""
FOREIGN: Final = (
    '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 3}, "bf16": {"enabled": true}}\n',
    "[training]\nlocal_batch_size = 2\nseq_len = 2048\n[parallelism]\ntensor_parallel_degree = 2\npipeline_parallel_degree = 1\n",
    "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --num-layers 24 \\\n --micro-batch-size 2\n",
    "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: FULL_SHARD}\nnum_processes: 8\n",
    "base_config: base.yml\nper_device_batch_size: 2\nici_tensor_parallelism: 4\nmax_target_length: 2048\nmodel_name: llama3-8b\n",
    "def recipe():\n    cfg = base()\n    cfg.model.tensor_model_parallel_size = 2\n    cfg.train.global_batch_size = 64\n    return cfg\n",
    '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"units": 10, "activation": "softmax"}}]}}\n',
)
SUFFIXES: Final[Mapping[str, str]] = {
    **{"scenario": ".yaml", "table": ".csv", "config": ".json", "log": ".log", "lengths": ".csv", "sweep": ".yaml", "row": ".yaml"},
    **{"foreign": "", "results": ".json", "keras": ".keras", "onnx": ".onnx"},
}


def good_files() -> Mapping[str, list[bytes]]:
    """By kind."""
    head = (ROOT / "tests" / "witnesses" / "table5.csv").read_bytes().splitlines(keepends=True)
    rank_log = "".join(
        f"{2**power:>12} {2**power // 4:>12}     float     sum      -1 {20 + 2**power / 5e4:>8.2f} {4.2:>6} {7.9:>6}      0\n"
        for power in range(12, 26, 2)
    )
    log = "# nThread 1 nGpus 8 minBytes 4096 maxBytes 33554432 step: 4(factor) warmup iters: 5 iters: 20\n# Using devices\n"
    log += f"{rank_log}# Out of bounds values : 0 OK\n"
    sweep = (ROOT / "scenarios" / "sweeps" / "tensor-by-pipeline.yaml").read_bytes().replace(b"../plan-gpt3-13b.yaml", b"good.yaml")
    row = b"node: {base: dgx-a100-80gb, devices_per_node: 4}\nstack: {base: megatron-2022}\nfabric: {base: ib-hdr-8rail}\n"
    golden = ROOT / "tests" / "unit" / "targets"
    return {
        "scenario": [*((ROOT / "scenarios" / f"{name}.yaml").read_bytes() for name in _SMALL), _EVERYTHING, _EVERYTHING],
        "table": [b"".join(head[:6]), b"plan,step_s\nmaster,0.002\ntensor,0.003\n", b"m,n,k,dtype,seconds\n4096,4096,4096,bf16,0.0007\n"],
        "config": [
            json.dumps(each, indent=1).encode() for each in (hf_configs.LLAMA, hf_configs.QWEN, *list(hf_configs.PUBLISHED.values())[::9])
        ],
        "log": [log.encode()],
        "lengths": [b"tokens\n5\n8\n3\n", b"[5, 8, 3, 1]\n", b"layer,expert,tokens\n0,0,5\n0,1,3\n"],
        "sweep": [sweep],
        "row": [row, row.splitlines()[0][6:], _MACHINE],
        "results": [(ROOT / "reports" / "table5-175b" / name).read_bytes() for name in ("results.json", "results.csv")],
        "foreign": [each.encode() for each in FOREIGN] + [(golden / "golden_keras_3_15_functional.json").read_bytes()],
        "keras": [*_archives((golden / "golden_keras_3_15_mlp.json").read_bytes())],
        "onnx": [(golden / "golden_torch_2_13_mlp.onnx").read_bytes()],
    }


def _archives(config: bytes) -> list[bytes]:
    """A model as Keras saves it; names that lead out of a folder, a member that unfolds to 100 MB, a table of contents of 3 GB, a lock."""

    def made(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return file.getvalue()

    whole = made(("metadata.json", b"{}"), ("config.json", config), ("model.weights.h5", b"\x89HDF"))
    out = made(("../../OWNED", b"x"), ("/tmp/OWNED", b"x"), ("config.json", config))
    end = whole.rindex(b"PK\5\6")
    long_table = whole[: end + 12] + struct.pack("<II", 3_000_000_000, 0) + whole[end + 20 :]
    locked = bytearray(whole)
    locked[6] |= 1
    return [whole, whole, out, made(("config.json", bytes(100_000_000))), long_table, bytes(locked)]


@cache
def checkpoints() -> Mapping[str, bytes]:
    """The files of a run of scenarios/tiny.yaml with plan tensor in float64 that has ended after 4 of 6 steps, two checkpoints, by path."""
    from parsim import load
    from parsim.executor.run import execute

    with TemporaryDirectory() as place:
        scenario = load(ROOT / "scenarios" / "tiny.yaml")
        execute(scenario, "tensor", num_steps=4, checkpoint=place, checkpoint_every=2)
        return {str(each.relative_to(place)): each.read_bytes() for each in sorted(Path(place).rglob("*")) if each.is_file()}
