"""Keras' and ONNX's files of dense layers become a model with its list of layers; what is none is refused by the layer's name."""

from __future__ import annotations

import json
import zipfile
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

import parsim
from parsim.errors import ParsimError
from parsim.model.families.dense import DenseSpec
from parsim.model.families.mlp import MlpSpec
from parsim.model.parameters import num_parameters

HERE = Path(__file__).parent
KERAS, FUNCTIONAL, ONNX = (HERE / f"golden_{name}" for name in ("keras_3_15_mlp.json", "keras_3_15_functional.json", "torch_2_13_mlp.onnx"))


def imported(path: Path, **options: Any) -> parsim.ImportedJob:
    return parsim.import_job(path, node="one-cpu-generic", **options)


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    first = {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, 6]}}
    return {"class_name": "Sequential", "config": {"layers": [first, *layers]}}


def dense(name: str, units: int, activation: str = "relu", **config: Any) -> dict[str, Any]:
    return {"class_name": "Dense", "config": {"name": name, "units": units, "activation": activation, **config}}


def write(folder: Path, document: dict[str, Any]) -> Path:
    (folder / "model.json").write_text(json.dumps(document))
    return folder / "model.json"


def test_a_model_that_keras_wrote_is_the_mlp_of_its_layers() -> None:
    found = imported(KERAS)
    model = found.scenario.model
    assert isinstance(model, MlpSpec)
    assert (model.num_features, model.hidden_size, model.num_layers, model.num_labels) == (64, 32, 0, 10)
    assert (model.activation, model.bias, model.dropout) == ("relu", True, 0.2)
    assert found.scenario.training.learning_rate == pytest.approx(0.003, rel=1e-6)  # as float32 holds it
    assert (found.scenario.batch.dtype, found.scenario.batch.global_batch) == ("fp32", 32)
    assert [each.key for each in found.left] == ["compile_config.metrics"]


@pytest.mark.parametrize("path", [KERAS, FUNCTIONAL, ONNX], ids=lambda path: path.name)
def test_the_list_of_layers_has_the_parameters_of_the_model(path: Path) -> None:
    found = imported(path)
    assert sum(each.num_parameters for each in found.layers) == num_parameters(found.scenario.model)


def test_a_functional_model_is_read_by_its_graph_and_its_image_is_flattened() -> None:
    model = imported(FUNCTIONAL).scenario.model
    assert isinstance(model, MlpSpec) and (model.num_features, model.activation, model.bias) == (8 * 8 * 1, "tanh", False)


def test_a_model_that_torch_wrote_as_onnx_is_the_mlp_of_its_nodes() -> None:
    found = imported(ONNX)
    model = found.scenario.model
    assert isinstance(model, MlpSpec)
    assert (model.num_features, model.hidden_size, model.ffn_hidden_size, model.num_layers, model.num_labels) == (6, 4, 8, 1, 3)
    assert [(each.num_inputs, each.num_outputs) for each in found.layers] == [(6, 4), (4, 8), (8, 4), (4, 3)]
    assert found.target == "onnx" and found.version == "pytorch"


