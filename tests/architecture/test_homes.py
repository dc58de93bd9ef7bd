"""Where decisions may stand: by phase in schedules/ and step/, by the data axis in its dimension's file; no circles; small functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[2]
# Less the programs that exports are made of: they run without parsim.
FILES = sorted(path for path in (ROOT / "parsim").rglob("*.py") if "templates" not in path.parts)
PHASES = {"F", "B", "I", "W"}
PHASE_WORDS = {"phase", "phases", "kind", "direction"}
DATA_AXES = {"dp", "dp_replicate"}
# rank_order: what users write.
MAY_NAME_THE_DATA_AXIS = {"parallel/sharding_faults.py", "parallel/plan.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "parsim"))


def phase_decisions(tree: ast.AST) -> Iterator[int]:
    """Lines that compare, match or flag a phase: by member, by literal beside something called a phase, or as `forward: bool`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Phase" and node.attr in PHASES:
            yield node.lineno
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = any(isinstance(each, ast.Constant) and each.value in PHASES | {"FB"} for each in sides)
            if literal and any(word_of(each) in PHASE_WORDS for each in sides):
                yield node.lineno
        elif isinstance(node, ast.match_case) and isinstance(node.pattern, ast.MatchValue):
            if isinstance(node.pattern.value, ast.Constant) and node.pattern.value.value in PHASES:
                yield node.pattern.lineno
        elif isinstance(node, ast.arg) and node.arg in ("forward", "backward", "is_forward") and is_bool(node.annotation):
            yield node.lineno


def is_bool(node: ast.expr | None) -> bool:
    return node is not None and ast.unparse(node) == "bool"


def word_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_nobody_outside_schedules_and_step_decides_by_phase() -> None:
    own = [path for path in FILES if name_of(path).split("/")[0] not in ("schedules", "step")]
    found = [f"{name_of(path)}:{line}" for path in own for line in phase_decisions(ast.parse(path.read_text()))]
    assert not found, found


@pytest.mark.parametrize(
    "text", ["phase == Phase.F", "action.kind == 'B'", "phase in 'FB'", "def f(forward: bool): ...", "match p:\n case 'F': 1"]
)
def test_a_decision_by_phase_is_found(text: str) -> None:
    assert list(phase_decisions(ast.parse(text)))


def test_a_mapping_from_phase_to_label_is_no_decision() -> None:
    assert not list(phase_decisions(ast.parse("LABELS = {'F': 'forward', 'B': 'backward'}\nlabel = LABELS[phase]\n'B' in operand.dims")))


