"""What stands around the code says the same as the code: the hooks before a commit, the licence."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TOOLS = ("ruff", "mypy")


def test_a_commit_is_checked_by_the_commands_that_ci_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    by_ci = [line for line in lines if line.startswith(tuple(f".venv/bin/{tool}" for tool in TOOLS))]
    hooks = YAML(typ="safe", pure=True).load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert len(by_ci) == 3
    assert [hook["entry"] for repository in hooks for hook in repository["hooks"]] == by_ci
    assert {repository["repo"] for repository in hooks} == {"local"}


def test_the_licence_is_the_one_that_the_package_states() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    words = (ROOT / "LICENSE").read_text().split()
    assert " ".join(words[:4]) == "Apache License Version 2.0,"
