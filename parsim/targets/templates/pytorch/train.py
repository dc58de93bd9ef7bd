"""Trains a model by a plan of parsim:  torchrun --nproc-per-node=RANKS train.py [--steps N].  Prints a line of JSON a step.

With weights.npz and data.npz beside it the losses are those of `parsim execute --precision float32`.  See model.py and parallel.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from model import Chain
from parallel import (
    REPLICAS,
    average_gradients,
    by_mesh,
    clip_gradients,
    ends_of,
    local,
    mesh_of,
    place_gradients,
    shard,
    share_weights,
    split_tensors,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

# settings: written by parsim, and read back by `parsim import`
SETTINGS: dict[str, dict[str, Any]] = {}
# end of settings

HERE = Path(__file__).parent
PLAN, MODEL, BATCH, TRAINING, LAYOUT = (SETTINGS[name] for name in ("plan", "model", "batch", "training", "layout"))
DTYPE = getattr(torch, LAYOUT["dtype"])
SEED, IS_MASTER_SYNC = SETTINGS["parsim"]["seed"], PLAN["gradient_sync"] == "master"
NUM_STAGES, LAYERS = len(LAYOUT["layers_of_stage"]), LAYOUT["layers_of_stage"]
REPLICATE, MICRO_BATCH = PLAN["data_parallel"], PLAN["micro_batch"]
NUM_MICRO_BATCHES = BATCH["global_batch"] // (REPLICATE * MICRO_BATCH)
IS_V = PLAN["schedule"] == "ZBVZeroBubble"  # a rank holds a stage and that which is as far from the end
TIED = ("embedding", "head") if MODEL.get("tied_embedding") else ()


def blocks_of(stage: int) -> list[str]:
    """The names of the blocks that a pipeline stage holds."""
    first = sum(LAYERS[:stage])
    layers = [f"layer{number}" for number in range(first, first + LAYERS[stage])]
    return ["embedding"] * (stage == 0) + layers + ["head"] * (stage == NUM_STAGES - 1)


def chain_of(stage: int, mesh: DeviceMesh, weights: dict[str, Tensor] | None) -> Chain:
    """A stage's blocks with their weights, this rank's part of them."""
    names = blocks_of(stage)
    layers = [name for name in names if name.startswith("layer")]
    again = {name: tuple(LAYOUT["recomputed"]) for place, name in enumerate(layers, 1) if place % PLAN["recompute_every"] == 0}
    with torch.device("meta" if weights is None else mesh.device_type):
        chain = Chain(MODEL, names, again)
    if weights:
        own = {name: value for name, value in weights.items() if name.split(".")[0] in names}
        if TIED and "head" in names:
            own["head.word.weight"] = weights["embedding.word.weight"]
        chain.load_state_dict(own)
    if PLAN["tensor_parallel"] > 1:
        split_tensors(chain, mesh["tp"], sequence_parallel=PLAN["sequence_parallel"])
    tie(chain)
    if PLAN["zero_stage"] == 3 and REPLICATE > 1:
        shard(chain, mesh, reshard=LAYOUT["reshard"], together=TIED if set(TIED) <= set(names) else (), dtype=DTYPE)
    if weights is None:
        initialise(chain, stage, mesh.device_type)
    return chain


def tie(chain: Chain) -> None:
    """Let the head read the embedding's table, where both lie here."""
    if TIED and set(TIED) <= set(chain):
        chain["head"].word.weight = chain["embedding"].word.weight


def initialise(chain: Chain, stage: int, device: str) -> None:
    """Weights that nothing was written of."""
    chain.to_empty(device=device)
    tie(chain)
    torch.manual_seed(SEED + stage)
    for name, parameter in chain.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=0.02)


