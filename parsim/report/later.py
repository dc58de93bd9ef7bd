"""Modules that are imported when something of them is first used, whoever states the import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Then = Callable[[Any], None] | None


class _Later(ModuleType):
    """A module that has nothing but its names, until somebody asks for more; a package no parts before."""

    def __getattr__(self, name: str) -> object:
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None and isinstance(spec.loader, _Postponed)
        loader, then = spec.loader.loader, spec.loader.then
        self.__loader__ = spec.loader = loader
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        loader.exec_module(self)
        if then:
            then(self)
        return getattr(self, name)


class _Postponed(Loader):
    def __init__(self, loader: Loader, then: Then) -> None:
        self.loader, self.then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).pop("__path__", None)
        module.__class__ = _Later


class _Finder(MetaPathFinder):
    def __init__(self, names: dict[str, Then]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = _Postponed(spec.loader, self.names[fullname])
        return spec


def later(names: dict[str, Then]) -> None:
    """Let an import of these modules take no time until something of them is used.

    Args:
        names: the modules, each with what is called with it once it is there, or None.
    """
    sys.meta_path.insert(0, _Finder(names))
