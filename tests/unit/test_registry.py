"""A registry gives what was registered, says what it has where asked for something else, and imports a package once."""

from __future__ import annotations

import sys

import pytest

from parsim.errors import ParsimError
from parsim.registry import Registry


def test_what_is_registered_is_found_by_its_name():
    registry = Registry[int]("number")
    assert registry.register("two", 2) == 2
    assert registry.get("two") == 2


def test_names_are_sorted():
    registry = Registry[int]("number")
    for name in ("b", "c", "a"):
        registry.register(name, 0)
    assert registry.names() == ("a", "b", "c")


def test_an_unknown_name_lists_the_known_and_the_nearest():
    registry = Registry[int]("schedule")
    registry.register("1f1b", 1)
    registry.register("gpipe", 2)
    with pytest.raises(ParsimError, match=r"unknown schedule 'gpip' \(did you mean 'gpipe'\?\)\n  Known: 1f1b, gpipe\."):
        registry.get("gpip")


def test_a_name_belongs_to_one_thing():
    registry = Registry[object]("thing")
    thing = object()
    registry.register("a", thing)
    registry.register("a", thing)
    with pytest.raises(ParsimError, match="thing 'a' is registered twice"):
        registry.register("a", object())


def test_discovery_imports_every_module_of_a_package_once(tmp_path, monkeypatch):
    package = tmp_path / "parsim_discovered"
    package.mkdir()
    (package / "__init__.py").write_text("found = []\n")
    for name in ("one", "two"):
        (package / f"{name}.py").write_text(f"import parsim_discovered\nparsim_discovered.found.append('{name}')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry[int]("number")
    registry.discover("parsim_discovered")
    registry.discover("parsim_discovered")
    assert sys.modules["parsim_discovered"].found == ["one", "two"]
