"""`parsim calibrate --from`: from files of measurements to rows of one's own cluster, and the table of factors they rest on."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from parsim import __version__, catalog
from parsim.calibrate.collective_log import TimedCollective
from parsim.calibrate.measured_files import MeasuredFiles, read_files
from parsim.calibrate.own_cluster import TimedStep, calibrate_own
from parsim.calibrate.own_rows import OwnCluster, OwnFactor, RowBase
from parsim.errors import ParsimError, ScenarioError
from parsim.report.console import Output, bar, log, patience, say, show_table
from parsim.report.files import prepare_file, write
from parsim.report.own_steps import faults_into, steps_of_plans, steps_of_table
from parsim.scenario import Scenario
from parsim.scenario.defaults import node_called
from parsim.scenario.document import DEFAULT_STACK
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.inline import SCHEMAS, read
from parsim.scenario.named_files import name_in
from parsim.scenario.row_files import row_of
from parsim.scenario.source import Source
from parsim.scenario.tree import read as read_tree
from parsim.units import count, percent

DEFAULT: Final = Path("my-cluster.yaml")
_CITED: Final = "parsim calibrate --from"
_NAMED: Final = 3  # files of a source
_HEADER: Final = """\
# Rows of a cluster, found from measurements by `parsim calibrate --from` of parsim {version}.  A scenario beside this file names them with
{uses}
"""


class OwnGround(Struct, frozen=True):
    """What is calibrated: what a scenario names, or rows of the catalog or of files by name, which come before the scenario's."""

    scenario: Path | None = None
    accelerator: str | None = None
    fabric: str | None = None
    stack: str | None = None

    def __post_init__(self) -> None:
        if not self.scenario and not self.accelerator:
            remedy = "E.g. --scenario mine.yaml, or --accelerator h100-sxm5-80gb --fabric ib-ndr-8rail --stack megatron-core"
            remedy += ", or on cores --node file:machine.yaml --stack pytorch-cpu."
            raise ParsimError("measurements are of an accelerator: name it, or a scenario that does", remedy=remedy)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of it."""
        rows = (each for each in (self.accelerator, self.fabric, self.stack) if each and each.startswith(ROW_FILE))
        return (*([self.scenario] if self.scenario else ()), *(Path(each.removeprefix(ROW_FILE)) for each in rows))


def calibrate_from(files: Sequence[Path], out: Path | None, ground: OwnGround, date: str | None, output: Output) -> int:
    """The exit status: 0 with the rows in a file.

    Raises:
        ParsimError: a file or the scenario is wrong, or the measurements cannot be of such a cluster; the error holds all faults.
        OSError: the file cannot be written.
    """
    if date and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", date):  # whoever reads a source later knows no yesterday
        raise ParsimError(f"--date {date!r} is no date", remedy="Write e.g. 2026-11-30.")
    path = prepare_file(out or DEFAULT)  # before the work
    _check_apart(path, (*files, *ground.files))
    with patience("reading measurements"):
        found = read_files(files)
    _check_apart(path, [Path(each.path).parent / each.scenario for each in found.plans if each.scenario])
    scenario = Source(ground.scenario).load() if ground.scenario else None
    if scenario is not None and scenario.cluster.groups:
        raise ParsimError("its nodes are of several kinds; calibrate each by itself, with --accelerator", str(ground.scenario))
    refs, steps = _refs(ground), list[TimedStep]()
    refs = (*refs[:2], _read_steps(found, scenario, refs, steps))
    if found.faults:
        raise ScenarioError.of(found.faults)
    num_points = len(found.gemms) + len(found.collectives) + len(steps)
    if not num_points:
        raise ParsimError("the files hold no measurement")
    with patience(f"fitting factors to {count(num_points, 'point')}"), bar() as show:
        own = calibrate_own(refs, found.gemms, found.collectives, steps, cite=lambda paths: _cite(paths, date), progress=show)
    if own.faults:
        raise ScenarioError.of(own.faults)
    _check(own)
    for said in _other_devices(found.collectives, own):
        log(said)
    text = text_of(own, path.name)
    document = {"files": [str(each) for each in files], "date": date, **_rows(own), "factors": [_document(each) for each in own.factors]}
    output.show(document, document["factors"], lambda: _show(own.factors))
    write(path, text)
    (log if output.json or output.csv else say)(_last(path, own))
    return 0


def _check_apart(path: Path, read: Iterable[Path]) -> None:
    """Raises ParsimError where a file that is read would be written over."""
    if path.resolve() in {each.resolve() for each in read}:
        raise ParsimError(f"{path} is both read and written", remedy="Name another file with --out.")


def _cite(paths: Sequence[str], date: str | None) -> str:
    """The source of what rests on points of these files; no clock is asked, so that the same files give the same text."""
    names = list(dict.fromkeys(Path(each).name for each in paths))
    files = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{_CITED} {files}, {count(len(paths), 'point')}" + (f", {date}" if date else "")


def _refs(ground: OwnGround) -> tuple[Any, Any, Any]:
    """Node, fabric and stack, as a scenario names or holds them."""
    if ground.scenario:
        value = read_tree(ground.scenario).value
        named = [(value["cluster"], "node", "nodes"), (value["cluster"], "fabric", "fabrics"), (value, "stack", "stacks")]
        given = (ground.accelerator and _node_ref(ground.accelerator), ground.fabric, ground.stack)
        folders = [Path() if each else ground.scenario.parent for each in given]
        asked = [ref or section.get(part) for ref, (section, part, _) in zip(given, named, strict=True)]
        node, fabric, stack = (_start(ref, part, kind, path) for ref, (_, part, kind), path in zip(asked, named, folders, strict=True))
        return node, fabric, stack or DEFAULT_STACK
    node = _node_ref(ground.accelerator or "")
    fabric = ground.fabric or (None if node.startswith(ROW_FILE) else catalog.row("nodes", node).get("usual_fabric"))
    named = [(node, "node", "nodes"), (fabric, "fabric", "fabrics"), (ground.stack, "stack", "stacks")]
    node, fabric, stack = (_start(ref, part, kind, Path()) for ref, part, kind in named)
    return node, fabric, stack


def _node_ref(name: str) -> str:
    """The node that a name, or file:NAME, says."""
    if name.startswith(ROW_FILE):
        return name
    node = node_called(name)
    if not catalog.find("nodes", node):
        if catalog.find("accelerators", node):
            raise ParsimError(
                f"no node of the catalog holds {node}; name a node that does", "--accelerator", "parsim list nodes shows them."
            )
        known = ", ".join(catalog.names("accelerators"))
        hint = catalog.hint("accelerators", name)
        raise ParsimError(f"unknown accelerator, or node, '{name}'{hint}", "--accelerator", f"Known: {known}.")
    return node


def _start(ref: Any, part: str, kind: str, folder: Path) -> Any:
    """A row to start from; of one that a calibration wrote, the row that it started from, since factors are shrunk to the catalog's."""
    name = name_in(ref)
    if name is None or not name.startswith(ROW_FILE):
        if name is not None:
            catalog.row(kind, name)  # or an error that lists what is known
        return ref
    row = row_of(name, part, folder)
    if part == "node" and _is_measured(row):
        return row
    if "base" not in row:
        raise ParsimError(f"{part} is {name}, a row that starts from none of the catalog", remedy=f"Name one of `parsim list {kind}`.")
    log(f"{part}: starts from {row['base']} of the catalog, not from what {name} made of it; give all measurements again")
    return row["base"]


