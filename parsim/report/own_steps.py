"""Measured steps of a cluster with what predicts them there: of a scenario's plans, or rows as `parsim validate` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from parsim.calibrate.measured_files import TimedPlan
from parsim.calibrate.own_cluster import TimedStep
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.errors import Fault, ParsimError, did_you_mean
from parsim.estimator.estimate import estimate_legal
from parsim.parallel.plan import Plan, Stack
from parsim.scenario import Scenario
from parsim.scenario.clusters import part_of
from parsim.scenario.source import Source
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s
from parsim.validate.table import TableRow, read

_APART: Final = 0.05  # of a time and a rate of the same line
Complain = Callable[[str, int, str], None]  # path, line, what is wrong
Predictor = Callable[[Node, Fabric | None, Stack], tuple[float, float]]


def steps_of_plans(rows: list[TimedPlan], given: Scenario | None, node: Node | None, complain: Complain) -> Iterator[TimedStep]:
    """Steps of plans of the scenario that is given, or of the one that a row names; those of the same plan share what predicts them."""
    predictors = dict[tuple[str, str], Predictor]()
    scenarios = _scenarios(rows, given, complain)
    for each in rows:
        scenario = scenarios.get(_path_of(each))
        if scenario is None:
            continue
        if each.plan not in scenario.plans:
            near = did_you_mean(each.plan, scenario.plans)
            complain(
                each.path, each.line, f"the scenario has no plan '{each.plan}'{near}; its plans: {', '.join(scenario.plans) or 'none'}"
            )
            continue
        most = min(scenario.cluster.node.devices_per_node, node.devices_per_node if node else inf) * scenario.cluster.num_nodes
        if (asked := scenario.plans[each.plan].num_devices) > most:
            said = f"plan '{each.plan}' has {asked} ranks, and {most} devices are calibrated: a device runs one of them"
            complain(each.path, each.line, said)
            continue
        seconds = each.step_s or _step_s(scenario, each)
        if each.tokens_per_s_per_device and abs((by_rate := _step_s(scenario, each)) / seconds - 1.0) > _APART:
            both = f"step_s = {seconds:g}, and tokens_per_s_per_device = {each.tokens_per_s_per_device:g} says {by_rate:.4g} s"
            complain(each.path, each.line, f"{both}: units are mixed, or it is another batch")
            continue
        predict = predictors.setdefault((_path_of(each), each.plan), predictor_of(scenario, scenario.plan(each.plan), each.plan))
        yield TimedStep(seconds, each.source, each.path, each.line, predict)


def _path_of(row: TimedPlan) -> str:
    """Of the scenario that a row names, beside its table; "" where it names none."""
    return str(Path(row.path).parent / row.scenario) if row.scenario else ""


def _scenarios(rows: list[TimedPlan], given: Scenario | None, complain: Complain) -> dict[str, Scenario]:
    """By path those that rows name and that can be read; the one that is given by "".  Each fault is told once."""
    found, told = {"": given} if given else {}, set[str]()
    for each in rows:
        path = _path_of(each)
        if path in found or path in told:
            continue
        told.add(path)
        if not path:
            complain(each.path, each.line, "names a plan, and no scenario is given that has it; give --scenario FILE")
            continue
        try:
            found[path] = Source(Path(path)).load()
        except (ParsimError, OSError) as error:
            complain(each.path, each.line, f"scenario {each.scenario}: {error.in_a_line if isinstance(error, ParsimError) else error}")
    return found


def _step_s(scenario: Scenario, each: TimedPlan) -> float:
    tokens, devices = scenario.batch.global_batch * scenario.batch.sequence_length, scenario.plans[each.plan].num_devices
    return tokens / ((each.tokens_per_s_per_device or 1.0) * devices)


def predictor_of(scenario: Scenario, plan: Plan, name: str) -> Predictor:
    """What predicts the step of a plan, and its MFU, on a node, a fabric and a stack."""

    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        here = replace(scenario, cluster=_on(scenario.cluster, node, fabric), stack=stack)
        found = estimate_legal(here, plan, name)
        return found.step_s, found.mfu_causal

    return predict


def _on(cluster: Cluster, node: Node, fabric: Fabric | None) -> Cluster:
    """The cluster with another node, of which it uses as many devices, or all that there are."""
    return replace(cluster, node=part_of(node, min(cluster.node.devices_per_node, node.devices_per_node)), fabric=fabric)


def steps_of_table(
    path: Path, node: Node, fabric: Fabric | None, stack: Stack | None, complain: Complain
) -> Iterator[tuple[TimedStep, str]]:
    """Steps of the rows of a table, each with the name of the stack that it runs on: the given one, or that of its repository or family."""
    for row in read(path):
        faults = [*row.faults, *(f"states no {each}" for each in missing_cells(row))]
        faults += [f"needs {each}, which is not built; leave the row out" for each in missing_features(row)]
        measured_s = measured_step_s(row)
        if measured_s is None:
            faults.append("states no step_s, nor tokens_per_s_per_device with global_batch, sequence_length and num_devices")
        if faults or measured_s is None:
            complain(str(path), row.line, "; ".join(faults))
            continue
        try:
            scenario = scenario_of(row, str(path), stack)
            if said := _misfit(scenario.cluster, node, fabric):
                raise ParsimError(said)
        except ParsimError as error:
            complain(str(path), row.line, error.in_a_line)
            continue
        source = row.says("source") or str(path)
        yield TimedStep(measured_s, source, str(path), row.line, _predictor_of_row(row, str(path), scenario.cluster)), scenario.stack.name


def _misfit(cluster: Cluster, node: Node, fabric: Fabric | None) -> str:
    """Why a row is of another cluster than the one that is calibrated; "" where it may be of it."""
    asked, own = cluster.node.accelerator.name, node.accelerator.catalog_row or node.accelerator.name
    if asked != own:
        return f"it is of {asked}, and {own} is calibrated; give its own --accelerator, and a file for each"
    if cluster.node.devices_per_node > node.devices_per_node:
        return f"it has {cluster.node.devices_per_node} devices a node, and node {node.name} has {node.devices_per_node}"
    return "it is of several nodes, and no fabric joins them; name it with --fabric" if cluster.num_nodes > 1 and fabric is None else ""


def _predictor_of_row(row: TableRow, path: str, cluster: Cluster) -> Predictor:
    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        here = replace(scenario_of(row, path, stack), cluster=_on(cluster, node, fabric))
        found = estimate_legal(here, here.plan(PLAN))
        return found.step_s, found.mfu_causal

    return predict


def faults_into(faults: list[Fault]) -> Complain:
    """What notes a complaint among faults."""
    return lambda path, line, said: faults.append(Fault(path, line, 1 if line else 0, "", said))
