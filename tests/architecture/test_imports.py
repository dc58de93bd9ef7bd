"""The direction of imports, and what importing parsim may not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {
    "cli": 9,
    "commands": 8,
    "report": 7,
    "targets": 6.8,
    "sweeps": 6.5,
    "goodput": 5.7,
    **dict.fromkeys(("planner", "validate", "verify", "calibrate"), 6),
    **dict.fromkeys(("disturbance", "feed"), 5.5),
    **dict.fromkeys(("estimator", "simulator", "executor"), 5),
    "asynchrony": 4.7,
    **dict.fromkeys(("cost", "confidence"), 4.5),
    **dict.fromkeys(("step", "scenario"), 4),
    **dict.fromkeys(("parallel", "collectives", "data"), 3),
    "schedules": 2.5,
    **dict.fromkeys(("model", "cluster", "catalog"), 2),
    **dict.fromkeys(("units", "registry", "plain", "described"), 1),
    "arguments": 0.7,
    "errors": 0.5,
    "parsim_kernels": 0,
}
MAY_IMPORT_KERNELS = {"collectives", "executor", "verify", "calibrate"}
FILES = sorted((ROOT / "parsim").rglob("*.py"))


def part(module: str) -> str:
    """The row's name: `parsim.step.task` -> step, `parsim_kernels.machine` -> parsim_kernels."""
    names = module.replace("parsim.__main__", "parsim.cli").split(".")
    return names[1] if names[0] == "parsim" and len(names) > 1 else names[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of ours that a file imports while it runs; those for type checkers only are free."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        names = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for name in names:
            if name == "parsim" and isinstance(node, ast.ImportFrom):
                yield from ((f"parsim.{alias.name}", node.lineno) for alias in node.names)
            elif name.split(".")[0] in ("parsim", "parsim_kernels"):
                yield name, node.lineno


def wrong_imports(path: Path) -> Iterator[str]:
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module, line in imports(path):
        other = part(module)
        if other in (own, "parsim", "__version__"):
            continue
        if ROWS[other] >= ROWS[own]:
            yield f"{path}:{line}: {own} (row {ROWS[own]}) imports {module} (row {ROWS[other]})"
        if other == "parsim_kernels" and own not in MAY_IMPORT_KERNELS:
            yield f"{path}:{line}: {own} may not import the kernels"


def test_a_module_imports_only_from_lower_rows_or_its_own_package() -> None:
    public = ROOT / "parsim" / "__init__.py"  # the public names, each imported when it is asked for
    assert not [fault for path in FILES if path != public for fault in wrong_imports(path)]


def test_the_kernels_import_nothing_but_numpy_and_the_standard_library() -> None:
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "parsim_kernels"}, f"{path}:{node.lineno}: {name}"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_parsim_brings_no_top_level_module_named_kernels_and_nothing_heavy() -> None:
    loaded = modules_after("import parsim")
    assert not loaded & {"kernels", "matplotlib", "networkx", "simpy", "ruamel", "pydantic", "numpy"}


def test_what_feeds_disturbs_and_fails_is_imported_only_where_a_scenario_states_it() -> None:
    told = "from parsim.report.results import document, predict, table; from parsim.report.summary import show_results"
    loaded = modules_after(f"{told}; import parsim; found = predict(parsim.load('scenarios/tiny.yaml')); document(found), table(found)")
    parts = {name for name in loaded if name.split(".")[1:2] in (["feed"], ["goodput"], ["disturbance"])}
    assert parts == {"parsim.goodput", "parsim.goodput.long_run"}


def test_a_prediction_never_calls_the_kernels() -> None:
    statement = "from parsim.estimator.estimate import estimate; from parsim.simulator import simulate"
    assert "parsim.executor" not in {".".join(name.split(".")[:2]) for name in modules_after(statement)}


def test_the_top_level_holds_what_the_user_fixed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: git cannot say what is tracked")
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.split("/")[0] for name in tracked}
    assert {"parsim", "kernels", "tests"} <= top, "git lists no file of ours"
    allowed = {"pyproject.toml", "README.md", "parsim", "kernels", "tests", "scenarios", "reports", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= allowed


def oversized(path: Path) -> Iterator[str]:
    text = path.read_text()
    if (lines := text.count("\n")) > 400:
        yield f"{path}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno > 60:
            yield f"{path}:{node.lineno} {node.name}"


def test_files_and_functions_keep_their_size() -> None:
    assert not [fault for path in (*FILES, *sorted((ROOT / "kernels").rglob("*.py"))) for fault in oversized(path)]
