"""`parsim doctor`: is the installation sound, what do its extras give, and does a prediction equal an executed step here."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, to_builtins

from parsim import __version__, units
from parsim.errors import ParsimError
from parsim.report.console import patience, raw, say, show_table
from parsim.report.files import json_text

_PACKAGE: Final = "parsim-llm"
OK, LACKING, WRONG = "ok", "lacking", "wrong"
# What an extra gives; which there are, and what of, the installed package says.
GIVES: Final[Mapping[str, str]] = {
    "mpi": "parsim execute --transport mpi, and sweeps under mpiexec",
    "torch": "gradients compared with autograd; exported PyTorch programs run",
    "hf": "layers compared with those of transformers",
    "data": "the digits of scikit-learn: scenarios of digits",
    "pandas": "to_dataframe() of results",
    "formats": "narrow numbers compared with ml_dtypes",
    "dask": "sweeps on a cluster of dask",
    "export": "exported configs checked by the parsers of their programs",
    "tensorflow": "exported TensorFlow programs run",
    "keras": "exported Keras programs run, on JAX",
    "dev": "tests, ruff and mypy",
}
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")
_IMPLEMENTATION: Final = re.compile(r"platform_python_implementation\s*==\s*['\"](\w+)['\"]")
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_TINY: Final = {
    "model": "tiny-gpt",
    "cluster": {"node": {"base": "one-cpu-generic", "name": "two", "devices_per_node": 2, "source": "made up"}},
    "batch": {"global_batch": 2, "sequence_length": 8, "dtype": "fp32"},
    "plans": {"tensor": {"tensor_parallel": 2}},
}


class Finding(Struct, frozen=True):
    """What was found of one thing; `mend` is the way out where it is not OK, and only of what `is_core` parsim cannot do without."""

    name: str
    state: str
    said: str
    mend: str = ""
    is_core: bool = True


def examine(*, as_json: bool) -> int:
    """The exit status of looking at everything: 0 where the core is sound, else 1."""
    with patience("looking at the installation"):
        found = [*findings()]
    sound = all(each.state == OK for each in found if each.is_core)
    if as_json:
        raw(json_text({"parsim_version": __version__, "sound": sound, "findings": [to_builtins(each) for each in found]}))
    else:
        rows = [{"what": each.name, "": each.state, "found": each.said + (f"; {each.mend}" if each.mend else "")} for each in found]
        show_table(rows, left=("what", "", "found"))
        say("parsim can do its work here" if sound else "parsim cannot do its work here: mend what is wrong")
        say("next: parsim init --example mlp, or parsim plan --model llama3-8b --node a100-40gb --num-devices 16")
    return 0 if sound else 1


def findings() -> Iterator[Finding]:
    """All that is looked at, in order."""
    yield from _packages()
    yield from map(_of, _CHECKS)


def _of(check: Callable[[], Finding]) -> Finding:
    """What a check finds; one that breaks is what is wrong."""
    try:
        return check()
    except Exception as error:  # whatever is broken in an installation, it is what is asked for
        return Finding(check.__name__.strip("_").replace("_", " "), WRONG, f"{type(error).__name__}: {error}"[:300], _AGAIN)


_AGAIN: Final = f"pip install --force-reinstall '{_PACKAGE}'"


def _packages() -> Iterator[Finding]:
    """Python and what is required, each in its version, then each extra."""
    try:
        about = importlib.metadata.metadata(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "parsim", LACKING, f"{__version__}, run from a checkout: versions are not compared", "pip install -e .", is_core=False
        )
        return
    where = Path(__file__).parents[1]
    yield Finding("parsim", OK, f"{__version__} in {where}")
    wanted, own = about["Requires-Python"] or "", platform.python_version()
    fine = meets(own, wanted)
    yield Finding("Python", OK if fine else WRONG, f"{own}, {wanted} is required", "" if fine else "install a newer Python")
    needs = [_REQUIREMENT.fullmatch(each) for each in importlib.metadata.requires(_PACKAGE) or ()]
    parts = [(each[1], each[2].strip(), each[3] or "") for each in needs if each and _applies(each[3] or "")]
    for name, versions, marker in parts:
        if not _EXTRA.search(marker):
            said, fine = state_of(name, versions)
            yield Finding(name, OK if fine else WRONG, said, "" if fine else f"pip install '{name}{versions}'")
    for extra in about.get_all("Provides-Extra") or ():
        told = [state_of(name, versions, naming=True) for name, versions, marker in parts if extra in _EXTRA.findall(marker)]
        lacks = [said for said, fine in told if not fine]
        gives = GIVES.get(extra, "")
        said = gives + f" (lacks {', '.join(lacks)})" * bool(lacks)
        mend = f"pip install '{_PACKAGE}[{extra}]'" if lacks else ""
        yield Finding(f"[{extra}]", LACKING if lacks else OK, said, mend, is_core=False)


def state_of(name: str, versions: str, *, naming: bool = False) -> tuple[str, bool]:
    """What there is of a package, in words, and whether that is what is required."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return (f"{name}{versions}" if naming else f"missing, {versions or 'any version'} is required"), False
    fine = meets(found, versions)
    said = found if fine and not versions else f"{found}, {versions} is required"
    return (f"{name} {said}" if naming else said), fine


