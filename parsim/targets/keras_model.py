"""A Keras model of dense layers, as model.to_json() or config.json of NAME.keras says it; weights are not read, nothing of it is run.

Source: keras-team/keras 3.15.1, keras/src/saving/serialization_lib.py, saving/saving_lib.py; layers as their get_config() says.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from parsim.errors import ParsimError
from parsim.targets.dense import ACTIVATION, DENSE, DROPOUT, MOST_STEPS, NOTHING, FileLayer, refuse
from parsim.targets.file_text import MOST_BYTES
from parsim.targets.target import Left

NAME: Final = "keras"
CONFIG: Final = "config.json"
MODELS: Final = ("Sequential", "Functional", "Model")
_ACTIVATIONS: Final = {"ReLU": "relu", "Softmax": "softmax"}  # layers that are one
_DTYPES: Final = {"float32": "fp32", "mixed_bfloat16": "bf16", "bfloat16": "bf16", "mixed_float16": "fp16", "float16": "fp16"}
_FIGURES: Final = {"learning_rate": "learning_rate", "beta_1": "beta1", "beta_2": "beta2", "epsilon": "eps", "weight_decay": "weight_decay"}
_MOST_AT_ONCE: Final = 64_000_000
_READ: Final = ("optimizer", "loss", "jit_compile")


class _InPieces(io.FileIO):
    """A file of which nobody reads more at once than an archive's table of contents takes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As that of FileIO.

        Raises:
            BadZipFile: it is asked for more.
        """
        if size is not None and size > _MOST_AT_ONCE:
            raise zipfile.BadZipFile(f"its table of contents has {size} bytes")
        return super().read(-1 if size is None else size) or b""


def config_of(path: Path) -> bytes:
    """The config.json of a NAME.keras, bounded.

    Raises:
        ParsimError: the file is no such archive.
    """
    try:
        with _InPieces(path) as whole, zipfile.ZipFile(whole) as archive, archive.open(CONFIG) as file:
            raw = file.read(MOST_BYTES + 1)
    except (
        OSError,
        KeyError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
    ) as error:
        raise ParsimError(
            f"is no model that Keras saved: {' '.join(str(error).split())[:100]}", str(path), "Save it as NAME.keras."
        ) from None
    if len(raw) > MOST_BYTES:
        raise ParsimError(f"holds a {CONFIG} of more than {MOST_BYTES} bytes", str(path))
    return raw


def steps_of(document: Mapping[str, Any], path: str) -> tuple[int, list[FileLayer]]:
    """The features of a row, and the layers in their order.

    Raises:
        ParsimError: a layer is none that is read, or they are no chain.
    """
    config = document.get("config")
    listed = config.get("layers") if isinstance(config, Mapping) else config  # of Keras 1 the list itself
    layers = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    if not layers or len(layers) > MOST_STEPS:
        raise ParsimError("lists no layers, or too many", path)
    if document.get("class_name") != "Sequential":
        _check_chain(layers, path)
    return _features(layers, path), [_step(each, path) for each in layers]


def _of(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    config = layer.get("config")
    return config if isinstance(config, Mapping) else {}


def _name(layer: Mapping[str, Any]) -> str:
    return str(_of(layer).get("name", layer.get("name", layer.get("class_name", ""))))


def _features(layers: list[Mapping[str, Any]], path: str) -> int:
    """The elements of what enters the first layer."""
    first = layers[0]
    build = first.get("build_config")
    shapes = [_of(first).get("batch_shape"), _of(first).get("batch_input_shape")]
    shapes.append(build.get("input_shape") if isinstance(build, Mapping) else None)
    shape = next((each for each in shapes if isinstance(each, list) and len(each) > 1), None)
    if shape is None or not all(type(each) is int and 0 < each <= 10**9 for each in shape[1:]):
        raise refuse(_name(first), "does not say what shape enters it: give the model a keras.Input", path)
    flat = len(shape) == 2 or any(each.get("class_name") in ("Flatten", "Reshape") for each in layers)
    if not flat:
        raise refuse(_name(first), f"takes rows of shape {shape[1:]}, and no Flatten makes features of them", path)
    return prod(shape[1:])


def _step(layer: Mapping[str, Any], path: str) -> FileLayer:
    kind, config, name = layer.get("class_name"), _of(layer), _name(layer)
    if kind == "Dense":
        units = config.get("units")
        if type(units) is not int or not 0 < units <= 10**9:
            raise refuse(name, "has no number of units", path)
        return FileLayer(name, DENSE, units, config.get("use_bias", True) is True, _activation(config))
    if kind == "Activation" or kind in _ACTIVATIONS:
        return FileLayer(name, ACTIVATION, activation=_ACTIVATIONS.get(str(kind)) or _activation(config))
    if kind == "Dropout" and isinstance(rate := config.get("rate"), int | float) and 0 <= rate < 1:
        return FileLayer(name, DROPOUT, dropout=float(rate))
    if kind in ("InputLayer", "Flatten"):
        return FileLayer(name, NOTHING)
    raise refuse(name, f"is a {str(kind)[:60]}, no dense layer", path)


def _activation(config: Mapping[str, Any]) -> str:
    stated = config.get("activation")
    if isinstance(stated, Mapping):
        stated = stated.get("config", stated.get("class_name"))
    return "linear" if stated is None else str(stated)[:60]


def _check_chain(layers: list[Mapping[str, Any]], path: str) -> None:
    """Refuse a graph in which a layer reads another than the one before it.

    Raises:
        ParsimError: one does.
    """
    before = ""
    for layer in layers:
        name, read = _name(layer), list(dict.fromkeys(_histories(layer.get("inbound_nodes"))))
        if read != [each for each in [before] if each]:
            raise refuse(name, f"reads {', '.join(map(repr, read[:5])) or 'nothing'}, not the one layer before it, {before!r}", path)
        before = name


def _histories(nodes: Any, level: int = 0) -> Iterator[str]:
    """The names of layers that inbound_nodes of Keras 2 and 3 name."""
    if level > 20:
        return
    if isinstance(nodes, Mapping):
        history = nodes.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        else:
            for each in nodes.values():
                yield from _histories(each, level + 1)
    elif isinstance(nodes, list) and len(nodes) in (3, 4) and isinstance(nodes[0], str) and type(nodes[1]) is int:
        yield nodes[0]
    elif isinstance(nodes, list):
        for each in nodes:
            yield from _histories(each, level + 1)


def training_of(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[Left]]:
    """What the compiled model says of precision and optimizer, as keys of a scenario, and what else it says."""
    keys: dict[str, Any] = {"batch.dtype": _dtype(document)}
    compiled = document.get("compile_config")
    if not isinstance(compiled, Mapping):
        return keys, []
    left = [
        Left(f"compile_config.{key}", each, "no plan of parsim has it")
        for key, each in compiled.items()
        if key not in _READ and each not in ("", None, False, [], {}) and (each is True or each != 1)
    ]
    optimizer = compiled.get("optimizer")
    config = _of(optimizer) if isinstance(optimizer, Mapping) else {}
    name = str(optimizer.get("class_name") if isinstance(optimizer, Mapping) else optimizer)
    if name.lower() in ("adam", "adamw"):
        keys |= {
            "plan.optimizer": "adamw",
            **{f"training.{own}": config[key] for key, own in _FIGURES.items() if config.get(key) is not None},
        }
        if isinstance(rate := config.get("learning_rate"), Mapping):
            del keys["training.learning_rate"]
            left.append(Left("optimizer.learning_rate", rate.get("class_name"), "schedules of the rate are not built"))
    elif name.lower() == "sgd" and config.get("momentum"):
        keys |= {"plan.optimizer": "sgd_momentum", "training.momentum": config["momentum"]}
    elif optimizer:
        left.append(Left("compile_config.optimizer", name[:60], "parsim has no optimizer of that name"))
    if (loss := compiled.get("loss")) not in ("categorical_crossentropy", "sparse_categorical_crossentropy", None):
        shown = loss.get("class_name") if isinstance(loss, Mapping) else loss
        left.append(Left("compile_config.loss", shown, "the loss of an MLP is the categorical cross-entropy"))
    return keys, left


def _dtype(document: Mapping[str, Any]) -> str:
    """The precision of the first dense layer."""
    layers = _of(document).get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, Mapping) and layer.get("class_name") == "Dense":
            stated = _of(layer).get("dtype")
            name = _of(stated).get("name") if isinstance(stated, Mapping) else stated
            return _DTYPES.get(str(name), "fp32")
    return "fp32"
