"""From the file of a job that somebody has to a scenario: what the file says, what was said beside it, and defaults, each named as such.

How a launcher's keys are read stands with the launcher; what a scenario may be, in parsim.scenario.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import catalog
from parsim.arguments import check_arguments
from parsim.errors import ParsimError, ScenarioError
from parsim.parallel.plan import KEYS
from parsim.scenario import Scenario
from parsim.scenario.build import add_usual, build
from parsim.scenario.changes import change
from parsim.scenario.defaults import node_called, stack_on
from parsim.scenario.huggingface import PREFIX
from parsim.scenario.inline import resolve
from parsim.scenario.left_open import in_words
from parsim.scenario.source import Source
from parsim.scenario.tree import Place, Tree, of, path_of
from parsim.targets.commented import yaml_text
from parsim.targets.dense import Dense
from parsim.targets.exporting import find
from parsim.targets.file_text import raw_of, text_of
from parsim.targets.importing import read_job
from parsim.targets.kinds import kinds_in
from parsim.targets.model_files import ModelFile, read_model, refuse_logs
from parsim.targets.target import MICRO_BATCHES, ForeignJob, Left, Neighbours

# Keys of a job that are of no scenario: micro-batches of a replica in a step, which give the global batch by micro_batch, or the reverse.
MICRO_BATCHES_OF_ALL: Final = "micro_batches_of_all"
MODELS: Final = ("keras", "onnx")
_DEGREES: Final = ("tensor_parallel", "pipeline_parallel", "context_parallel")
# Keys of a plan that are left out where they say nothing; of others it counts whether they are said.
_OFF: Final = (
    *_DEGREES,
    "expert_parallel",
    "expert_tensor_parallel",
    "virtual_pipeline",
    "sequence_parallel",
    "zero_stage",
    "offload_optimizer",
)
# Launchers whose software bears another name: the Trainer of transformers runs on accelerate, MaxText is JAX on XLA.
_STACKS: Final = {"accelerate": "hf-trainer", "maxtext": "jax-xla"}
_MOST_FOLDERS: Final = 10
_KINDS: Final = "cluster.nodes"
_ODD: Final = "it is no "  # how Keys tells a value of another kind
_LISTS: Final = ("layers_per_stage", "schedule")
_ORDER: Final = ("name", "model", "cluster", "batch", "tuning", "stack", "training", "data", "plans", "seed")
_WORD: Final = re.compile(r"\w[\w-]*")
# Keys that name a model.
_OF_MODEL: Final = re.compile(
    r"(hf_model|script\.model_\w+|model class|module|config|model_name|model\.(name|flavor)|decoder_block|use_multimodal)$"
)
_NONE: Final[Mapping[str, Any]] = {}


class ImportedJob(Struct, frozen=True):
    """A job of a launcher as a scenario with one plan, and what of its file that does not say."""

    target: str
    version: str
    plan: str  # its name in the scenario
    scenario: Scenario
    document: Mapping[str, Any]  # the scenario, as its file has it
    text: str  # the same as YAML, with comments
    assumed: Mapping[str, str]  # by dotted path, why it is so though nobody said it
    left: tuple[Left, ...]  # what was not carried over
    layers: tuple[Dense, ...] = ()  # of a model's file, one by one

    def to_dict(self) -> dict[str, Any]:
        """All but the scenario, which its document says."""
        left = [{"key": each.key, "value": each.value, "why": each.why, "line": each.line} for each in self.left]
        told = {"target": self.target, "version": self.version, "plan": self.plan, "scenario": dict(self.document)}
        return {**told, "assumed": dict(self.assumed), "left": left, "layers": [each.row() for each in self.layers]}


@check_arguments
def import_job(
    path: str | Path,
    *,
    target: str = "",
    plan: str = "imported",
    changes: Mapping[str, Any] = _NONE,
    model: str | None = None,
    node: str | None = None,
    num_devices: int | None = None,
    num_nodes: int | None = None,
    fabric: str | None = None,
    global_batch: int | None = None,
    sequence_length: int | None = None,
    dtype: str | None = None,
    stack: str | None = None,
) -> ImportedJob:
    """The scenario of the job that a launcher's file says; what it does not say of model and cluster stands in the options.

    Args:
        target: "NAME" or "NAME@VERSION" of `parsim list targets`; found by the file's form where left out.
        plan: the name of the plan.
        changes: values in place of the file's, by dotted path of the scenario, as `load` takes them.
        model, node, fabric, stack: names of the catalog.  num_devices, num_nodes, global_batch (sequences), sequence_length (tokens),
            dtype: as in a scenario.

    Raises:
        ParsimError: the file cannot be read, no launcher reads it, or it says too little.
        ScenarioError: what it says is no legal scenario.
    """
    options = {"model": model, "node": node, "num_devices": num_devices, "num_nodes": num_nodes, "fabric": fabric, "stack": stack}
    batch = {"global_batch": global_batch, "sequence_length": sequence_length, "dtype": dtype}
    return import_source(Source(Path(path), {**options, **batch}, changes=changes), target, plan)


def import_source(source: Source, target: str = "", plan: str = "imported", folder: Path | None = None) -> ImportedJob:
    """The same of a file with what was said beside it; `folder`: where the scenario will lie, which may name files beside it."""
    path = source.file or Path()
    model, text, job = _read(path, target)
    asked = source.all_changes()
    of_kinds = any(each.path == _KINDS or each.path.startswith(f"{_KINDS}.") for each in asked)  # which say how many devices there are
    kinds = {} if any(each.path.startswith("cluster") for each in asked) else kinds_in(text)
    own = _document(replace(job, num_devices=None) if of_kinds or kinds else job, path, plan)
    tree = of({**own, "cluster": {**own.get("cluster", {}), **kinds}} if kinds else own, str(path))
    change(tree, asked)
    if tree.faults:
        raise ScenarioError.of(tree.faults)
    _check_there(tree.value, path, job.left)
    if not any(each.path.partition(".")[0] == "stack" for each in asked):
        _move_stack(tree.value)
    reasons = _fill(tree, job, plan, model)
    _move_files(tree.value, folder)
    document = {key: tree.value[key] for key in sorted(tree.value, key=lambda key: (*_ORDER, key).index(key))}
    left = _with_lines(job.left, text, str(source.file).partition("::")[2])
    found = _result(job, path, plan, document, reasons, left)
    return replace(found, layers=model.layers) if model else found


def _read(path: Path, target: str) -> tuple[ModelFile | None, str, ForeignJob]:
    """What the file is: of a model, or the text of a job."""
    whole, _, function = str(path).partition("::")
    path = Path(whole) if function and not path.exists() else path
    raw = raw_of(path, whole=False)
    if target in ("", *MODELS) and (model := read_model(path, raw)):
        return model, "", model.job
    text = text_of(raw_of(path), path)
    refuse_logs(text, path)
    found, version = find(target) if target else (None, "")
    name = f"{path}::{function}" if function else str(path)
    asked = version if "@" in target else ""
    return None, text, read_job(text, name, found.name if found else "", _beside(path), asked=asked)


def _beside(path: Path) -> Neighbours:
    """What reads the other files of the package that a file lies in, by their paths from its root, which is a folder above it."""

    def read(other: str) -> str | None:
        if Path(other).is_absolute() or ".." in Path(other).parts:
            return None
        there = (folder / other for folder in [*path.resolve().parents][:_MOST_FOLDERS])
        file = next((each for each in there if each.is_file()), None)
        return text_of(raw_of(file), file) if file else None

    return read


def _document(job: ForeignJob, path: Path, plan: str) -> dict[str, Any]:
    """The keys of the job as sections of a scenario."""
    document: dict[str, Any] = {"name": path.stem or "job", "stack": _stack_of(job.target) or None, "plans": {plan: {}}}
    for key, value in job.keys.items():
        section, _, rest = key.partition(".")
        if key in (MICRO_BATCHES, MICRO_BATCHES_OF_ALL) or value is None:
            continue
        if not rest:
            document[section] = value
        elif section == "plan":
            if value == "auto" or (isinstance(value, list) and not isinstance(KEYS[rest].default, tuple) and rest not in _LISTS):
                raise ParsimError(f"says {rest} = {str(value)[:60]}, which is no value of it", str(path), f"Set plans.{plan}.{rest}.")
            if rest not in _OFF or value != KEYS[rest].default:
                document["plans"][plan][rest] = list(value) if isinstance(value, tuple) else value
        else:
            part = document.get(section, {})
            document[section] = {**({"base": part} if isinstance(part, str) else part), rest: value}
    if job.num_devices is not None:
        document.setdefault("cluster", {})["num_devices"] = job.num_devices
    document["stack"] = _as_row(document["stack"])
    if isinstance(document.get("model"), dict):
        document["model"] = {"name": document["name"], **document["model"], "source": f"{path.name}, a job of {job.target}"}
    return {key: value for key, value in document.items() if value is not None}


def _stack_of(target: str) -> str:
    """The row of a launcher's software, the newest release where there are several; "" where none is known."""
    return catalog.find("stacks", _STACKS.get(target, target))


