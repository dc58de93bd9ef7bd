"""Keras on JAX: an MLP whose rows and columns lie on a (batch, model) mesh, trained by fit; a program with its plan at its head.

The other backends of Keras 3.15.1 do not split: that of TensorFlow begins "!!!DO NOT USE!!!" and leaves each variable whole, that of torch
has no DTensor yet (keras#23366).  The program refuses them.
Source: Keras 3.15.1, keras/src/distribution/distribution_lib.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from parsim.errors import PlanError
from parsim.model.dims import CUT_UNITS
from parsim.model.families.dense import DenseSpec
from parsim.model.spec import ModelSpec
from parsim.targets.programs import dense_name, mlp_data, mlp_entries, mlp_faults, mlp_weights, settings_in, text_of, with_settings
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target

NAME: Final = "keras"
PLAN: Final = ("data_parallel", "tensor_parallel", "micro_batch", "optimizer")
# By columns and then by rows, as parsim does: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.
_COLUMNS: Final[Mapping[str, list[str | None]]] = {"weight": [None, "model"], "bias": ["model"]}
_ROWS: Final[Mapping[str, list[str | None]]] = {"weight": ["model", None]}
_MLP: Final = {"layer[0-9]+/up": _COLUMNS, "layer[0-9]+/down": _ROWS}
_CHAIN: Final = {"embedding/input": _COLUMNS, "layer[0-9]*[02468]/dense": _ROWS, "layer[0-9]*[13579]/dense": _COLUMNS}


def layout_of(setup: Setup) -> Mapping[str, KeyValue]:
    """Which weights lie split over the axes of the mesh, by the pattern of a LayoutMap, and how float32 is multiplied."""
    layers = _split(setup.model) if setup.plan.tensor_parallel > 1 else {}
    sharded = {dense_name(f".*{layer}.{kind}"): axes for layer, own in layers.items() for kind, axes in own.items()}
    return {"sharded": sharded, "matmul": "highest" if setup.dtype == "fp32" else "tensorfloat32"}


def _split(model: ModelSpec) -> Mapping[str, Mapping[str, list[str | None]]]:
    """How the weights of each layer are split, by its pattern."""
    if not isinstance(model, DenseSpec):
        return _MLP
    if not model.units:
        return {}
    return {**_CHAIN, "head/label": _ROWS} if model.dims[-1] in CUT_UNITS else _CHAIN


def write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """The program, with the weights and data that `parsim execute` takes."""
    program = with_settings(text_of("keras", "train.py"), {"parsim.target": NAME, "parsim.version": version, **keys})
    texts = {"train.py": program, "network.py": text_of("tensorflow", "network.py")}
    data = {"weights.npz": lambda: mlp_weights(setup), "data.npz": lambda: mlp_data(setup)}
    note = f"without accelerators: XLA_FLAGS=--xla_force_host_platform_device_count={setup.plan.num_devices} python train.py"
    return Launch(NAME, version, texts, "python train.py", (note,), data)


def refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What the program does not compute, or not as the plan says."""
    plan = setup.plan
    yield from mlp_faults(NAME, setup, version)
    if plan.pipeline_parallel > 1:
        yield NotExpressible("pipeline_parallel", NAME, version, "Keras has no pipeline")
    if plan.num_micro_batches(setup.batch) > 1:
        why = "fit takes the rows of a step at once"
        yield NotExpressible("micro_batch", NAME, version, why, f"Set it to {setup.batch.global_batch // plan.data_parallel}.")
    if plan.num_devices > setup.cluster.node.devices_per_node:
        yield NotExpressible("data_parallel", NAME, version, "its program is one process, of one node")


def _read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    return settings_in(text, NAME)


_ENTRIES: Final = mlp_entries(PLAN, layout_of)
_TITLE: Final = "a program of Keras on JAX: DataParallel, or ModelParallel with a LayoutMap"
TARGETS.register(NAME, Target(NAME, ("3.15.1",), _TITLE, lambda version: _ENTRIES, write, _read, refuses, __doc__ or ""))