def meets(version: str, wanted: str) -> bool:
    """Whether a version is one of those that are wanted, by the numbers that it begins with.

    >>> meets("2.10.1", ">=2.4"), meets("1.9rc1", ">=2,<3"), meets("3.12", "==3.*"), meets("0.20", "~=0.18")
    (True, False, True, True)
    """
    for clause in filter(None, (each.strip() for each in wanted.split(","))):
        found = re.match(r"(>=|<=|==|!=|~=|>|<)\s*([\w.*]+)", clause)
        if not found:
            continue
        own, limit = _numbers(version), _numbers(found[2])
        alike = own[: len(limit)] == limit if found[2].endswith("*") else _pad(own, limit) == _pad(limit, own)
        more = _pad(own, limit) > _pad(limit, own)
        same_line = own[: len(limit) - 1] == limit[:-1]
        fits = {">=": more or alike, "<=": not more or alike, "==": alike, "!=": not alike, ">": more, "<": not more and not alike}
        if not fits.get(found[1], (more or alike) and same_line):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    start = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, start[0].split("."))) if start else ()


def _pad(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return one + (0,) * (len(other) - len(one))


def _applies(marker: str) -> bool:
    found = _IMPLEMENTATION.search(marker)
    return not found or found[1] == platform.python_implementation()


def _catalog() -> Finding:
    from parsim import catalog

    names = {kind: catalog.names(kind) for kind in catalog.kinds()}
    for kind, each in names.items():
        catalog.row(kind, each[0]), catalog.row(kind, each[-1])
    return Finding("catalog", OK, ", ".join(f"{len(each)} {kind}" for kind, each in names.items()))


def _prediction_and_execution() -> Finding:
    """One plan of a tiny model on two ranks, read three ways."""
    from parsim.scenario import from_mapping
    from parsim.verify import verify_plan

    scenario = from_mapping(_TINY)
    checks = verify_plan(scenario, scenario.plan("tensor"), "tensor")
    wrong = [each.quantity for each in checks if not each.ok]
    said = f"{len(checks) - len(wrong)} of {len(checks)} quantities equal" + f"; {', '.join(wrong)} differ" * bool(wrong)
    return Finding("a tiny step, predicted and executed", WRONG if wrong else OK, said, _AGAIN if wrong else "")


def _worker_processes() -> Finding:
    from parsim.executor.run import execute
    from parsim.scenario import from_mapping

    name, mend = "worker processes, shared memory", "parsim execute --transport lockstep runs all ranks in one process"
    try:
        losses = execute(from_mapping(_TINY), "tensor", transport="shared_memory", deadline_s=60.0).losses
    except (ParsimError, OSError, RuntimeError) as error:
        return Finding(name, LACKING, f"no: {error}"[:300], mend, is_core=False)
    return Finding(name, OK, f"two ranks took a step; its loss is {losses[0]:.4g}", is_core=False)


def _figures() -> Finding:
    import matplotlib
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(stream := io.BytesIO(), format="png")
    size = len(stream.getvalue())
    return Finding("figures", OK, f"matplotlib {matplotlib.__version__} writes PNG, {size} bytes, without a display", is_core=False)


def _mpi_launcher() -> Finding:
    found = next(filter(None, map(shutil.which, ("mpiexec", "mpirun", "srun"))), None)
    mend = "install Open MPI or MPICH to run parsim execute --transport mpi"
    return Finding("MPI launcher", OK if found else LACKING, found or "none on the path", "" if found else mend, is_core=False)


def _cores_and_memory() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    threads = ", ".join(f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ) or "threads of BLAS as it chooses"
    return Finding("cores", OK, f"{cores} cores, {units.format(pages, 'bytes')} of memory, {threads}", is_core=False)


def _folders() -> Finding:
    """Where reports go, and what is written on the way."""
    places = {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "shared memory": Path("/dev/shm")}
    closed = [f"{name} ({path})" for name, path in places.items() if path.is_dir() and not _is_open(path)]
    said = f"cannot write: {', '.join(closed)}" if closed else f"{', '.join(places)} can be written"
    return Finding("folders", LACKING if closed else OK, said, "say -o DIR where you may write" if closed else "", is_core=False)


def _is_open(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _terminal() -> Finding:
    size, encoding = shutil.get_terminal_size(), getattr(sys.stdout, "encoding", None) or "unknown"
    watched = "a terminal" if sys.stdout.isatty() else "no terminal: tables are plain and nothing is asked"
    fine = encoding.lower().replace("-", "").startswith("utf")
    said = f"{watched}, {size.columns} columns, {encoding}"
    return Finding("terminal", OK if fine else LACKING, said, "" if fine else "export PYTHONIOENCODING=utf-8", is_core=False)


_CHECKS: Final = (
    *(_catalog, _prediction_and_execution, _worker_processes, _figures),
    *(_mpi_launcher, _cores_and_memory, _folders, _terminal),
)
