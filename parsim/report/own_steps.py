"""Measured steps of a cluster with what predicts them there: of a scenario's plans, or rows as `parsim validate` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from parsim.calibrate.measured_files import TimedPlan
from parsim.calibrate.own_cluster import TimedStep
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.errors import Fault, ParsimError, did_you_mean
from parsim.estimator.estimate import estimate_legal
from parsim.parallel.plan import Stack
from parsim.scenario import Scenario
from parsim.scenario.clusters import part_of
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s
from parsim.validate.table import TableRow, read

_APART: Final = 0.05  # of a time and a rate of the same line
Complain = Callable[[str, int, str], None]  # path, line, what is wrong


def steps_of_plans(rows: list[TimedPlan], scenario: Scenario | None, complain: Complain) -> Iterator[TimedStep]:
    """Steps of the scenario's plans; those of the same plan share what predicts them."""
    predictors = {name: _predictor(scenario, name) for name in scenario.plans} if scenario else {}
    for each in rows:
        if scenario is None:
            complain(each.path, each.line, "names a plan, and no scenario is given that has it; give --scenario FILE")
            return
        if each.plan not in scenario.plans:
            near = did_you_mean(each.plan, scenario.plans)
            complain(
                each.path, each.line, f"the scenario has no plan '{each.plan}'{near}; its plans: {', '.join(scenario.plans) or 'none'}"
            )
            continue
        seconds = each.step_s or _step_s(scenario, each)
        if each.tokens_per_s_per_device and abs((by_rate := _step_s(scenario, each)) / seconds - 1.0) > _APART:
            both = f"step_s = {seconds:g}, and tokens_per_s_per_device = {each.tokens_per_s_per_device:g} says {by_rate:.4g} s"
            complain(each.path, each.line, f"{both}: units are mixed, or it is another batch")
            continue
        yield TimedStep(seconds, each.source, each.path, each.line, predictors[each.plan])


def _step_s(scenario: Scenario, each: TimedPlan) -> float:
    tokens, devices = scenario.batch.global_batch * scenario.batch.sequence_length, scenario.plans[each.plan].num_devices
    return tokens / ((each.tokens_per_s_per_device or 1.0) * devices)


def _predictor(scenario: Scenario, plan: str) -> Callable[[Node, Fabric | None, Stack], tuple[float, float]]:
    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        here = replace(scenario, cluster=_on(scenario.cluster, node, fabric), stack=stack)
        found = estimate_legal(here, here.plan(plan), plan)
        return found.step_s, found.mfu_causal

    return predict


def _on(cluster: Cluster, node: Node, fabric: Fabric | None) -> Cluster:
    """The cluster with another node, of which it uses as many devices."""
    return replace(cluster, node=part_of(node, cluster.node.devices_per_node), fabric=fabric)


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


def _predictor_of_row(row: TableRow, path: str, cluster: Cluster) -> Callable[[Node, Fabric | None, Stack], tuple[float, float]]:
    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        here = replace(scenario_of(row, path, stack), cluster=_on(cluster, node, fabric))
        found = estimate_legal(here, here.plan(PLAN))
        return found.step_s, found.mfu_causal

    return predict


def faults_into(faults: list[Fault]) -> Complain:
    """What notes a complaint among faults."""
    return lambda path, line, said: faults.append(Fault(path, line, 1 if line else 0, "", said))
