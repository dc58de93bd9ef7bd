"""Files of models rather than of jobs: Keras' and ONNX's, of dense layers, told by their form."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from parsim.errors import ParsimError, ScenarioError
from parsim.scenario.tree import Place, of
from parsim.targets import keras_model, onnx_model
from parsim.targets.dense import Dense, chain_of, figures_of
from parsim.targets.file_text import MOST_BYTES
from parsim.targets.target import ForeignJob

_MOST_BYTES: Final = 2**31  # as protobuf itself: weights are in there, too, and not read
_LOG: Final = re.compile(r"^.{0,80}#\s*nThreads?:?\s+\d+\s+nGpus:?\s+\d+", re.MULTILINE)  # how a log of nccl-tests begins
_USUAL_BATCH: Final = 32  # keras/src/trainers/epoch_iterator.py: batch_size defaults to 32


class ModelFile(Struct, frozen=True):
    """A model of dense layers: what a scenario says of it, and its layers one by one."""

    job: ForeignJob
    layers: tuple[Dense, ...]
    reasons: dict[Place, str]  # by place, of what the file does not say

    def fill(self, value: dict[str, Any], plan: str, num_devices: int) -> None:
        """Add to a scenario's values what files of models never say: how many rows a step has, and that a row is a sequence."""
        batch, stated = value.setdefault("batch", {}), value["plans"].get(plan, {})
        if not isinstance(batch, dict) or not isinstance(stated, dict):
            return
        if "sequence_length" not in batch:
            batch["sequence_length"] = 1
            self.reasons["batch", "sequence_length"] = "a row is a token"
        if "global_batch" not in batch:
            each = max(1, _USUAL_BATCH // max(num_devices, 1))
            batch["global_batch"] = each * max(num_devices, 1)
            self.reasons["batch", "global_batch"] = "about 32 rows, as Keras' fit has by default"
        if "micro_batch" not in stated and type(batch["global_batch"]) is int and num_devices and batch["global_batch"] % num_devices == 0:
            stated["micro_batch"] = batch["global_batch"] // num_devices
            self.reasons["plans", plan, "micro_batch"] = "all rows of a replica at once"


def read_model(path: Path, raw: bytes) -> ModelFile | None:
    """The model of a file that begins so; None where it is of none.

    Raises:
        ParsimError: it is one, and no chain of dense layers.
    """
    if not path.is_file():  # a pipe, which is read once
        return None
    if path.suffix == ".onnx" or raw[:1] == b"\x08":  # the tag of ir_version
        return _onnx(path)
    if raw.startswith(b"PK\x03\x04"):
        return _keras(keras_model.config_of(path), path)
    return _keras(raw, path) if raw.lstrip()[:1] == b"{" and b'"class_name"' in raw[:4000] else None


def refuse_logs(text: str, path: Path) -> None:
    """Refuse a log of nccl-tests, which says nothing of a job, with the command that reads it.

    Raises:
        ParsimError: it is one.
    """
    if _LOG.search(text):
        remedy = f"Make rows of a cluster of it: parsim calibrate --from {path} --node NAME --out my-cluster.yaml."
        raise ParsimError("is a log of nccl-tests: times of collectives, no job", str(path), remedy)


def _onnx(path: Path) -> ModelFile:
    try:
        with open(path, "rb") as file:
            if path.stat().st_size > _MOST_BYTES:
                raise ParsimError(f"is larger than {_MOST_BYTES} bytes, which no ONNX file is", str(path))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ParsimError(f"cannot be read: {getattr(error, 'strerror', '') or error}", str(path)) from None
    graph = onnx_model.graph_of(data, str(path))
    width, dtype, steps = onnx_model.steps_of(graph, str(path))
    layers = chain_of(width, steps, str(path))
    figures, left = figures_of(layers, str(path))
    keys = {**{f"model.{key}": value for key, value in figures.items()}, "batch.dtype": dtype, "stack": "plain-pytorch"}
    return ModelFile(
        ForeignJob(onnx_model.NAME, graph.producer[:40], keys, tuple(left)), layers, {("stack",): "PyTorch, as most ONNX is from"}
    )


def _keras(raw: bytes, path: Path) -> ModelFile | None:
    if len(raw) > MOST_BYTES:
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("class_name") not in keras_model.MODELS:
        return None
    if (tree := of(document, str(path))).faults:
        raise ScenarioError.of(tree.faults)
    width, steps = keras_model.steps_of(document, str(path))
    layers = chain_of(width, steps, str(path))
    figures, left = figures_of(layers, str(path))
    keys, others = keras_model.training_of(document)
    version = str(document.get("keras_version", ""))[:40]
    told = {**{f"model.{key}": value for key, value in figures.items()}, **keys, "stack": "jax-xla"}
    return ModelFile(ForeignJob(keras_model.NAME, version, told, (*left, *others)), layers, {("stack",): "Keras compiles a step by XLA"})