def batches(num_steps: int | None, replica: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of each step, this replica's sequences of each micro_batch in turn."""
    own = NUM_MICRO_BATCHES * MICRO_BATCH
    if (file := HERE / "data.npz").exists():
        data = np.load(file)
        inputs, labels = (
            data[next(name for name in names if name in data)] for names in (("tokens", "features"), ("labels", "row_labels"))
        )
        for rows in data["rows"][:num_steps]:
            rows = rows.reshape(NUM_MICRO_BATCHES, REPLICATE, MICRO_BATCH)[:, replica].ravel()
            yield torch.from_numpy(inputs[rows]).to(device), torch.from_numpy(labels[rows]).long().to(device)
        return
    generator = torch.Generator().manual_seed(SEED + replica)
    shape = (own, BATCH["sequence_length"])
    for _ in range(num_steps or 20):
        if "num_features" in MODEL:
            inputs, classes = torch.randn(*shape, MODEL["num_features"], generator=generator), MODEL["num_labels"]
        else:
            inputs, classes = (torch.randint(MODEL["vocab_size"], shape, generator=generator), MODEL["vocab_size"])
        yield inputs.to(device), torch.randint(classes, shape, generator=generator).to(device)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """A micro_batch's part of the mean cross-entropy of a replica."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()) / NUM_MICRO_BATCHES


class Trainer:
    """This rank's stages, and what it does in a step."""

    def __init__(self, mesh: DeviceMesh, weights: dict[str, Tensor] | None) -> None:
        self.mesh, pp = mesh, mesh["pp"].get_local_rank()
        ranks = PLAN["pipeline_parallel"]
        self.numbers = [pp + ranks * chunk for chunk in range(PLAN["virtual_pipeline"])]
        if IS_V:
            self.numbers = [pp, NUM_STAGES - 1 - pp]
        self.has_first, self.has_last = 0 in self.numbers, NUM_STAGES - 1 in self.numbers
        self.chains = [chain_of(number, mesh, weights) for number in self.numbers]
        if ranks > 1:
            self.schedule = self.pipeline()
        self.shards = PLAN["zero_stage"] == 3 and REPLICATE > 1
        self.tie_stages(weights)
        parameters = {id(each): each for chain in self.chains for each in chain.parameters()}  # a tied one once
        self.parameters = list(parameters.values())
        self.counted = [each for each in self.parameters if each is not self.copy]
        self.optimizer = self.new_optimizer()

    def pipeline(self) -> Any:
        """The schedule that runs this rank's stages."""
        device, group = torch.device(self.mesh.device_type), self.mesh["pp"].get_group()
        stages = [PipelineStage(chain, n, NUM_STAGES, device, group=group) for n, chain in zip(self.numbers, self.chains, strict=True)]
        schedule = get_schedule_class(PLAN["schedule"])
        is_multi = issubclass(schedule, PipelineScheduleMulti)
        return schedule(stages if is_multi else stages[0], NUM_MICRO_BATCHES, loss_fn=loss_of, scale_grads=False)

    def tie_stages(self, weights: dict[str, Tensor] | None) -> None:
        """A tied table that two ranks hold is one: they add its gradients up, and its norm counts once."""
        self.table = self.copy = self.ends = None
        if not TIED or NUM_STAGES == 1:
            return
        if IS_V:
            if self.has_first:
                self.chains[-1]["head"].word.weight = self.chains[0]["embedding"].word.weight
            return
        self.ends = ends_of(self.mesh)
        if self.has_last:
            self.table = self.copy = self.chains[-1]["head"].word.weight
        elif self.has_first:
            self.table = self.chains[0]["embedding"].word.weight
        if self.table is not None and weights is None:
            dist.broadcast(local(self.table.data), group=self.ends, src=min(dist.get_process_group_ranks(self.ends)))

    def new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW (Adam without weight decay) or SGD; with ZeRO 1 each replica keeps the states of some of the weights."""
        t = TRAINING
        kind: Any = torch.optim.AdamW
        options = {"lr": t["learning_rate"], "betas": (t["beta1"], t["beta2"]), "eps": t["eps"], "weight_decay": t["weight_decay"]}
        if PLAN["optimizer"] == "sgd_momentum":
            kind, options = torch.optim.SGD, {"lr": t["learning_rate"], "momentum": t["momentum"]}
        options["foreach"] = True  # also on a CPU, where else each weight has calls of its own
        if PLAN["zero_stage"] == 1 and self.mesh["dp"].size() > 1:
            group = self.mesh["dp"].get_group()
            return ZeroRedundancyOptimizer(self.parameters, kind, group, parameters_as_bucket_view=True, **options)
        return kind([{"params": group} for group in by_mesh(self.parameters)], **options)

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """One optimizer step; the loss, which all ranks know."""
        loss = self.run_pipeline(inputs, labels) if NUM_STAGES > 1 else self.run_micro_batches(inputs, labels)
        self.update()
        total = torch.tensor(float(loss) / REPLICATE / PLAN["tensor_parallel"], dtype=torch.float64, device=inputs.device)
        dist.all_reduce(total)
        return float(total)

    def run_pipeline(self, inputs: Tensor, labels: Tensor) -> Tensor | float:
        losses: list[Tensor] = []
        given = (inputs,) if self.has_first else ()
        told = {"target": labels, "losses": losses} if self.has_last else {}
        self.schedule.step(*given, **told, return_outputs=False)
        return sum(each.detach() for each in losses) if losses else 0.0

    def run_micro_batches(self, inputs: Tensor, labels: Tensor) -> Tensor | float:
        (chain,), total = self.chains, 0.0
        for number, (x, y) in enumerate(zip(inputs.split(MICRO_BATCH), labels.split(MICRO_BATCH), strict=True), 1):
            if self.shards:  # groups of replicas agree once a step
                chain.set_requires_all_reduce(number == NUM_MICRO_BATCHES)
            loss = loss_of(chain(x), y)
            loss.backward()
            total = total + loss.detach()
        return total

    def update(self) -> None:
        """Bring gradients together, shorten them, and change the weights."""
        place_gradients(self.parameters)
        if self.table is not None:
            dist.all_reduce(local(self.table.grad), group=self.ends)
        if not self.shards:
            average_gradients(self.parameters, self.mesh, to_master=IS_MASTER_SYNC)
        if not IS_MASTER_SYNC or self.mesh["dp"].get_local_rank() == 0:
            clip_gradients(self.parameters, self.counted, TRAINING["max_norm"], self.mesh)
            self.optimizer.step()
        if IS_MASTER_SYNC and REPLICATE > 1:
            share_weights(self.parameters, self.mesh)
        for parameter in self.parameters:
            parameter.grad = None


def main() -> None:
    """Train for the steps that there are data of, or the first so many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="optimizer steps; those of data.npz where left out, or 20")
    num_steps = parser.parse_args().steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # a rank is a core, as torchrun has it of several; threads of a busy machine wait for one another
    torch.set_float32_matmul_precision(LAYOUT["float32_matmul"])
    mesh = mesh_of(PLAN, device)
    weights = None
    if (file := HERE / "weights.npz").exists():
        weights = {name: torch.from_numpy(array).to(device) for name, array in np.load(file).items()}
    elif dist.get_rank() == 0:
        print("no weights.npz: the weights are drawn here, so the losses are not those of parsim execute", file=sys.stderr)
    trainer = Trainer(mesh, weights)
    group, place = (mesh[axis] for axis in REPLICAS)
    replica = group.get_local_rank() * place.size() + place.get_local_rank()
    for step, (inputs, labels) in enumerate(batches(num_steps, replica, device), 1):
        begin = time.perf_counter()
        loss = trainer.step(inputs, labels)
        if dist.get_rank() == 0:
            print(json.dumps({"step": step, "loss": loss, "seconds": time.perf_counter() - begin}), flush=True)
    dist.barrier()  # a rank whose neighbour has left before may end in an abort
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