def test_the_config_in_a_saved_model_is_read_and_nothing_else_of_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", KERAS.read_bytes())
        archive.writestr("../../evil.py", "raise SystemExit")
    assert imported(tmp_path / "a.keras").scenario.model.num_layers == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.keras"]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([dense("a", 4), {"class_name": "Conv2D", "config": {"name": "conv"}}], "layer 'conv' is a Conv2D"),
        ([dense("a", 4), {"class_name": "Lambda", "config": {"name": "code", "function": "x"}}], "layer 'code' is a Lambda"),
        ([dense("a", 4, "selu"), dense("b", 3, "softmax")], "layer 'a' has activation selu; known: relu"),
        ([dense("a", 4), dense("b", 3, "softmax", use_bias=False)], "layer 'b' has no bias"),
        ([dense("a", 4), dense("b", 3, "relu")], "layer 'b' ends in relu"),
        ([dense("a", -4), dense("b", 3)], "layer 'a' has no number of units"),
        ([], "no dense layer"),
    ],
)
def test_what_is_no_such_mlp_is_refused_by_the_name_of_its_layer(tmp_path: Path, layers: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        imported(write(tmp_path, sequential(*layers)))


@pytest.mark.parametrize(
    ("layers", "family", "units", "behind"),
    [
        ([dense("a", 3, "softmax")], "dense", (), ()),  # a softmax regression
        ([dense("a", 4), dense("b", 3, "softmax")], "mlp", (4,), None),
        ([dense("a", 4), dense("b", 5), dense("c", 3, "softmax")], "dense", (4, 5), ("relu", "relu")),
        ([dense("a", 4), dense("b", 8), dense("c", 4), dense("d", 3, "softmax")], "mlp", (4, 8, 4), None),
        ([dense("a", 4), dense("b", 8), dense("c", 5), dense("d", 3, "softmax")], "dense", (4, 8, 5), ("relu",) * 3),
        ([dense("a", 4), dense("b", 8, "gelu"), dense("c", 4), dense("d", 3, "softmax")], "dense", (4, 8, 4), ("relu", "gelu", "relu")),
        ([dense("a", 4, "sigmoid"), dense("b", 3, "softmax")], "dense", (4,), ("sigmoid",)),
    ],
)
def test_every_chain_of_dense_layers_is_a_model_with_as_many_weights(
    tmp_path: Path, layers: list[dict[str, Any]], family: str, units: tuple[int, ...], behind: tuple[str, ...] | None
) -> None:
    found = imported(write(tmp_path, sequential(*layers)))
    model = found.scenario.model
    assert model.family == family
    if isinstance(model, DenseSpec):
        assert (model.units, model.behind) == (units, behind)
    widths = (6, *units, 3)
    assert num_parameters(model) == sum(entering * leaving + leaving for entering, leaving in pairwise(widths))


def test_dropout_behind_some_layers_only_is_listed(tmp_path: Path) -> None:
    dropout = {"class_name": "Dropout", "config": {"name": "drop", "rate": 0.5}}
    found = imported(write(tmp_path, sequential(dense("a", 4), dropout, dense("b", 8), dense("c", 4), dense("d", 3, "softmax"))))
    assert [(each.key, each.value) for each in found.left] == [("a", 0.5)] and found.scenario.model.dropout == 0


def test_a_damaged_onnx_file_is_read_or_refused_never_more(tmp_path: Path) -> None:
    whole, rng = ONNX.read_bytes(), Random(0)
    cases = [whole[:end] for end in range(1, len(whole), 197)]
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4, 40))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cases.append(bytes(damaged))
    for case in (*cases, b"\x08" * 10**6, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x08\x01\x3a\x02\x0a\x00", b"\x08"):
        (tmp_path / "a.onnx").write_bytes(case)
        try:
            imported(tmp_path / "a.onnx")
        except ParsimError as error:
            assert str(tmp_path) in str(error)


def test_a_log_of_nccl_tests_is_told_to_be_calibrated_with(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("# nThread 1 nGpus 8 minBytes 8 maxBytes 8589934592 step: 2(factor)\n")
    with pytest.raises(ParsimError, match=r"parsim calibrate --from .*a\.log --node NAME"):
        parsim.import_job(tmp_path / "a.log")


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def part(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message: protobuf.dev, "Encoding"."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def onnx(weight: bytes, bias: bytes, width: bytes | int = 4, between: bytes = b"") -> bytes:
    """x -> Gemm -> h -> y, with what stands between h and y; numbers of fields are those of onnx/onnx.proto."""
    gemm = b"".join(part(1, name) for name in (b"x", weight, bias)) + part(2, b"h") + part(4, b"Gemm")
    softmax = part(1, b"k" if between else b"h") + part(2, b"y") + part(4, b"Softmax")
    weights = part(1, 4) + part(1, 3) + part(8, b"w"), part(1, 3) + part(8, b"b"), part(8, b"scalar")
    shape = b"".join(part(1, part(1, extent)) for extent in (1, width))
    enters = part(1, b"x") + part(2, part(1, part(1, 1) + part(2, shape)))
    graph = b"".join(part(1, node) for node in (gemm, between, softmax) if node) + b"".join(part(5, each) for each in weights)
    return part(1, 8) + part(7, graph + part(11, enters) + part(12, part(1, b"y")))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (onnx(b"w", b"b", width=b"zz"), "protobuf is damaged"),
        (
            onnx(b"w", b"b", between=part(1, b"h") + part(2, b"k") + part(4, b"Dropout") + part(5, part(1, b"ratio") + part(3, b"xyz"))),
            "damaged",
        ),
        (onnx(b"scalar", b"w"), "multiplies no weight of two dimensions from the right"),
        (onnx(b"b", b"w"), "multiplies no weight of two dimensions from the right"),
        (onnx(b"w", b"b", width=5), "multiplies 4 features, and 5 stand before it"),
    ],
)
def test_an_onnx_file_whose_fields_are_of_another_kind_is_refused(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx(b"w", b"b"))
    assert imported(tmp_path / "a.onnx").scenario.model.extents["I"] == 4
    (tmp_path / "b.onnx").write_bytes(raw)
    with pytest.raises(ParsimError, match=said):
        imported(tmp_path / "b.onnx")


def test_an_archive_whose_table_of_contents_is_as_large_as_a_memory_is_refused_unread(tmp_path: Path) -> None:
    end = b"PK\5\6" + bytes(8) + (3 * 2**30).to_bytes(4, "little") + bytes(6)
    with (tmp_path / "a.keras").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(3 * 2**30)  # sparse: nothing of it lies on the disk
        file.write(end)
    with pytest.raises(ParsimError, match="its table of contents has 3221225472 bytes"):
        imported(tmp_path / "a.keras")