def data_axis_literals(tree: ast.AST) -> Iterator[int]:
    """Lines that name the data axis, but for docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in DATA_AXES:
            yield node.lineno


def test_nobody_but_the_dimension_names_the_data_axis() -> None:
    allowed = {"parallel/dimensions/data.py", "parallel/dimensions/replicas.py", *MAY_NAME_THE_DATA_AXIS}
    found = [
        f"{name_of(path)}:{line}"
        for path in FILES
        if name_of(path) not in allowed
        for line in data_axis_literals(ast.parse(path.read_text()))
    ]
    assert not found, found
    assert list(data_axis_literals(ast.parse((ROOT / "parsim/parallel/dimensions/data.py").read_text())))


def modules_imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports at its top, for type checkers only included."""
    tree = ast.parse(path.read_text())
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    for node in (each for block in blocks for each in block):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A file of a registry imports the package that discovers it: those edges go one way only, since discovery is at run time."""
    own = {module_of(path): path for path in FILES if path != ROOT / "parsim" / "__init__.py"}
    graph = nx.DiGraph((module, other) for module, path in own.items() for other in modules_imported(path) if other in own)
    circles = [sorted(each) for each in nx.strongly_connected_components(graph) if len(each) > 1]
    assert not circles, circles


def test_functions_are_short() -> None:
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text()))]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[int(0.95 * len(lengths))] <= 25


# Lines of parsim: what a feature that needs more room takes, and why.
ROOM = {
    "when the Step became the whole step": 17_796,
    "the expert view of the mesh, chunks by tables, rows of precision": 350,
    "names that people use, rows like others, devices of a node": 175,
    "laws of collectives by protocol": 155,
    "GEMMs by tiles and waves, one table of flash kernels": 210,
    "a step written a second time from the mathematics": 410,
    "what is asked for in other words, what a stack cannot run, both said in every table": 620,
    "what is read of the catalog, and when": 200,
    "memory by what stacks keep, and the host's": 400,
    "likenesses of expert plans, what experts cannot be, dimensions in tables, typos in recipes": 125,
    "hosts that run out of memory, optimizers in pages and in the backward": 425,
    "modules that run again, parameters kept under a pipeline": 130,
    "plans as columns": 690,
    "each thing asked once a combination, numpy when it is used": 130,
    "what an attack on messages and figures found": 200,
    "commands, a file a group": 60,
    "advice on batches and learning rates, the noise of gradients": 430,
    "zero-bubble and V-shaped schedules": 255,
    "links of another latency, sliding windows, ways out of a full memory, each priced": 140,
    "changes of any key, questions without a file": 540,
    "what a step gains from each resource, rows swapped, plans compared": 620,
    "sweeps: points, keys, a cache, chunks for any executor, their files; heatmaps": 1_070,
    "results as plain values, fronts, what would fit, figures of a space, saved plans": 1_150,
    "weights, gradients and temporaries by what a stack keeps": 95,
    "axes of any form, equal plans once, what the planner tries of its own accord": 590,
    "a whole training in time, money and energy; objectives, limits, how many devices": 920,
    "the best plans by simulated contention, fronts of all that is ranked": 300,
    "rows of a ranking that are counted together": 45,
    "output layer and loss in chunks of tokens": 130,
    "copies of gradients at a step's end": 40,
    "all answers as plain values, arguments of public functions": 275,
    "what the attack on planner, limits and sweeps left": 75,
    "steady states of schedules, passes of many structures folded together": 365,
    "linear layers in 8 and 4 bits": 480,
    "sequences over ranks of their own, kv heads that several hold": 470,
    "experts: their ops, legality, loads, by hand; norms of queries and keys": 555,
    "latent attention, also by hand; gates of sigmoids": 275,
    "releases of a stack": 80,
    "rows of measurements that say in other places what they ran": 60,
    "another rule inside groups of the ranks of a sequence, one colour for all replicas": 105,
    "two copies of the model on one pipeline": 115,
    "V-Half and V-Min with their warm-up and end reordered": 120,
    "communications that overlap, seen without events; short simulations that settle the first plan": 365,
    "experts in low precision, tokens that go to a node once, launches of experts": 185,
    "graphs that replay kernels, exchanges of experts in order or hidden, recipes of experts and of latent attention": 190,
    "what collectives and the compute beside them cost one another": 205,
    "plans of experts and schedules in seconds": 200,
    "windows, sinks and biases of experts, layers of several forms, also by hand": 160,
    "a module for a later token, also by hand": 145,
    "policies of recomputation in notes": 75,
    "layers that stay in bf16": 50,
    "weights that are kept and gathered in 8 bits alone": 145,
    "chunks, layers without positions, gates on what enters an expert": 165,
    "exchanges with experts by nodes, executed and counted by level": 220,
    "loads of experts that are given or stand in files": 130,
    "rates by what passes each link": 25,
    "experts of a capacity": 75,
    "groups of experts that a token may use": 70,
    "gates, a file each": 200,
    "biases that steer choices, also by hand": 95,
    "an auxiliary loss that balances loads": 35,
    "prices by mesh, and bounds that walk each list alone": 30,
    "calls of a framework for what is one kernel, recipes of experts by release": 175,
    "windows in MFU and in what a stack cannot run, why plans are not simulated, how to ask again, cells of sizes": 100,
    "precision as an axis of plans": 130,
    "scales by row": 70,
    "narrow weights that ZeRO 3 gathers": 76,
    "two micro_batches at once, so that exchanges of experts hide behind kernels": 680,
    "gradients that go with their update": 95,
    "sentences whose words have roles": 105,
    "what is made by hand is held to what a file is; traces and arrays of plans as plain values": 350,
    "kinds of Hugging Face configs, a file each; what Gemma and Qwen1.5-MoE have beside Llama": 645,
    "blocks of experts that ranks share, gradients that two read, weight gradients of pairs apart, gates that are checked": 140,
    "everyday commands that import and ask less": 45,
    "weights that are not trained, adapters, a base in 4 bits": 717,
    "MLPs beside attention, ALiBi, biases and dropout of some places, also by hand, and their families of configs": 670,
    "chunks that cannot be even, why nothing narrow is tried and no number of devices does": 80,
    "decoders that attend to what an encoder made of a source, also by hand": 470,
    "a parallel corpus, sentences that are right as a whole": 110,
    "loads of experts by layer": 455,
    "encoder-decoder pipelines and T5": 415,
    "sequences of several lengths, packed or padded, also by hand; adapters beside latent attention and experts": 530,
    "Mamba-2 layers and hybrids, vision transformers, also by hand, and their families of configs": 999,
    "more kinds of configs, norms over all heads": 705,
    "worst memory states by classes of stages": 95,
    "sites that a slow link joins": 520,
    "what the program leaves out of imports, tasks bound once for all ranks": 105,
    "vision towers before a decoder, also by hand, their tuning, configs and data": 640,
    "heads of two kinds, experts beside an MLP and of narrow vectors, layers of two halves, xIELU": 900,
    "tuning of translators and parts of experts, context of translators, nf4 executed": 235,
    "nodes of several kinds, splits of layers by speed": 560,
    "scenarios from files are asked once": 35,
    "types of config keys judged by shared helpers": 95,
    "files up to their limit, prices of kinds, paths by number": 145,
    "measurements of one's own cluster, read and turned into rows": 1890,
    "accuracy as a page over published cases": 1390,
    "intervals from errors of comparable runs, whether a plan fits in words": 900,
    "three quantities of memory, workspaces of libraries, rules for what is left open, tests of Megatron Core": 460,
    "factors shrunk by rows and sources, fitted figures listed, weights handed on in turn": 480,
    "tables that nobody looks at, ends of steps kept, tasks counted once": 90,
    "launches and kernels of experts as the code makes them": 55,
    "what an attack and a review found in intervals, tables and own clusters": 120,
    "launchers: exports, imports, programs that run": 7_730,
    "first scenarios, a look at the installation, names for shells, next commands, files read within limits": 990,
    "memory by what Aleph Alpha's code keeps; launches that block; parameters in code": 180,
    "chains of dense layers of any widths, by hand a second time": 310,
    "parameter servers: protocol, queues, bounds, events, curves by workers": 1_360,
    "parameter servers executed, losses over time": 1_090,
    "replicas that train apart, outer optimizers, periods": 730,
    "steps as distributions: draws, samples, disturbed events, launches beside slow kernels": 1_830,
    "failures, checkpoints and goodput; a run as one description": 1_690,
    "storage and input: what feeds a step, and what a run keeps": 900,
    "checkpoints of executed runs, and runs that go on": 890,
    "launchers' own defaults, exports that keep edits": 60,
    "what attackers and a reviewer of issue 16 found": 350,
    "sweeps, whatif and planner tell of a run what parsim run tells": 250,
    "library memory: communicators by channel, pools of graphs, blocks and segments": 520,
    "power limits, attention in 8 bits with its casts, casts again": 210,
    "public clusters, slices, software by device, scripts of repositories": 280,
    "models of recipes: names of the hub, classes, patterns of layers, scripts": 385,
    "frameworks on a machine's cores, nodes of kinds in exports, flavours": 295,
    "what a run takes of this machine's memory, sizes of what is fed": 220,
    "what attackers and a reviewer found of the rest of issues 14 and 15": 250,
    "experts by kernels of all of them, tokens that are sorted, accelerators apart": 250,
}


def test_parsim_grows_by_features_only() -> None:
    assert sum(path.read_text().count("\n") for path in FILES) <= sum(ROOM.values())
