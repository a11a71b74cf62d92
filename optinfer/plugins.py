"""Finds plugins by file name, and those of other packages by entry point.

A plugin is a module that holds one object of its kind's type, under its kind's name: `backend`, `family`, `sink`. The
plugin's name is its file's; there is no list to edit. Listing never imports a plugin, so a broken or heavy one costs
nothing until it is used; a third party registers `name = "package.module"` under the kind's entry point group.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from optinfer.errors import ConfigError, suggest

T = TypeVar("T")


class Kind(Generic[T]):
    """One kind of plugin: a room with a file for each, and the entry points `optinfer.<plural>` of other packages.

    Args:
        name: of the kind, and of the object in a plugin's module: `backend`.
        plural: of the entry point group: `backends`.
        room: package that holds our own.
        type: what the object has to be.
    """

    def __init__(self, name: str, plural: str, room: str, type: type[T]) -> None:
        self.name, self.plural, self.room = name, plural, room
        self._type = type

    def names(self) -> list[str]:
        """Name every plugin as job files do, ours first; imports none."""
        return [name.replace("_", "-") for name in self._modules()]

    def get(self, name: str) -> T:
        """Import the plugin `name`; dashes and underscores are the same.

        Raises:
            ConfigError: there is no such plugin, or what its module holds is none.
        """
        known = self._modules()
        module = known.get(name.replace("-", "_")) or known.get(name)
        if module is None:
            raise ConfigError(f"no {self.plural} plugin {name!r}" + suggest(name, self.names()))
        found = vars(self._imported(name, module)).get(self.name)
        if not isinstance(found, self._type):
            raise ConfigError(
                f'the {self.name} {name} ({module}) has no `{self.name} = {self._type.__name__}(...)`; see "how to '
                f'add a {self.name}" in docs/architecture.md'
            )
        return found

    def provenance(self, name: str) -> dict[str, str]:
        """Return what identifies the code of another package's plugin: package -> version and digest; {} for our own.

        What was proved with one version says nothing of the next, nor of the same one after its code was edited.
        """
        entry = self._entries().get(name.replace("-", "_")) or self._entries().get(name)
        if entry is None:
            return {}
        spec = find_spec(entry.module)
        content = Path(spec.origin).read_bytes() if spec and spec.has_location and spec.origin else b""
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.module, "unknown")
        return {package: f"{version} ({hashlib.sha256(content).hexdigest()[:12]})"}

    def _imported(self, name: str, module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except Exception as error:
            if module.startswith(f"{self.room}."):
                raise
            whose = " ".join([*self.provenance(name)]) or module
            raise ConfigError(
                f"the {self.name} {name} ({module} of {whose}) cannot be imported: {type(error).__name__}: {error}; "
                "mend or remove that package"
            ) from error

    @cache  # noqa: B019 one object a kind, as long as the process
    def _entries(self) -> dict[str, EntryPoint]:
        """Return the entry points of other packages, by the plugin's name, but for names that are ours."""
        own = {m.name for m in pkgutil.iter_modules(importlib.import_module(self.room).__path__)}
        return {e.name: e for e in entry_points(group=f"optinfer.{self.plural}") if e.name not in own}

    @cache  # noqa: B019 one object a kind, as long as the process
    def _modules(self) -> dict[str, str]:
        """Return plugin name -> module path, own files first."""
        room = importlib.import_module(self.room)
        found = {
            m.name: f"{self.room}.{m.name}" for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")
        }
        return found | {name: entry.value for name, entry in self._entries().items()}


def load_class(spec: str) -> Any:
    """Import `module:Class` of the job's own code, from the working directory or from anywhere Python looks.

    Raises:
        ConfigError: it cannot be imported, or holds no such class.
    """
    module, _, name = spec.partition(":")
    _see_working_directory()
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"model.class {spec}: {module} cannot be imported: {type(error).__name__}: {error}; start the job where "
            "the module lies, or install it"
        ) from error
    if not isinstance(getattr(found, name, None), type):
        classes = [n for n, value in vars(found).items() if isinstance(value, type)]
        raise ConfigError(f"model.class {spec}: {module} has no class {name!r}" + suggest(name, classes))
    return getattr(found, name)


def make(spec: str, arguments: Mapping[str, object]) -> Any:
    """Return an object of the class `module:Class`.

    Raises:
        ConfigError: there is no such class, or it cannot be made with these arguments.
    """
    found = load_class(spec)
    try:
        return found(**arguments)
    except Exception as error:
        raise ConfigError(
            f"model.class {spec} cannot be made: {type(error).__name__}: {error}; correct model.arguments "
            f"({', '.join(arguments) or 'none are given'})"
        ) from error


def code_of(spec: str) -> Path:
    """Return the file that holds `module:Class`, without importing it: what it says shapes the answers."""
    module = spec.partition(":")[0]
    _see_working_directory()
    try:
        found = find_spec(module)
    except Exception:  # finding a.b imports a, which may fail in any way
        found = None
    if found is None or not found.has_location or not found.origin:
        raise ConfigError(
            f"model.class {spec}: there is no module {module}; start the job where it lies, or install it"
        )
    return Path(found.origin)


def _see_working_directory() -> None:
    """Put the working directory on Python's path: that of the command holds its own folder instead."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)


def missing_modules(requires: tuple[str, ...]) -> list[str]:
    """Return those of `requires` that are not installed, without importing any of them."""
    return [name for name in requires if find_spec(name) is None]
