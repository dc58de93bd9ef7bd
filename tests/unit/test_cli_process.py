"""What only a process of its own can show: what is imported, exit statuses, signals, a reader that leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.lines import Line2D

import parsim
from parsim import catalog
from parsim.report import figure

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "NO_COLOR": "1"}
PARSIM = [sys.executable, "-m", "parsim"]
HEAVY = {"matplotlib", "networkx", "ruamel", "simpy", "pydantic"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def imported(statement: str) -> set[str]:
    """Top-level packages that are loaded once the statement has run."""
    attempt = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n"
    code = attempt + "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    return set(run(sys.executable, "-c", code).stderr.split())


@pytest.mark.parametrize("options", ["['--help']", "['--version']"])
def test_help_imports_none_of_the_heavy_packages(options: str) -> None:
    loaded = imported(f"from parsim.cli import app; app({options})")
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy"})


def test_help_of_a_command_imports_nothing_heavy_of_ours() -> None:
    loaded = imported("from parsim.cli import app; app(['run', '--help'])")
    assert not loaded & (HEAVY | {"numpy"}) - {"pydantic"}  # recent typer parses the options of a command with it


SCENARIO = str(ROOT / "scenarios" / "tiny.yaml")


def modules_of(*command: str) -> set[str]:
    """The modules that a command has loaded when it ends; it must end well."""
    code = f"import sys, atexit\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\nsys.argv = {['parsim', *command]}\n"
    done = run(sys.executable, "-c", code + "from parsim.cli import main\nmain()")
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_checking_loads_no_table_no_figure_and_no_transport() -> None:
    loaded = modules_of("check", SCENARIO)
    assert "parsim.scenario.build" in loaded
    assert not loaded & {"rich", "matplotlib", "networkx", "simpy", "parsim_kernels.kernels", "parsim_kernels.transport", "multiprocessing"}


def test_json_draws_nothing_and_a_prediction_needs_no_transport(tmp_path: Path) -> None:
    loaded = modules_of("run", SCENARIO, "--json", "-o", str(tmp_path))
    assert "parsim.estimator.estimate" in loaded
    assert not loaded & {"rich", "matplotlib", "parsim.report.figure", "networkx", "simpy", "parsim_kernels.transport"}
    assert not loaded & {"numpy.ma", "numpy.random", "numpy.fft", "html", "pandas"}
    assert "matplotlib" in modules_of("run", SCENARIO, "--json", "--format", "svg", "-o", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans.csv", "plans.svg", "results.csv", "results.json"]


def test_a_command_draws_without_what_matplotlib_writes_for_its_manual(tmp_path: Path) -> None:
    left = "PIL.ExifTags", "matplotlib.dates", "numpy._core._add_newdocs"
    code = f"""import sys, atexit
def say():
    from matplotlib.lines import Line2D
    print(*(type(sys.modules[name]).__name__ for name in {left}), hasattr(Line2D.set, "__signature__"), file=sys.stderr)
atexit.register(say)
sys.argv = {["parsim", "run", SCENARIO, "-o", str(tmp_path)]}
from parsim.cli import main
main()"""
    assert run(sys.executable, "-c", code).stderr.splitlines()[-1] == "_Later _Later _Later False"


def test_a_library_call_leaves_matplotlib_as_it_is() -> None:
    figure.new_axes(1, 1)
    assert Line2D.set.__signature__ and "linewidth" in (Line2D.set.__doc__ or "")


def test_prediction_starts_one_thread_of_blas_and_execution_as_many_as_there_are_cores(tmp_path: Path) -> None:
    code = "import os, sys\nfrom parsim.report.light import lighten\nlighten({!r})\nprint(os.environ.get('OPENBLAS_NUM_THREADS'))"
    without = {name: text for name, text in ENVIRONMENT.items() if name != "OPENBLAS_NUM_THREADS"}
    for command, threads in {"run": "1", "verify": "None"}.items():
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True, env=without, check=True)
        assert done.stdout == f"{threads}\n"


def test_only_the_command_that_is_asked_for_gets_parameters() -> None:
    from parsim import cli

    assert [each.callback.__name__ for each in cli._program("run").registered_commands if each.callback] == ["run"]
    for every in (cli._program(), cli._program("--help"), cli._program("ruin")):
        assert every.registered_commands == cli.app.registered_commands
    assert len(cli.app.registered_commands) > 1


def test_the_catalog_is_read_row_by_row() -> None:
    """The tiny scenario needs a model, a node with its accelerator, link and host link, the default stack, and every dtype."""
    code = f"from parsim import catalog, check; assert not check({SCENARIO!r}); print(catalog._row.cache_info().misses)"
    num_read = int(run(sys.executable, "-c", code).stdout)
    assert num_read == 6 + len(catalog.names("dtypes"))


def test_a_module_is_a_command_line_too() -> None:
    assert run(sys.executable, "-m", "parsim", "--version").stdout == f"parsim {parsim.__version__}\n"


def test_importing_parsim_loads_nothing_else() -> None:
    loaded = imported("import parsim")
    assert "parsim" in loaded
    assert not loaded & (HEAVY | {"numpy", "typer", "rich"})


def test_reading_and_estimating_needs_no_figure_and_no_events() -> None:
    assert not imported("import parsim; parsim.load; parsim.estimate") & {"matplotlib", "simpy", "typer", "rich"}


def test_every_public_name_is_there_and_none_is_a_package() -> None:
    for name in parsim.__all__:
        assert getattr(parsim, name).__module__.startswith("parsim.")
        assert not (ROOT / "parsim" / name).exists()
        assert not (ROOT / "parsim" / f"{name}.py").exists()
    assert set(parsim.__all__) <= set(dir(parsim))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        parsim.nothing  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert parsim.__version__ == project.get("version", parsim.__version__)
    assert run(*PARSIM, "--version").stdout == f"parsim {parsim.__version__}\n"


def test_a_mistake_is_a_sentence_on_stderr_with_status_2(tmp_path: Path) -> None:
    result = run(*PARSIM, "run", str(tmp_path / "nowhere.yaml"))
    assert (result.returncode, result.stdout) == (2, "")
    path = tmp_path / "nowhere.yaml"
    assert result.stderr == f"{path}: no such file\n  Next: parsim init -o {path} writes a scenario.\n"


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["run", "--help"], []])
def test_a_reader_that_leaves_gets_no_complaint(arguments: list[str]) -> None:
    process = subprocess.Popen([*PARSIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 141  # as a shell tells SIGPIPE
    process.stderr.close()


# Imports are slowed, so that the signal falls into one on any machine.
SLOW_IMPORTS = """
import builtins, os, signal, sys, time
plain, waiting = builtins.__import__, [sys.argv[1]]
def slow(name, *rest, **others):
    if waiting and name.startswith(waiting[0]):
        waiting.clear()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    return plain(name, *rest, **others)
