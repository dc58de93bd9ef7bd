"""Modules that are imported when something of them is first used, whoever states the import."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


class _Later(ModuleType):
    """A module that has nothing but its name, until somebody asks for more."""

    def __getattr__(self, name: str) -> object:
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        vars(self).update(vars(importlib.util.module_from_spec(spec)))  # __file__, __path__ and the like
        spec.loader.exec_module(self)
        return getattr(self, name)


def later(name: str) -> None:
    """Let `import NAME`, wherever it stands, take no time until the module is used."""
    if name not in sys.modules and (spec := importlib.util.find_spec(name)):
        module = sys.modules[name] = _Later(name)
        module.__spec__ = spec