def _is_measured(row: Mapping[str, Any]) -> bool:
    """Whether a row is a machine as `parsim calibrate --out` found it, so that there is nothing else to start from."""
    accelerator = row.get("accelerator")
    return isinstance(accelerator, dict) and "paces" in accelerator and _CITED not in str(row)


def _read_steps(found: MeasuredFiles, scenario: Scenario | None, refs: tuple[Any, Any, Any], steps: list[TimedStep]) -> Any:
    """The stack to start from: the one that is asked for, else that of the rows of tables, else the default; steps are added to `steps`."""
    complain = faults_into(found.faults)
    node, fabric, stack = (_build(kind, ref) for kind, ref in zip(("nodes", "fabrics", "stacks"), refs, strict=True))
    steps += steps_of_plans(found.plans, scenario, node, complain)
    if not found.tables:
        return refs[2] or (DEFAULT_STACK if steps else None)
    stacks: dict[str, int] = {}
    for table in found.tables:
        for step, name in steps_of_table(table, node, fabric, stack, complain):
            steps.append(step)
            stacks.setdefault(name, step.line)
    if len(stacks) > 1 and stack is None:
        told = ", ".join(f"{name} (line {line})" for name, line in stacks.items())
        complain(
            str(found.tables[0]),
            0,
            f"its rows are of several stacks: {told}; a factor is of one: name it with --stack, or give its rows alone",
        )
    return refs[2] or next(iter(stacks), None)


