"""An ONNX model of dense layers: its graph alone is read, by the few fields that say shapes; weights are skipped, nothing of it is run.

Source: onnx/onnx 1.23, onnx/onnx.proto for the numbers of fields; protobuf.dev, "Encoding", for the wire format; docs/Operators.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Final, TypeAlias

from msgspec import Struct, field

from parsim.errors import ParsimError
from parsim.targets.dense import ACTIVATION, DENSE, DROPOUT, MOST_STEPS, NOTHING, FileLayer, refuse

NAME: Final = "onnx"
Bytes: TypeAlias = Any  # a memoryview, or anything that slices to bytes
_ACTIVATIONS: Final = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
}
_MULTIPLY: Final = ("Gemm", "MatMul")
_OF_NO_STEP: Final = ("Identity", "Flatten", "Reshape", "Cast")
_DTYPES: Final = {1: "fp32", 10: "fp16", 16: "bf16"}  # TensorProto.DataType
_MOST_FIELDS: Final = 200_000
_DAMAGED: Final = "is no ONNX model: its protobuf is damaged"


class OnnxTensor(Struct):
    """Of a weight its shape, and its elements where they are few."""

    shape: tuple[int, ...]
    raw: bytes = b""
    floats: tuple[float, ...] = ()


class OnnxNode(Struct):
    """One op of the graph."""

    name: str = ""
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


class OnnxGraph(Struct):
    """What of a model says which layers it has."""

    producer: str = ""
    nodes: list[OnnxNode] = field(default_factory=list)
    weights: dict[str, OnnxTensor] = field(default_factory=dict)
    inputs: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # dtype and shape, 0 where it is open
    outputs: list[str] = field(default_factory=list)


def graph_of(data: Bytes, path: str) -> OnnxGraph:
    """The graph of a model's bytes.

    Raises:
        ParsimError: they are no ONNX model.
    """
    graph, budget = OnnxGraph(), iter(range(_MOST_FIELDS))
    try:
        fields = [(number, value) for number, value in _fields(memoryview(data), budget) if number in (1, 2, 7)]
        graph.producer = next((_text(value) for number, value in fields if number == 2), "")
        body = next((value for number, value in fields if number == 7), None)
        if body is None or isinstance(body, int) or not any(number == 1 for number, _ in fields):
            raise ValueError
        parts: dict[int, Callable[[Bytes], None]] = {
            1: lambda value: graph.nodes.append(_node(value, budget)),
            5: lambda value: graph.weights.update([_tensor(value, budget)]),
            11: lambda value: graph.inputs.update([_input(value, budget)]),
            12: lambda value: graph.outputs.append(_input(value, budget)[0]),
        }
        for number, value in _fields(body, budget):
            if number in parts:
                parts[number](value)
    except (ValueError, IndexError, TypeError, struct.error, UnicodeDecodeError):
        raise ParsimError(_DAMAGED, path, "Give the file that torch.onnx.export or tf2onnx wrote.") from None
    if len(graph.nodes) > MOST_STEPS:
        raise ParsimError(f"has more than {MOST_STEPS} nodes", path)
    return graph


def _fields(data: Bytes, budget: Iterator[int]) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message: of a varint or fixed an int, of what has a length its bytes.

    Raises:
        ValueError: it is damaged, or there are too many.
    """
    at, end = 0, len(data)
    while at < end:
        if next(budget, None) is None:
            raise ValueError
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5, 2):
            size, at = _varint(data, at) if wire == 2 else ((8 if wire == 1 else 4), at)
            if at + size > end:
                raise ValueError
            piece = data[at : at + size]
            value, at = (piece if wire == 2 else int.from_bytes(piece, "little")), at + size
        else:
            raise ValueError
        yield number, value


