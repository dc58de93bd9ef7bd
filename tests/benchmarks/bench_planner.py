"""CPU seconds of `parsim plan`, whole process, of two checkouts in turns:  python tests/benchmarks/bench_planner.py BEFORE_DIR [AFTER_DIR]

GPT-3 175B on 1,024 A100 (13,728 plans that differ), the shipped searches of GPT-3 13B and of DeepSeek-V3 on 2,048 H800 (62,404), whose
reported plan is also estimated, loading apart (goals: 10 s, and 0.5 s); and, of this tree alone, a 1T model on 102,400 (the
checkout before gives no answer in hours); `--million` adds a space of a million plans; `--estimates` what a plan costs in an array of
100,000 (6 that differ, and all, of a dozen structures of the million), beside one `estimate` after another before; `--calculon DIR` what a
point of Calculon's search of GPT-3 175B on 1,024 A100 costs, of a checkout of github.com/calculon-ai/calculon.  Each checkout has its own
bytecode, written by a first run that does not count, as an installed package has it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from clean import table

HERE = Path(__file__).resolve().parents[2]
AXES = "tensor_parallel: auto, pipeline_parallel: auto, virtual_pipeline: auto, sequence_parallel: [false, true], micro_batch: auto"
AGAIN = "recompute: [none, selective, full]"
WIDE = "zero_stage: [0, 1, 2, 3], zero_group: auto, recompute_every: auto, rank_order: auto, reshard_after_forward: [false, true]"
BYTECODE = Path(tempfile.gettempdir()) / "parsim-bytecode"
SCENARIO = """
model: {model}
cluster: {{node: dgx-a100-80gb, num_nodes: {nodes}, fabric: ib-hdr-8rail}}
batch: {{global_batch: {batch}, sequence_length: 2048, dtype: bf16}}
stack: megatron-2022
plans: {{search: {{{axes}}}}}
"""
EXPERTS = (HERE / "scenarios" / "deepseek-v3-2048.yaml").read_text()
LARGE, EXPERT = ALONE = ("1T on 102,400", "deepseek-v3-2048")  # spaces of this tree alone
SPACES = {
    "175B on 1,024": SCENARIO.format(model="gpt3-175b", nodes=128, batch=1536, axes=f"{AXES}, {AGAIN}, zero_stage: [0, 1]"),
    "plan-gpt3-13b": (HERE / "scenarios" / "plan-gpt3-13b.yaml").read_text(),
    EXPERT: EXPERTS,
    LARGE: SCENARIO.format(model="megatron-1t", nodes=12_800, batch=12_800, axes=f"{AXES}, {AGAIN}, zero_stage: [0, 1]"),
}
MILLION = SCENARIO.format(model="gpt3-175b", nodes=128, batch=3072, axes=f"{AXES}, {AGAIN}, {WIDE}")


ONCE = """
import sys, time, parsim, parsim.estimator.estimate
scenario = parsim.load(sys.argv[1])
begin = time.process_time()
parsim.estimate(scenario, "reported")
print(time.process_time() - begin)
"""
ONE_BY_ONE = """
import sys, time, parsim
scenario = parsim.load(sys.argv[1])
for turn in range(2):  # what is lowered once for all does not count
    begin = time.process_time()
    for name in scenario.plans: parsim.estimate(scenario, name)
print((time.process_time() - begin) / len(scenario.plans))
"""
IN_ARRAYS = """
import sys, time, numpy, parsim
from parsim.parallel.plans import Plans
from parsim.planner.bounded import Bounded
scenario = parsim.load(sys.argv[1])
distinct = Plans.of([*scenario.plans.values()])
plans = distinct.take(numpy.resize(numpy.arange(len(distinct)), int(sys.argv[2])))
for ask in (parsim.estimates, Bounded):
    begin = time.process_time()
    ask(scenario, plans)
    print((time.process_time() - begin) / len(plans))
