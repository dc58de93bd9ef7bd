"""`parsim init`: a scenario that says of each line what it means, what else may stand there, and what to ask next."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from parsim import catalog
from parsim.errors import NoFeasiblePlan, ParsimError, did_you_mean
from parsim.parallel.plan import KEYS, Plan
from parsim.report.console import log, patience, say
from parsim.report.examples import EXAMPLES
from parsim.scenario import Scenario
from parsim.scenario.document import DEFAULT_STACK
from parsim.scenario.source import Source

Options = Mapping[str, str | int | None]
# The questions, each with its default ("" for what follows from the others), what it means, and which answers there are.
_QUESTIONS: Final[tuple[tuple[str, str, str, str], ...]] = (
    (
        "model",
        "llama3-8b",
        "the model",
        "gpt3-13b, llama3-70b, mixtral-8x7b, bert-large, hf:path/to/config.json ...; all: parsim list models",
    ),
    ("node", "hgx-h100-80gb", "the kind of node, or its accelerator", "a100-40gb, h200, dgx-b200, mi300x ...; all: parsim list nodes"),
    ("num_devices", "", "how many devices", "a node's where left empty"),
    ("sequence_length", "", "tokens of a sequence", "the model's longest, at most 8192, where left empty"),
    ("global_batch", "", "sequences of an optimizer step, all replicas together", "about 4 M tokens where left empty"),
    ("dtype", "bf16", "the precision", "fp32, fp16, bf16, fp8, mxfp8, nvfp4 ..."),
    (
        "stack",
        "",
        "the software",
        f"torchtitan, megatron-bridge ...; all: parsim list stacks; {DEFAULT_STACK}, or the device's own, where left empty",
    ),
)
_PLAIN: Final = re.compile(r"[A-Za-z][\w.-]*")
_OPEN: Final = ("tensor_parallel", "pipeline_parallel", "sequence_parallel", "micro_batch", "recompute")
_SEARCH: Final = f"{{{', '.join(f'{axis}: auto' for axis in _OPEN)}, zero_stage: [0, 1, 3]}}"


def write_example(name: str, out: Path | None) -> int:
    """The exit status of writing one of EXAMPLES: 0.

    Raises:
        ParsimError: there is none of that name, or something stands at the place.
        OSError: it cannot be written.
    """
    if name not in EXAMPLES:
        known = "\n".join(f"  {each}: {about}" for each, (_, about) in EXAMPLES.items())
        raise ParsimError(f"no example '{name[:80]}'{did_you_mean(name, EXAMPLES)}", remedy=f"Examples:\n{known}")
    file = EXAMPLES[name][0]
    text = (resources.files("parsim") / "examples" / f"{file}.yaml").read_text(encoding="utf-8")
    path = _write_new(out or Path(f"{file}.yaml"), text)
    first = next(iter(Source(path).load().plans))
    _tell(path, [("execute", f"--plan {first}", "trains it here: the loss of each step"), ("verify", "", "prediction against execution")])
    return 0


def write_scenario(options: Options, out: Path | None) -> int:
    """The exit status of writing a scenario of these options, with the best plan that there is: 0.

    Raises:
        ParsimError: an option is wrong or lacks, and nobody can be asked; or something stands at the place.
        OSError: it cannot be written.
    """
    path = out or Path("scenario.yaml")
    _refuse_overwriting(path)
    told = dict(options)
    if not told.get("model") or not told.get("node"):
        if not sys.stdin.isatty():
            remedy = "E.g. parsim init --model llama3-8b --node a100-40gb --num-devices 16; on a terminal it asks for what it lacks."
            raise ParsimError("needs --model and --node", remedy=remedy)
        told = _ask(told)
    source = Source(options=told)
    scenario = source.load()
    if scenario.notes:
        log("; ".join(scenario.notes))
    best = _best(scenario)
    _write_new(path, _text(scenario, told, path, best))
    runs = [("run", "", "step time and memory, with a figure")] if best else []
    _tell(path, [*runs, ("plan", "", "the best plans, or what would fit where none does")])
    return 0


def _best(scenario: Scenario) -> Plan | None:
    from parsim.planner import plan

    with patience(f"looking for the best plan of {scenario.model.name}"):
        try:
            rows = plan(scenario, top=1).rows
        except NoFeasiblePlan:
            return None
    return rows[0].plan if rows else None


def _ask(options: Options) -> dict[str, Any]:
    """The options with answers to what they leave out; an answer that cannot be is told why, and asked for again."""
    told = dict(options)
    log("A scenario, question by question; an empty answer takes the one in brackets, Ctrl-D leaves without a file.")
    for name, default, what, known in _QUESTIONS:
        if told.get(name) is not None:
            continue
        while True:
            sys.stderr.write(f"{what} ({known}) [{default or 'as said'}]: ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
            if not answer:
                raise ParsimError("no more answers, and nothing is written", remedy="Give the rest as options: parsim init --help.")
            told[name] = answer.strip() or default or None
            if not (wrong := _wrong(told, name)):
                break
            log("\n".join(wrong))
    return _numbers(told)


def _wrong(told: Options, name: str) -> list[str]:
    """What is wrong with an answer, beside those before it and defaults for those to come."""
    value = told[name]
    if name.startswith(("num", "global", "sequence")) and value is not None and not re.fullmatch(r"[1-9]\d{0,8}", str(value)):
        return [f"must be a number from 1, not '{str(value)[:40]}'"]
    defaults = {each: default for each, default, *_ in _QUESTIONS if each in ("model", "node")}
    given = {each: value for each, value in _numbers(told).items() if value is not None}
    faults = Source(options={**defaults, **given}).faults()
    return [str(fault) for fault in faults if f"--{name.replace('_', '-')}" in str(fault)] or [
        str(fault) for fault in faults if name == "stack"
    ]


def _numbers(told: Options) -> dict[str, str | int | None]:
    return {name: int(value) if isinstance(value, str) and value.isdecimal() and name != "model" else value for name, value in told.items()}


def _text(scenario: Scenario, told: Options, path: Path, best: Plan | None) -> str:
    """The file: each part under a line that says what it means and what else may stand there."""
    model, node, stack = _model(str(told["model"]), path), scenario.cluster.node.name, scenario.stack.name
    shown = shlex.quote(str(path))
    row = "a config.json of Hugging Face" if model.startswith("hf:") else f"its figures: parsim show {model}"
    batch, fabric = scenario.batch, scenario.cluster.fabric.name if scenario.cluster.fabric else None
    lines = [
        f"# {scenario.model.name} on {scenario.cluster.num_devices} devices, as `parsim init` wrote it; what stands behind a # is for you.",
        "# Next:",
        *(f"#   {command:<46} {why}" for command, why in _next(shown, best)),
        "# All keys, for your editor: parsim schema > scenario.schema.json",
        "",
        f"name: {_yaml(f'{scenario.model.name}-on-{node}')}  # of reports and their folder",
        "",
        f"# What is trained: a row of `parsim list models` ({row}), hf:path/to/config.json, or a row of your own that",
        "# starts from one, e.g. {base: llama3-8b, name: mine, num_layers: 40, source: mine}.",
        f"model: {_yaml(model)}",
        "",
        "cluster:",
        f"  node: {_yaml(node)}  # parsim list nodes; file:machine.yaml is what parsim calibrate wrote",
        f"  num_devices: {scenario.cluster.num_devices}  # {scenario.cluster.node.devices_per_node} a node; or num_nodes",
        f"  fabric: {_yaml(fabric)}  # between nodes: parsim list fabrics",
        "",
        "batch:",
        f"  global_batch: {batch.global_batch}  # sequences of an optimizer step, all replicas together",
        f"  sequence_length: {batch.sequence_length}  # tokens of each",
        f"  dtype: {_yaml(batch.dtype)}  # precision: fp32, fp16, bf16, fp8, mxfp8, nvfp4 ...; changes what is trained",
        "",
        f"stack: {_yaml(stack)}  # the software: parsim list stacks; what it keeps, fuses and overlaps",
        "",
        *_plans(best),
    ]
    return "\n".join(lines) + "\n"


def _next(path: str, best: Plan | None) -> Iterator[tuple[str, str]]:
    yield f"parsim check {path}", "all mistakes of it at once"
    if best:
        yield f"parsim run {path}", "step time, memory, why, with a figure"
        yield f"parsim explain {path} best step", "where a figure comes from"
        yield f"parsim whatif {path}", "were the network or the devices faster"
    yield f"parsim plan {path}", "the best plans, and what would fit where none does"


def _plans(best: Plan | None) -> Iterator[str]:
    yield "# Ways to split a step, each under its name; what is left out has its default, data_parallel what remains of the devices."
    yield "# Any value may be `auto` or a list: then parsim plan fills it."
    yield "plans:"
    if best:
        yield "  best:  # as parsim plan found it"
        yield from (f"    {key}: {_yaml(value)}  # {KEYS[key].description}" for key, value in _keys(best))
    else:
        yield "  # none fits the memory of these devices: parsim plan says which changes would"
    yield f"  search: {_SEARCH}"


def _keys(plan: Plan) -> Iterator[tuple[str, Any]]:
    """What a file says of a plan: its degrees, and all that is not the default."""
    default = Plan().to_dict()
    for key, value in plan.to_dict().items():
        if key in ("data_parallel", "tensor_parallel", "pipeline_parallel", "micro_batch") or value != default[key]:
            yield key, value


def _model(named: str, path: Path) -> str:
    """The model as a file in that place names it."""
    kind, colon, config = named.partition(":")
    if colon and kind == "hf" and os.path.exists(config):
        return f"hf:{os.path.relpath(config, path.parent)}"
    return named if colon else catalog.find("models", named) or named


def _yaml(value: Any) -> str:
    """The value as YAML has it on a line.

    >>> _yaml("llama3-8b"), _yaml("a: b"), _yaml((1, 2)), _yaml(True)
    ('llama3-8b', '"a: b"', '[1, 2]', 'true')
    """
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off")
    return str(value) if plain else json.dumps(value)


def _refuse_overwriting(path: Path) -> None:
    if os.path.lexists(path):
        raise ParsimError(
            "stands there already, and nothing is overwritten", str(path), f"Name another file with -o, or parsim check {path}."
        )


def _write_new(path: Path, text: str) -> Path:
    """The path, where the text now stands; nothing is left there where it cannot be written whole."""
    _refuse_overwriting(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        if not isinstance(error, FileExistsError):  # somebody else's by now
            path.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
    return path


def _tell(path: Path, commands: list[tuple[str, str, str]]) -> None:
    shown = shlex.quote(str(path))
    log(f"wrote {path}")
    for command, options, why in [("check", "", "all mistakes of it at once"), *commands]:
        say(f"parsim {command} {shown} {options}".rstrip() + f"  # {why}")
