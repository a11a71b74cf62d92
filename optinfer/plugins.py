"""Finds families, backends and techniques by file name, and those of other packages by entry point.

A plugin is a module. Its name is its file's name; there is no list to edit. Listing never imports a plugin, so a
broken or heavy one costs nothing until it is used; a third party registers `name = "package.module"` under the entry
point group `optinfer.families`, `optinfer.backends` or `optinfer.techniques`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType

from optinfer.errors import ConfigError, suggest

ROOMS = {
    "families": "optinfer.families",
    "backends": "optinfer.backends",
    "techniques": "optinfer.optimization.techniques",
}


@cache
def names(kind: str) -> dict[str, str]:
    """Return plugin name -> module path for one kind (a key of `ROOMS`), own files first."""
    room = importlib.import_module(ROOMS[kind])
    found = {
        m.name: f"{ROOMS[kind]}.{m.name}" for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")
    }
    for entry in entry_points(group=f"optinfer.{kind}"):
        found.setdefault(entry.name, entry.value)
    return found


def load(kind: str, name: str) -> ModuleType:
    """Import the plugin `name`.

    Names in job files use dashes, files use underscores: both find the plugin.

    Raises:
        ConfigError: there is no such plugin; the message names the nearest one.
    """
    known = names(kind)
    module = known.get(name.replace("-", "_")) or known.get(name)
    if module is None:
        raise ConfigError(f"no {kind} plugin {name!r}" + suggest(name, (n.replace("_", "-") for n in known)))
    return importlib.import_module(module)


def missing_modules(requires: tuple[str, ...]) -> list[str]:
    """Return those of `requires` that are not installed, without importing any of them."""
    return [name for name in requires if find_spec(name) is None]