def _as_row(stack: Any) -> Any:
    """A stack without the figures that its row has anyway."""
    if not isinstance(stack, dict) or not catalog.find("stacks", str(base := stack.get("base"))):
        return stack
    row = resolve("stacks", catalog.find("stacks", str(base)))
    own = {name: value for name, value in stack.items() if name == "base" or getattr(row, name, None) != _frozen(value)}
    return own if len(own) > 1 else base


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_there(value: Mapping[str, Any], path: Path, left: Sequence[Left]) -> None:
    """Refuse a job of which nobody says what is trained, or on what.

    Raises:
        ParsimError: so it is.
    """
    cluster = value.get("cluster", {})
    there = {"model": "model" in value, "node": isinstance(cluster, dict) and ("node" in cluster or "nodes" in cluster)}
    if missing := [name for name, is_there in there.items() if not is_there]:
        example = {"model": "--model llama3-8b", "node": "--node hgx-h100-80gb"}
        lost = "".join(f"\n{path.name}{said_of(each)}" for each in left if "model" in missing and _OF_MODEL.match(each.key))
        said = f"says no {' and no '.join(missing)}, which a prediction needs{lost}"
        raise ParsimError(said, str(path), f"Add e.g. {' '.join(example[each] for each in missing)}; see `parsim list {missing[0]}s`.")