builtins.__import__ = slow
sys.argv = ["parsim", *sys.argv[2:]]
from parsim.__main__ import main
main()
"""


@pytest.mark.parametrize("imported", ["typer", "parsim.scenario", "numpy"])
def test_ctrl_c_amid_imports_ends_with_130_and_no_traceback(imported: str) -> None:
    result = run(sys.executable, "-c", SLOW_IMPORTS, imported, "check", "nowhere.yaml")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "parsim: interrupted\n")


def test_ctrl_c_that_the_shell_took_away_stays_away() -> None:
    result = run("sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", SLOW_IMPORTS, "typer", "--version")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", [["check"], ["run"], ["plan"], ["verify"], ["validate"], ["verify", "--time", "--machine"]])
def test_a_pipe_that_nobody_writes_into_is_told_at_once(command: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    last = (
        [str(tmp_path / "pipe")]
        if command[0] != "verify" or len(command) == 1
        else [str(tmp_path / "pipe"), str(ROOT / "scenarios/tiny.yaml")]
    )
    result = run(*PARSIM, *command, *last)
    assert result.returncode == 2
    assert "is a pipe that nobody writes into" in result.stdout + result.stderr


def test_a_pipe_that_somebody_writes_into_is_read() -> None:
    result = run("sh", "-c", 'cat "$1" | "$2" -m parsim check /dev/stdin', "sh", str(ROOT / "scenarios/tiny.yaml"), sys.executable)
    assert (result.returncode, result.stderr) == (0, "/dev/stdin: no errors\n")


def test_a_command_that_ends_with_a_text_has_failed() -> None:
    code = "import sys\nfrom parsim import cli\ndef app(**_):\n    raise SystemExit('no such thing')\ncli.app = app\ncli.main()"
    result = run(sys.executable, "-c", code)
    assert (result.returncode, result.stderr) == (1, "no such thing\n")


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    code = "import time\nfrom parsim.report.manners import status\ndef work():\n    print('ready', flush=True)\n    time.sleep(30)\n"
    code += "raise SystemExit(status(work))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert process.wait(30) == 130
    assert told == b"parsim: interrupted\n"
    process.stdout.close()
    process.stderr.close()


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_stop() -> None:
    command = [*PARSIM, "list", "models"]
    result = subprocess.run(command, capture_output=True, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}, check=False)
    assert result.returncode == 0
    assert b"gpt3-175b" in result.stdout


@pytest.mark.parametrize(
    ("closed", "status", "said"),
    [(">&-", 2, "stdout: is closed\n"), ("2>&-", 0, ""), (">&- 2>&-", 2, ""), (">/dev/full", 2, "stdout: No space left on device\n")],
)
def test_an_answer_that_nobody_can_read_is_a_failure(closed: str, status: int, said: str) -> None:
    result = run("sh", "-c", f'exec "$@" {closed}', "sh", *PARSIM, "list", "models")
    assert (result.returncode, result.stderr) == (status, said)


def test_a_closed_stdout_is_told_before_the_work() -> None:
    result = run("sh", "-c", 'exec "$@" >&-', "sh", *PARSIM, "plan", "nowhere.yaml", "--json")
    assert (result.returncode, result.stderr) == (2, "stdout: is closed\n")
