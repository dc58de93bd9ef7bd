"""Keras on JAX: an MLP whose rows and columns lie on a (batch, model) mesh, trained by fit; a program with its plan at its head.

The other backends of Keras 3.15.1 do not split: that of TensorFlow begins "!!!DO NOT USE!!!" and leaves each variable whole, that of torch
has no DTensor yet (keras#23366).  The program refuses them.
Source: Keras 3.15.1, keras/src/distribution/distribution_lib.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from parsim.errors import PlanError
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.launchers.tensorflow import BATCH, DTYPES, MODEL, OPTIMIZERS, TRAINING
from parsim.targets.programs import dense_name, mlp_data, mlp_faults, mlp_weights, settings_in, stated, text_of, with_settings
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target

NAME: Final = "keras"
PLAN: Final = ("data_parallel", "tensor_parallel", "micro_batch", "optimizer")
# By columns and then by rows, as parsim does: Shoeybi et al. 2019 (arXiv:1909.08053), section 3.
SPLIT: Final[Mapping[str, list[str | None]]] = {"up.weight": [None, "model"], "up.bias": ["model"], "down.weight": ["model", None]}


def _layout() -> Entry:
    def write(setup: Setup) -> dict[str, KeyValue]:
        split = {dense_name(f".*layer[0-9]+/{name}"): axes for name, axes in SPLIT.items()} if setup.plan.tensor_parallel > 1 else {}
        said = {"scenario": setup.scenario.name, "plan": setup.name, "seed": setup.scenario.seed}
        layout = {"sharded": split, "matmul": "highest" if setup.dtype == "fp32" else "tensorfloat32"}
        return {f"parsim.{key}": each for key, each in said.items()} | {f"layout.{key}": each for key, each in layout.items()}

    def read(keys: Keys) -> dict[str, Any]:
        for key in ("parsim.scenario", "parsim.plan", "parsim.seed", "layout.sharded", "layout.matmul"):
            keys.take(key)
        return {}

    return Entry((), write, read)


def entries(version: str) -> tuple[Entry, ...]:
    """The settings, under parsim's own names."""
    return (
        *(same(f"plan.{name}", f"plan.{name}") for name in PLAN),
        *(same(f"batch.{name}", f"batch.{name}") for name in BATCH),
        *stated("model", MODEL),
        *stated("training", TRAINING),
        _layout(),
    )


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
    for field, why, remedy in mlp_faults(setup):
        yield NotExpressible(field, NAME, version, why, remedy)
    if setup.dtype not in DTYPES:
        field = "precision" if plan.precision else "batch.dtype"
        yield NotExpressible(field, NAME, version, f"it trains in {' and '.join(DTYPES)}, not in {setup.dtype}")
    if plan.optimizer not in OPTIMIZERS:
        yield NotExpressible("optimizer", NAME, version, f"it has {' and '.join(OPTIMIZERS)}")
    if plan.num_micro_batches(setup.batch) > 1:
        why = "fit takes the rows of a step at once"
        yield NotExpressible("micro_batch", NAME, version, why, f"Set it to {setup.batch.global_batch // plan.data_parallel}.")
    if plan.num_devices > setup.cluster.node.devices_per_node:
        yield NotExpressible("data_parallel", NAME, version, "its program is one process, of one node")


_TITLE: Final = "a program of Keras on JAX: DataParallel, or ModelParallel with a LayoutMap"
TARGETS.register(
    NAME,
    Target(NAME, ("3.15.1",), _TITLE, entries, write, lambda text, name: settings_in(text, NAME), refuses, __doc__ or ""),
)