"""
RANDOM = """
import sys, time, numpy, parsim
from parsim.estimator.estimate import Priced
from parsim.planner.space import candidates, space_named
scenario = parsim.load(sys.argv[1])
plans = candidates(scenario, space_named(scenario, None)).plans
workloads = Priced(scenario, plans).workloads
structure = workloads.step[workloads.kind]
largest = numpy.argsort(-numpy.bincount(structure))[:12]
rows = numpy.random.default_rng(0).choice(numpy.flatnonzero(numpy.isin(structure, largest)), int(sys.argv[2]), replace=False)
begin = time.process_time()
Priced(scenario, plans.take(numpy.sort(rows))).steps()
print((time.process_time() - begin) / len(rows))
"""
# Its search, of so many random parts of the space; nothing offloaded, nothing beside compute.  It imports two packages that a search does
# not use.  With "quiet" as the last argument nobody asks its log records for who wrote them.
CALCULON = """
import logging, random, sys, time, types
for name in ("pandas", "psutil"): sys.modules[name] = types.ModuleType(name)
sys.modules["psutil"].cpu_count = lambda logical: 1
sys.path.insert(0, sys.argv[1])
from calculon.io import read_json_file
from calculon.llm import Llm
from calculon.llm.optimal_execution import OptimalExecution
from calculon.system import System
if sys.argv[3] == "quiet": logging.disable(logging.CRITICAL)
app = Llm.Application(read_json_file(sys.argv[1] + "/models/gpt3-175B.json"))
system = read_json_file(sys.argv[1] + "/systems/a100_80g.json")
system["mem2"]["GiB"] = 0
system = System(system)
parts = [
    (1024, 1536, "float16", app, system, tp, pp, dp, chunks, 1536 // dp * dp, recompute, sharded, comm, [True], False, False, False)
    for tp in Llm.get_all_tensor_parallelisms(1024, app.hidden, app.attn_heads)
    for pp in Llm.get_all_pipeline_parallelisms(1024, tp, app.num_blocks)
    for dp in [Llm.get_data_parallelism(1024, tp, pp)]
    for chunks in Llm.get_valid_pipeline_interleavings(app.num_blocks, pp)
    for recompute in ("full", "attn_only", "none")
    for sharded in ([True, False] if dp > 1 else [False])
    for comm in ("ar", "p2p_rs_ag", "rs_ag")
]
print(sum(OptimalExecution.search(True, 1, False, *each)[1] for each in parts))
begin = time.process_time()
found = [OptimalExecution.search(False, 1, False, *each) for each in random.Random(0).sample(parts, int(sys.argv[2]))]
print(sum(each[1] for each in found), sum(each[2] for each in found), time.process_time() - begin)
"""
PLANS = "p{0}_{1}: {{{{tensor_parallel: {0}, pipeline_parallel: {{ranks}}, micro_batch: {1}, recompute: selective}}}}"
NAMED = ", ".join(PLANS.format(tensor, micro_batch) for tensor in (2, 4, 8) for micro_batch in (1, 2))
ARRAYS = {  # with what is doubled
    "plans": (200_000, {}),
    "layers": (100_000, {"model": "{base: gpt3-175b, name: deeper, num_layers: 192}"}),
    "ranks of the pipeline": (100_000, {"ranks": 16, "batch": 768}),
    "devices": (100_000, {"nodes": 256, "batch": 3072}),
}


def python(tree: Path, scenario: str, *command: str) -> tuple[float, str]:
    """User and system seconds of a whole process, handed the scenario's file where the command has FILE, and what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(scenario)
        paths = {"PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "kernels"))), "PYTHONPYCACHEPREFIX": str(BYTECODE / tree.name)}
        environment = {**os.environ, **paths}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        given = [str(path) if each == "FILE" else each for each in command]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *given], cwd=folder, env=environment, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def cpu_s(tree: Path, scenario: str) -> tuple[float, str]:
    """CPU seconds of `parsim plan`, and the line that counts its plans."""
    seconds, printed = python(tree, scenario, "-m", "parsim.cli", "plan", "FILE")
    return seconds, next(line for line in printed.splitlines() if "legal plans" in line)


def of_arrays(before: Path, after: Path) -> list[list[str]]:
    """Microseconds a plan: one by one before, in an array exactly, and bounded; then with twice of something."""

    def scenario(model: str = "gpt3-175b", nodes: int = 128, batch: int = 1536, ranks: int = 8) -> str:
        made = SCENARIO.format(model=model, nodes=nodes, batch=batch, axes="")
        return made.replace("{search: {}}", f"{{{NAMED.format(ranks=ranks)}}}")

    def us(count: int, **changed: object) -> list[float]:
        return [1e6 * float(each) for each in python(after, scenario(**changed), "-c", IN_ARRAYS, "FILE", str(count))[1].split()]  # type: ignore[arg-type]

    single = 1e6 * float(python(before, scenario(), "-c", ONE_BY_ONE, "FILE")[1])
    plain = us(100_000)
    rows = [["100,000 plans", f"{single:,.0f}", *(f"{each:.1f} (1/{single / each:,.0f})" for each in plain)]]
    for count in (20_000, 100_000):
        each = 1e6 * float(python(after, MILLION, "-c", RANDOM, "FILE", str(count))[1])
        rows.append([f"{count:,} random plans", "", f"{each:.1f} (1/{single / each:,.0f})", ""])
    for name, (count, changed) in ARRAYS.items():
        found = us(count, **changed)
        times = count / 100_000
        rows.append([f"twice the {name}", "", *(f"{times * each / own:.2f} x" for each, own in zip(found, plain, strict=True))])
    return rows


def of_calculon(calculon: Path, parts: int) -> list[list[str]]:
    """CPU seconds of its search of some parts of the space, as it is and without its log, and milliseconds a point."""
    rows = []
    for name, log in (("Calculon, 175B on 1,024", "log"), ("without its log", "quiet")):
        every, points, good, seconds = map(float, python(HERE, "", "-c", CALCULON, str(calculon), str(parts), log)[1].split())
        counts = f"{points:,.0f} points of {every:,.0f}, {good:,.0f} feasible"
        rows.append(
            [name, counts, "", f"{seconds:.2f}", f"{1e3 * seconds / points:.2f} ms a point: {every * seconds / points:,.0f} s for all"]
        )
    return rows


def main() -> None:
    """Run each space on both trees and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=HERE)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--estimates", action="store_true")
    parser.add_argument("--calculon", type=Path, metavar="DIR")
    parser.add_argument("--parts", type=int, default=20, help="of Calculon's space, some hundred points each")
    parser.add_argument("--only-after", action="store_true", help="leave the earlier checkout out")
    asked = parser.parse_args()
    trees = asked.before.resolve(), asked.after.resolve()
    if asked.estimates:
        print(table(["in arrays", "before, us a plan", "exact", "bounded"], of_arrays(*trees)))
        return
    for tree in trees:
        cpu_s(tree, SPACES["plan-gpt3-13b"])
    rows = []
    for name, scenario in SPACES.items():
        after, counts = cpu_s(trees[1], scenario)
        before = None if asked.only_after or name in ALONE else cpu_s(trees[0], scenario)[0]
        rows.append(
            [name, counts, "" if before is None else f"{before:.1f}", f"{after:.2f}", "" if before is None else f"1/{before / after:.0f}"]
        )
    rows.append([EXPERT, "1 plan, estimated", "", f"{float(python(trees[1], EXPERTS, '-c', ONCE, 'FILE')[1]):.2f}", ""])
    if asked.million:
        after, counts = cpu_s(trees[1], MILLION)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        rows.append(["a million", counts, "", f"{after:.1f}", f"{peak:.2f} GiB at most"])
    if asked.calculon:
        rows += of_calculon(asked.calculon.resolve(), asked.parts)
    print(table(["space", "plans", "before, CPU s", "after", "ratio"], rows))


if __name__ == "__main__":
    main()