def _fill(tree: Tree, job: ForeignJob, plan: str, model: ModelFile | None) -> dict[Place, str]:
    """Add to the values of a tree what the job leaves open; by place why it is so."""
    value, reasons = tree.value, model.reasons if model else {}
    stated = value["plans"].get(plan, {}) if isinstance(value.get("plans"), dict) else {}
    cluster, batch = (value.setdefault(section, {}) for section in ("cluster", "batch"))
    if not isinstance(stated, dict) or not isinstance(cluster, dict) or not isinstance(batch, dict):
        return {}  # which the check of the scenario tells
    if "stack" in value and "stack" not in job.keys and value["stack"] == _stack_of(job.target):
        reasons["stack",] = f"of {job.target}"
    inner = _product(stated, _DEGREES)
    if not {"num_devices", "num_nodes", "nodes"} & cluster.keys() and "data_parallel" in stated and inner:
        cluster["num_devices"] = inner * _product(stated, ("data_parallel",)) or None
        reasons["cluster", "num_devices"] = "as the degrees multiply to"
    if model:
        model.fill(value, plan, _num_devices(cluster))
    reasons |= _fill_batch(job, stated, batch, _num_devices(cluster), inner)
    if "dtype" not in batch:
        batch["dtype"] = "bf16"
        reasons["batch", "dtype"] = "by default"
    for section in (cluster, batch):
        for key in [key for key, each in section.items() if each is None]:
            del section[key]
    of_plan = {tuple(part or plan for part in place): why for place, why in reasons.items()}
    return of_plan | {(section, key): why for (section, key), why in add_usual(tree).items()}


def _fill_batch(job: ForeignJob, stated: dict[str, Any], batch: dict[str, Any], num_devices: int, inner: int) -> dict[Place, str]:
    """Of global and micro batch the one that follows from the other, the micro-batches of a replica and the replicas."""
    replicas = _product(stated, ("data_parallel",)) if "data_parallel" in stated else num_devices // max(inner, 1)
    count, of_all = job.keys.get(MICRO_BATCHES), job.keys.get(MICRO_BATCHES_OF_ALL)
    if not replicas or not inner:
        return {}
    if "global_batch" not in batch and type(count) is int and count > 0 and (size := _product(stated, ("micro_batch",))):
        batch["global_batch"] = count * size * replicas
        return {("batch", "global_batch"): f"{size} x {count} micro-batches x {replicas} replicas"}
    train = batch.get("global_batch")
    if "micro_batch" not in stated and type(of_all) is int and type(train) is int and train > 0 and train % (replicas * of_all) == 0:
        stated["micro_batch"] = train // (replicas * of_all)
        return {("plans", "", "micro_batch"): f"{train} / {of_all} micro-batches / {replicas} replicas"}
    return {}