def _varint(data: Bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError


def _text(value: Bytes) -> str:
    return bytes(value[:1000]).decode()


def _integers(value: Any, budget: Iterator[int]) -> list[int]:
    """Of a repeated number: one, or all packed."""
    if isinstance(value, int):
        return [_with_sign(value)]
    found, at = [], 0
    while at < len(value):
        if next(budget, None) is None:
            raise ValueError
        number, at = _varint(value, at)
        found.append(_with_sign(number))
    return found


def _whole(value: Any) -> int:
    """A number that the wire says as such.

    Raises:
        ValueError: it says bytes in its place.
    """
    if not isinstance(value, int):
        raise ValueError
    return value


def _with_sign(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _tensor(data: Bytes, budget: Iterator[int]) -> tuple[str, OnnxTensor]:
    name, shape, raw, floats = "", [], b"", ()
    for number, value in _fields(data, budget):
        if number == 1:
            shape += _integers(value, budget)
        elif number == 8:
            name = _text(value)
        elif number == 9 and len(value) <= 64:
            raw = bytes(value)
        elif number == 4 and not isinstance(value, int) and len(value) == 4:
            floats = struct.unpack("<f", value)
    return name, OnnxTensor(tuple(shape), raw, floats)


def _input(data: Bytes, budget: Iterator[int]) -> tuple[str, tuple[int, tuple[int, ...]]]:
    """Name, dtype and shape of a ValueInfoProto."""
    name, dtype, shape = "", 0, []
    for number, value in _fields(data, budget):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for _, tensor in ((n, v) for n, v in _fields(value, budget) if n == 1):
                for part, inner in _fields(tensor, budget):
                    if part == 1:
                        dtype = _whole(inner)
                    elif part == 2:
                        dims = [dict(_fields(dim, budget)) for n, dim in _fields(inner, budget) if n == 1]
                        shape = [_whole(dim.get(1, 0)) for dim in dims]
    return name, (dtype, tuple(shape))


def _node(data: Bytes, budget: Iterator[int]) -> OnnxNode:
    node = OnnxNode()
    for number, value in _fields(data, budget):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(_text(value))
        elif number == 3:
            node.name = _text(value)
        elif number == 4:
            node.kind = _text(value)
        elif number == 5:
            found = dict(_fields(value, budget))
            number_of = struct.unpack("<f", struct.pack("<I", found[2]))[0] if isinstance(found.get(2), int) else _whole(found.get(3, 0))
            node.attributes[_text(found.get(1, b""))] = number_of
    return node


def steps_of(graph: OnnxGraph, path: str) -> tuple[int, str, list[FileLayer]]:
    """The features of a row, their precision, and the nodes in their order.

    Raises:
        ParsimError: a node is none that is read, or they are no chain.
    """
    inputs = [(name, *each) for name, each in graph.inputs.items() if name not in graph.weights]
    if len(inputs) != 1:
        raise ParsimError(f"has {len(inputs)} inputs; a model of dense layers has one", path)
    at, dtype, shape = inputs[0]
    steps: list[FileLayer] = []
    width = prod(shape[1:]) if len(shape) > 1 and all(each > 0 for each in shape[1:]) else 0
    for node in graph.nodes:
        if node.kind == "Constant":
            continue
        name = node.name or (node.outputs[0] if node.outputs else node.kind)
        if at not in node.inputs or not node.outputs:
            raise refuse(name, f"({node.kind[:40]}) does not read {at[:60]!r}, what stands before it", path)
        others = [graph.weights[each] for each in node.inputs if each != at and each in graph.weights]
        step = _step(node, name, at, others, steps, path)
        if node.kind in _MULTIPLY:
            before = next((each.num_outputs for each in reversed(steps) if each.kind == DENSE), width)
            if before not in (0, rows := _rows(node, others[0])):
                raise refuse(name, f"({node.kind}) multiplies {rows} features, and {before} stand before it", path)
            width = width or rows
        if step.name == name or step.kind != NOTHING:
            steps.append(step)
        at = node.outputs[0]
    if graph.outputs and at not in graph.outputs:
        raise ParsimError(f"gives {', '.join(graph.outputs)[:80]}, and not only what its last node makes", path)
    return width, _DTYPES.get(dtype, "fp32"), steps


def _rows(node: OnnxNode, weight: OnnxTensor) -> int:
    turned = node.kind == "Gemm" and node.attributes.get("transB", 0) == 1
    return weight.shape[1 if turned else 0]


def _step(node: OnnxNode, name: str, at: str, weights: list[OnnxTensor], steps: list[FileLayer], path: str) -> FileLayer:
    if node.kind in _MULTIPLY:
        shape = weights[0].shape if weights else ()  # of its second input, where the first is what stands before it
        if node.inputs[0] != at or len(shape) != 2 or min(shape) < 1 or len(weights) > 2:
            raise refuse(name, f"({node.kind}) multiplies no weight of two dimensions from the right", path)
        turned = node.kind == "Gemm" and node.attributes.get("transB", 0) == 1
        return FileLayer(name, DENSE, shape[0 if turned else 1], len(weights) == 2)
    if node.kind == "Add" and steps and steps[-1].kind == DENSE and not steps[-1].bias and weights and len(weights[0].shape) == 1:
        last = steps.pop()
        return FileLayer(last.name, DENSE, last.num_outputs, True)
    if node.kind in _ACTIVATIONS:
        return FileLayer(name, ACTIVATION, activation=_ACTIVATIONS[node.kind])
    if node.kind == "Dropout":
        ratio = node.attributes.get("ratio") or next(
            (each.floats or struct.unpack("<f", each.raw[:4]) for each in weights if len(each.raw) == 4), (0.5,)
        )
        return FileLayer(name, DROPOUT, dropout=float(ratio[0] if isinstance(ratio, tuple) else ratio))
    if node.kind in _OF_NO_STEP:
        return FileLayer(name, NOTHING)
    raise refuse(name, f"({node.kind[:60]}) is no dense layer", path)
