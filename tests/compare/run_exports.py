"""Runs what `parsim export` writes, for real, on this machine: `PYTHONPATH=tests python tests/compare/run_exports.py [TARGET] OPTIONS`.

Each case is exported to a folder and its command run there; a program prints a line of JSON a step: step, loss, seconds.  Beside these
stand the losses of `parsim execute` in float32.  PYTHON is one that has the target's packages, or TARGET=PYTHON, once each; its folder
leads the PATH of the command.  --rows FILE takes rows that were printed before, and nothing runs.
--readme puts rows into the table of README.md; with --machine FILE, which `parsim calibrate --out FILE` wrote, each row of the table gets
the step that parsim predicts on this machine, whose software is calibrated on a few of them (export_stacks.py).
Exit 1 where losses differ: 1e-6 relative at step 1, 1e-4 over all steps (another order of sums in float32).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from compare.export_stacks import Timed, find, said
from parsim import units
from parsim.calibrate.machine import load_node
from parsim.cluster.cluster import Cluster
from parsim.estimator.cells import short
from parsim.executor.run import execute
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.scenario.source import Source
from parsim.scenario.tree import read as read_tree
from parsim.targets import Launch, export_plan

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = 20
WARM: Final = 2  # steps whose time does not count
FIRST, ALL = 1e-6, 1e-4  # relative differences of losses that another order of sums may make
MOST_S: Final = 600
# Where there is no accelerator, or one that is not asked.
_CPUS: Final = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
BEGIN, END = "<!-- exports that ran: begin -->", "<!-- exports that ran: end -->"
FOUND: Final = "<!-- software of exports: begin -->", "<!-- software of exports: end -->"
MEASURED: Final = 10  # cells of a row that a run says
SERVED: Final = "tensorflow-parameter-server"
_BASES: Final = {"pytorch": "pytorch-cpu", "tensorflow": "tensorflow-cpu", SERVED: "tensorflow-cpu", "keras": "jax-cpu"}


class Case(Struct, frozen=True):
    """A plan of a scenario that a target runs."""

    target: str
    scenario: str  # a file in scenarios/
    plan: str | Plan  # its name, or one that the scenario has not
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    nodes: int = 1  # of a plan that the scenario has not
    calibrates: bool = False  # whether what is predicted of its software rests on it

    @property
    def label(self) -> str:
        """The plan in a few words."""
        if isinstance(self.plan, str):
            return self.plan
        more = [self.plan.gradient_sync] * (self.plan.gradient_sync != "all_reduce") + [f"{self.nodes} nodes"] * (self.nodes > 1)
        return ", ".join([short(self.plan), *more])

    @property
    def cells(self) -> tuple[str, str, str]:
        """The target, the scenario and the plan, as a row begins."""
        changed = ", wider" if "model.hidden_size" in self.changes else ", no dropout, fp32" if "model.dropout" in self.changes else ""
        return self.target, self.scenario + changed, f"`{self.label}`" if isinstance(self.plan, str) else self.label

    @property
    def software(self) -> str:
        """What runs it: that which has launches and messages of its own kind."""
        plan = self.load().legal_plan(self.plan)
        if self.target == SERVED or (self.nodes > 1 and plan.gradient_sync == "master"):
            return "tensorflow, a coordinator"
        if self.target != "pytorch":
            return f"{self.target}, a process a rank" if self.nodes > 1 else self.target
        return "pytorch, DTensor" if plan.tensor_parallel > 1 else "pytorch, FSDP" if plan.zero_stage == 3 else "pytorch"

    def load(self) -> Scenario:
        """The scenario, changed; a plan of its own runs on a node that it fills."""
        scenario = Source(ROOT / "scenarios" / f"{self.scenario}.yaml", changes=self.changes).load()
        if isinstance(self.plan, str):
            return scenario
        node = replace(scenario.cluster.node, devices_per_node=self.plan.num_devices // self.nodes)
        fabric = Source(ROOT / "scenarios" / "table5-175b.yaml").load().cluster.fabric if self.nodes > 1 else None
        return replace(scenario, cluster=Cluster(node, self.nodes, fabric))


class Ran(Struct, frozen=True):
    """What came of it: losses by step of the program and of `parsim execute`."""

    case: Case
    ranks: int
    losses: list[float]
    executed: tuple[float, ...]
    measured_s: float  # the median step

    @property
    def differences(self) -> list[float]:
        """Relative, by step."""
        return [abs(a - b) / b for a, b in zip(self.losses, self.executed, strict=True)]

    @property
    def agrees(self) -> bool:
        """Whether the losses are equal as far as sums in another order can be."""
        return self.differences[0] <= FIRST and max(self.differences) <= ALL


_TINY: Final = {"model.dropout": 0, "batch.dtype": "fp32"}
# With seeds 0 and 1 what enters a rectifier comes so near to 0 within 20 steps that float32 and float64 of `parsim execute` itself part.
_SEED: Final = {"seed": 3}
_WIDE: Final = {
    "seed": 3,
    "model.activation": "gelu",
    "training.learning_rate": 0.0003,
    "model.hidden_size": 512,
    "model.ffn_hidden_size": 1024,
    "batch.global_batch": 256,
}
_SERVED: Final = Plan(data_parallel=2, micro_batch=32, gradient_sync="master")
_ONE, _TWO = Plan(micro_batch=64), Plan(data_parallel=2, micro_batch=32)
CASES: Final = (
    *(Case("pytorch", "tiny-gpt-pydoc", name) for name in ("windows", "windows_and_layers", "windows_and_columns", "layers_and_columns")),
    Case("pytorch", "tiny-gpt-pydoc", Plan(tensor_parallel=2, micro_batch=8), calibrates=True),
    Case("pytorch", "tiny-gpt-pydoc", Plan(data_parallel=2, micro_batch=4, zero_stage=3, recompute="full"), calibrates=True),
    Case("pytorch", "tiny-gpt-pydoc", Plan(data_parallel=2, micro_batch=8, zero_stage=3)),
    Case("pytorch", "tiny-gpt-pydoc", Plan(data_parallel=4, micro_batch=2, zero_stage=3, zero_group=2)),
    Case("pytorch", "tiny-gpt-pydoc", Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, micro_batch=4, zero_stage=3)),
    Case("pytorch", "tiny-gpt-pydoc", Plan(data_parallel=2, micro_batch=8, zero_stage=1)),
    *(Case("pytorch", "tiny", name, _TINY) for name in ("master", "tensor", "sequence", "pipeline", "interleaved")),
    Case("pytorch", "tiny", Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="zero_bubble_v"), _TINY),
    *(Case("pytorch", "digits-mlp", name, _SEED) for name in ("data_parallel", "master", "layers", "columns_and_rows")),
    *(Case("pytorch", "digits-mlp", name, _SEED) for name in ("data_and_layers", "data_and_columns", "layers_and_columns")),
    Case("pytorch", "tiny-gpt-pydoc", Plan(micro_batch=16), calibrates=True),
    Case("pytorch", "digits-mlp", _ONE, _SEED, calibrates=True),
    Case("pytorch", "digits-mlp", _TWO, _SEED, calibrates=True),
    Case("pytorch", "digits-mlp", Plan(tensor_parallel=2, micro_batch=64), _SEED, calibrates=True),
    Case("pytorch", "digits-mlp", Plan(data_parallel=2, micro_batch=32, zero_stage=3), _SEED, calibrates=True),
    Case("pytorch", "digits-mlp", Plan(pipeline_parallel=2, micro_batch=16), _SEED, calibrates=True),
    Case("pytorch", "digits-softmax", "one"),
    Case("pytorch", "digits-regression", "replicas"),
    Case("pytorch", "digits-mlp", Plan(data_parallel=2, micro_batch=128), _WIDE, calibrates=True),
    Case("tensorflow", "digits-softmax", "one", calibrates=True),
    *(Case("tensorflow", "digits-regression", name) for name in ("replicas", "master")),
    Case("tensorflow", "digits-mlp", "data_parallel", _SEED, calibrates=True),
    Case("tensorflow", "digits-mlp", "master", _SEED),
    Case("tensorflow", "digits-mlp", _ONE, _SEED),
    Case("tensorflow", "digits-mlp", _TWO, _SEED),
    Case("tensorflow", "digits-mlp", Plan(data_parallel=2, micro_batch=128), _WIDE),
    Case("tensorflow", "digits-mlp", Plan(data_parallel=2, micro_batch=16), _SEED, nodes=2, calibrates=True),
    Case("tensorflow", "digits-regression", Plan(data_parallel=2, micro_batch=16), nodes=2),
    Case("tensorflow", "digits-mlp", _SERVED, _SEED, nodes=2),
    Case("tensorflow-parameter-server", "digits-mlp", Plan(micro_batch=64, gradient_sync="master"), _SEED),
    Case("tensorflow-parameter-server", "digits-regression", Plan(micro_batch=32, gradient_sync="master")),
    Case("keras", "digits-mlp", "data_parallel", _SEED, calibrates=True),
    Case("keras", "digits-mlp", "columns_and_rows", _SEED, calibrates=True),
    Case("keras", "digits-mlp", "data_and_columns", _SEED),
    Case("keras", "digits-mlp", _ONE, _SEED),
    Case("keras", "digits-mlp", _TWO, _SEED),
    Case("keras", "digits-mlp", Plan(tensor_parallel=2, micro_batch=64), _SEED),
    Case("keras", "digits-mlp", Plan(data_parallel=2, micro_batch=128), _WIDE),
    Case("keras", "digits-regression", "replicas", calibrates=True),
    Case("keras", "digits-mlp", Plan(data_parallel=4, tensor_parallel=2, micro_batch=16), _SEED),
)


def main() -> int:
    """The exit status: 0 where all losses agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", help="only cases of this one")
    parser.add_argument("--python", action="append", default=[], help="an interpreter that has the target's packages, or TARGET=PYTHON")
    parser.add_argument("--rows", nargs="+", type=Path, default=[], help="files of rows that were printed before; nothing runs")
    parser.add_argument("--machine", type=Path, help="what `parsim calibrate` wrote")
    parser.add_argument("--only", default="", help="cases whose scenario and plan hold this text")
    parser.add_argument("--readme", action="store_true", help="put the rows into the table of README.md, which keeps those of other cases")
    asked = parser.parse_args()
    if asked.machine:
        load_node(asked.machine)  # or an error, before the work
    chosen = [each for each in CASES if asked.target in (None, each.target) and asked.only in f"{each.scenario} {each.label}"]
    pythons = _pythons(asked.python)
    found: list[Ran] = []
    for case in () if asked.rows else chosen:
        found.append(run(case, pythons.get(case.target) or pythons.get("") or sys.executable))
        print(line(found[-1]), flush=True)
    rows = [each for path in asked.rows for each in path.read_text(encoding="utf-8").splitlines() if each.startswith("| ")]
    if asked.readme:
        into_readme([*rows, *map(line, found)], asked.machine)
    return 0 if all(each.agrees for each in found) else 1