def _product(stated: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """Of the degrees of these names; 0 where one is no count, which the check of the scenario tells."""
    values = [stated.get(name, 1) for name in names]
    return prod(values) if all(type(each) is int and 0 < each < 10**6 for each in values) else 0


def _num_devices(cluster: Mapping[str, Any]) -> int:
    """Those of the cluster; 0 where its keys do not say it, or are at fault."""
    num, nodes, node = cluster.get("num_devices"), cluster.get("num_nodes", 1), cluster.get("node")
    if type(num) is int:
        return num
    row = catalog.find("nodes", node_called(node)) if isinstance(node, str) else ""
    return nodes * resolve("nodes", row).devices_per_node if row and type(nodes) is int else 0


def _move_stack(value: dict[str, Any]) -> None:
    """Take the row that the stack has for the devices of the job."""
    cluster, stack = value.get("cluster"), value.get("stack")
    node = cluster.get("node") if isinstance(cluster, dict) else None
    if isinstance(node, str) and isinstance(stack, dict) and isinstance(base := stack.get("base"), str):
        value["stack"] = {**stack, "base": stack_on(base, node)}
    elif isinstance(node, str) and isinstance(stack, str):
        value["stack"] = stack_on(stack, node)


def _move_files(value: dict[str, Any], folder: Path | None) -> None:
    """Name a model's file as seen from where the scenario will lie."""
    model = value.get("model")
    if folder and isinstance(model, str) and model.startswith(PREFIX) and (file := Path(model.removeprefix(PREFIX))).exists():
        value["model"] = f"{PREFIX}{os.path.relpath(file, folder)}"


def _with_lines(left: Sequence[Left], text: str, function: str) -> tuple[Left, ...]:
    """Each with the line of the file on which its key stands: that of its last part, which is not before those of the others.

    Of a file of several jobs the first behind the head of this one, or else of all.
    """
    head = re.search(rf"^(def )?{re.escape(function)}\b", text, re.MULTILINE) if function else None
    start = text.count("\n", 0, head.start()) + 1 if head else 0
    lines: dict[str, list[int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for word in _WORD.findall(line):
            lines.setdefault(word, []).append(number)
    found = (each.line or _line_of(each.key, lines, start) or _line_of(each.key, lines, 0) for each in left)
    return tuple(replace(each, line=line) for each, line in zip(left, found, strict=True))


def _line_of(key: str, lines: Mapping[str, Sequence[int]], at: int) -> int:
    """0 where it is not clear."""
    for part in key.removeprefix("script.").split("."):
        there = lines.get(part) or lines.get(part.replace("_", "-"), ())
        found = bisect_left(there, at)
        if found == len(there):
            return 0
        at = there[found]
    return at


def _result(
    job: ForeignJob, path: Path, plan: str, document: dict[str, Any], reasons: Mapping[Place, str], left: tuple[Left, ...]
) -> ImportedJob:
    """The job, whose document is a legal scenario.

    Raises:
        ScenarioError: it is none.
    """
    beside = {place: f"assumed: {why}" for place, why in reasons.items()}
    tree = of(document, str(path))
    scenario, faults = build(tree, document["name"] if isinstance(document.get("name"), str) else path.stem)
    if scenario is None:
        missing = next((fault.where for fault in faults if fault.message.startswith("missing")), "")
        what = f"e.g. --set {missing}=VALUE" if missing else "--set PATH=VALUE"
        told = [each for each in left if (missing and each.why.startswith(_ODD)) or _OF_MODEL.match(each.key)]
        lost = [f"{path.name}{said_of(each)}" for each in told]
        remedy = f"So the file would train no plan that parsim knows; say what is wrong or missing by an option or {what}."
        raise ScenarioError("\n".join((*map(str, faults), *lost)), remedy=remedy, faults=tuple(faults))
    open_ = in_words(scenario.assumed, 1)
    below = [*(["Left open, and taken as:", f"  {open_}"] if open_ else []), *_left_lines(path, left)]
    text = yaml_text(
        document, [f"What {path.name} says of a job of {job.target} {job.version}, as `parsim import` read it."], beside, below
    )
    said = {path_of(place): why for place, why in reasons.items()}
    return ImportedJob(job.target, job.version, plan, scenario, document, text, said, left)


def _left_lines(path: Path, left: tuple[Left, ...]) -> list[str]:
    return ["Not carried over:", *(f"  {path.name}{said_of(each)}" for each in left)] if left else []


def said_of(left: Left) -> str:
    """In words: where, what, and why.

    >>> said_of(Left("steps_per_print", 10, "parsim has nothing that it says", 3))
    ':3: steps_per_print = 10: parsim has nothing that it says'
    """
    shown = repr(left.value)
    return f"{f':{left.line}' if left.line else ''}: {left.key} = {shown[:57] + '...' if len(shown) > 60 else shown}: {left.why}"
