"""Modules that are loaded when they are first used, not when they are imported.

A third of the time of `import ray` goes to packages that a start of a node never uses: requests (for
the metadata of cloud machines), jsonschema and yaml (for runtime environments).  The companion puts a
placeholder in their place before it imports Ray; the first use of an attribute loads the real module.

Not importlib.util.LazyLoader, whose modules load as soon as a second module imports them: the import system
looks at their __spec__.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: What Ray 2.52 to 2.60 imports with itself and needs only for what the companion never does.
UNUSED_BY_A_START = ("requests", "jsonschema", "yaml")


class LazyModule(ModuleType):
    """A module that runs its code when an attribute is missed."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on an ordinary one
        self.__loader__ = spec.loader
        self.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        if spec.has_location and spec.origin is not None:
            self.__file__ = spec.origin
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)  # as a failed import leaves it
            raise
        return getattr(self, name)


def import_later(names: Iterable[str]) -> None:
    """Let these packages be loaded when they are first used.  Those not installed stay as they are."""
    for name in names:
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                sys.modules[name] = LazyModule(spec)