def _pythons(given: list[str]) -> dict[str, str]:
    """Interpreters by target; "": that of all others."""
    return {name: path for name, _, path in (each.rpartition("=") for each in given)}


def run(case: Case, python: str) -> Ran:
    """Export a case, run it, and execute the same."""
    scenario = case.load()
    plan = scenario.legal_plan(case.plan)
    with tempfile.TemporaryDirectory() as folder:
        steps = program(case, scenario, Path(folder), python)
    executed = execute(scenario, plan, num_steps=len(steps), precision="float32", clocks=False).losses
    measured = statistics.median([each["seconds"] for each in steps][WARM:] or [steps[-1]["seconds"]])
    return Ran(case, plan.num_devices, [each["loss"] for each in steps], executed, measured)


def program(case: Case, scenario: Scenario, folder: Path, python: str, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What the exported program prints of each step; it does not find its data `without`."""
    launch = export_plan(scenario, case.plan, case.target)
    kept = {name: make for name, make in launch.data.items() if name not in without}
    said = run_export(replace(launch, data=kept), folder, Path(python), case.steps)
    return [each for each in said if "loss" in each]


def run_export(
    launch: Launch, folder: Path, python: Path, num_steps: int, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The lines of JSON that the first task prints; each line of the command is a task here, and all are ended behind the first."""
    write_export(launch, folder)
    path = os.pathsep.join([str(python.parent.absolute()), os.environ["PATH"]])
    own = {**os.environ, "PATH": path, "PYTHONPATH": "", "STEPS": str(num_steps), **_CPUS, **(environment or {})}
    lines = [f"{line.partition('  #')[0]} --steps {num_steps}" for line in launch.command.splitlines()]
    with contextlib.ExitStack() as stack:
        for number, line in enumerate(lines[1:], 1):
            stack.enter_context(_task(line, folder, own, number))
        with _task(lines[0], folder, own, 0) as first:
            status = first.wait(MOST_S)
    said, failed = ((folder / name).read_text(encoding="utf-8") for name in ("task0.out", "task0.err"))
    if status:
        raise RuntimeError(f"{lines[0]}\n{failed[-4000:]}")
    return [json.loads(each) for each in said.splitlines() if each.startswith("{")]


def write_export(launch: Launch, folder: Path) -> None:
    """Its files, with an address of this machine for each that they name."""
    hosts = sorted({host for text in launch.files.values() for host in re.findall(r'"(node\d+:\d+)"', text)})
    addresses = dict(zip(hosts, _free_addresses(len(hosts)), strict=True))
    for name, text in launch.files.items():
        for host, address in addresses.items():
            text = text.replace(f'"{host}"', f'"{address}"')
        (folder / name).write_text(text, encoding="utf-8")
    for name, make in launch.data.items():
        (folder / name).write_bytes(make())


@contextlib.contextmanager
def _task(line: str, folder: Path, environment: Mapping[str, str], number: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"task{number}.out").open("wb") as out, (folder / f"task{number}.err").open("wb") as err:
        task = subprocess.Popen(["bash", "-c", line], cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            yield task
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGKILL)
            task.wait()


def _free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def line(ran: Ran) -> str:
    """A row of the table, which nothing is predicted of yet."""
    case = ran.case
    losses = [f"{each:.6f}" for place in (0, -1) for each in (ran.losses[place], ran.executed[place])]
    cells = (*case.cells, str(ran.ranks), *losses, f"{max(ran.differences):.0e}", units.format(ran.measured_s, "s"))
    return f"| {' | '.join((*cells, '', '', ''))} |"


def into_readme(rows: list[str], machine: Path | None) -> None:
    """Put the rows between the table's marks, in place of those of the same cases; with a machine, its predictions of all of them."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    every = list(table([*between(text, BEGIN, END).splitlines(), *rows]))
    if machine:
        cases, own = {case.cells: case for case in CASES}, every[2:]
        found = list(find([_timed(cases[_cells(each)[:3]], _cells(each)) for each in own], dict(read_tree(machine).value)))
        seconds = {name: each for one in found for name, each in one.predicted_s.items()}
        text = put(text, *FOUND, "\n".join(f"* {said(each)}" for each in found))
        every[2:] = [predicted(each, cases[_cells(each)[:3]], seconds) for each in own]
    path.write_text(put(text, BEGIN, END, "\n".join(every)), encoding="utf-8")


def between(text: str, begin: str, end: str) -> str:
    """What stands between two marks of README.md."""
    if begin not in text or end not in text:
        raise SystemExit(f"README.md has no {begin} ... {end}")
    return text.partition(begin)[2].partition(end)[0].strip()


def put(text: str, begin: str, end: str, own: str) -> str:
    """The text with something else there."""
    between(text, begin, end)
    return f"{text.partition(begin)[0]}{begin}\n{own}\n{end}{text.partition(end)[2]}"


def _cells(row: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in row.strip()[1:-1].split("|"))


def _timed(case: Case, cells: tuple[str, ...]) -> Timed:
    """A case with the step that a row says."""
    scenario = case.load()
    plan, seconds = scenario.legal_plan(case.plan), units.parse(cells[MEASURED - 1], "s")
    return Timed(" ".join(case.cells), _BASES[case.target], case.software, scenario, plan, seconds, case.calibrates)


def predicted(row: str, case: Case, found: Mapping[str, float]) -> str:
    """The row with what is predicted of it, how far off that is, and whether it rests on the row."""
    cells = _cells(row)[:MEASURED]
    told = ("", "", "nothing to rest on")
    if (seconds := found.get(" ".join(case.cells))) is not None:
        error = seconds / units.parse(cells[-1], "s") - 1.0
        told = (units.format(seconds, "s"), f"{error:+.0%}", "calibrated on" if case.calibrates else "left out")
    return f"| {' | '.join((*cells, *told))} |"


def table(rows: list[str]) -> Iterator[str]:
    """The last row of each case, in the order of CASES, under their heads; a row of none of them is left out."""
    measured = "target | scenario | plan | ranks | loss 1 | executed | last loss | executed | most apart | step"
    yield f"| {measured} | predicted | error | its software |"
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    last = {_cells(each)[:3]: each for each in rows}
    yield from (last[case.cells] for case in CASES if case.cells in last)


if __name__ == "__main__":
    sys.exit(main())
