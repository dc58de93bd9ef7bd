"""The built wheel works from another folder, data files included."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing lying about is packed."""
    pytest.importorskip("build", reason="the package `build` (extra dev) is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and name.split("/")[0] in ("parsim", "kernels", "pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    if not source.exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_both_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith("parsim_llm-")
    assert {
        "parsim/cli.py",
        "parsim_kernels/machine.py",
        "parsim/catalog/data/accelerators.yaml",
        "parsim/validate/published/papers.csv",
        "parsim/examples/digits-mlp.yaml",
        "parsim/py.typed",
    } <= set(names)
    assert not any(name.split("/")[0] in ("kernels", "tests") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_predicts_a_step_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "tiny.yaml").write_text((ROOT / "scenarios" / "tiny.yaml").read_text())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "120"}
    arguments = ["parsim", "run", "tiny.yaml", "--no-figure"]
    code = f"import parsim, sys; sys.argv = {arguments}; print(parsim.__file__); from parsim.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout and (tmp_path / "reports" / "tiny" / "results.json").exists()