def _build(kind: str, ref: Any) -> Any:
    return None if ref is None else read(kind, ref) if isinstance(ref, str) else SCHEMAS.get(kind).model_validate(ref).build("")


def _check(own: OwnCluster) -> None:
    """The rows are ones that a scenario may hold."""
    for kind, row in (("nodes", own.node), ("fabrics", own.fabric), ("stacks", own.stack)):
        assert row is None or SCHEMAS.get(kind).model_validate(row)


def _other_devices(collectives: Sequence[TimedCollective], own: OwnCluster) -> Iterator[str]:
    """What logs call devices other than the accelerator, as far as names tell: an H100 may call itself so, or GH200."""
    device = RowBase.of("nodes", own.node).build({}).accelerator
    kind = re.sub(r"[^a-z0-9]", "", (device.catalog_row or device.name).split("-")[0])
    for path, name in dict.fromkeys((each.path, each.device) for each in collectives):
        if name and kind not in re.sub(r"[^a-z0-9]", "", name.lower()):
            yield f"{path}: its devices are called '{name}', and {device.catalog_row or device.name} is calibrated; is it the right one?"


def _rows(own: OwnCluster) -> dict[str, Any]:
    rows = {"node": own.node, "fabric": own.fabric, "stack": own.stack}
    return {part: row for part, row in rows.items() if row is not None}


def text_of(own: OwnCluster, name: str) -> str:
    """The rows as a YAML file of that name, which says how a scenario uses it."""
    from ruamel.yaml import YAML

    text, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.width, yaml.sort_base_mapping_type_on_output = 140, False  # type: ignore[assignment]
    yaml.dump(_rows(own), text)
    uses = "\n".join(f"#   {each}" for each in _uses(own, name))
    return _HEADER.format(version=__version__, uses=uses) + text.getvalue()


def _uses(own: OwnCluster, name: str) -> list[str]:
    """How a scenario names the rows."""
    cluster = f"cluster: {{node: file:{name}{f', fabric: file:{name}' if own.fabric else ''}}}"
    return [cluster, *([f"stack: file:{name}"] if own.stack else [])]


def _document(each: OwnFactor) -> dict[str, Any]:
    texts = {key: getattr(each, key) for key in ("name", "figure", "default", "fitted", "shrunk")}
    found = {
        ("factor" if key == "shrunk" else f"{key}_factor" if key == "fitted" else key): value for key, value in asdict(each.found).items()
    }
    return {**texts, **found, **{key: getattr(each, key) for key in ("before", "after", "left_out", "left_out_by")}}


def _show(factors: Sequence[OwnFactor]) -> None:
    show_table(
        [_line(each) for each in factors], left=("factor", "figure"), title="factors, and the median error of the points they rest on"
    )
    if any(each.found.at_most or each.found.is_fitted_at_most for each in factors):
        say("* at the most that is physical, short of what the points say")
    say("shrunk: kept so far as the points in effect allow")
    say("left out: each file, or where there is one each size or row, predicted by what the others say")


def _line(each: OwnFactor) -> dict[str, str]:
    return {
        "factor": each.name,
        "figure": each.figure,
        "default": each.default,
        "fitted": each.fitted + ("*" if each.found.is_fitted_at_most else ""),
        "shrunk": each.shrunk + ("*" if each.found.at_most else ""),
        "kept": percent(each.found.weight),
        "points": str(each.found.num_points),
        "in effect": f"{each.found.points_in_effect:.1f}",
        "before": percent(each.before),
        "after": percent(each.after),
        "left out": percent(each.left_out) if each.left_out_by else "",
    }


def _last(path: Path, own: OwnCluster) -> str:
    return f"\n{path}: a scenario beside it runs on them with {', '.join(_uses(own, path.name))}"
