"""Which files of a job's own code travel: the module of its class, and what that imports from beside it.

What is installed does not travel: a cluster installs it as this machine did.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from optinfer import plugins

_OURS = "optinfer"
_SUFFIX = ".py"
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


def travelling(spec: str) -> dict[str, Path]:
    """Return the files that `module:Class` needs by the names they have from where it is imported; {} if installed.

    Raises:
        ConfigError: there is no such module.
    """
    file = plugins.code_of(spec).absolute()
    if _is_installed(file):
        return {}
    parts = spec.partition(":")[0].split(".")
    depth = len(parts) - (file.name != f"__init__{_SUFFIX}")
    root = file.parents[depth]
    found: dict[str, Path] = {}
    waiting = [parts[0]]
    while waiting:
        for path in _files_of(root, waiting.pop()):
            name = path.relative_to(root).as_posix()
            if name not in found:
                found[name] = path
                waiting += _imported(path)
    return found


def left_behind(files: dict[str, Path]) -> list[str]:
    """Name what lies in the packages that travel and does not: only Python does."""
    folders = {path.parent for name, path in files.items() if "/" in name}
    return sorted(
        str(path)
        for folder in folders
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (_SUFFIX, ".pyc") and not path.name.startswith(".")
    )


def _is_installed(file: Path) -> bool:
    places = {Path(sysconfig.get_path(name)) for name in _INSTALLED}
    return any(place in file.parents for place in places)


def _files_of(root: Path, module: str) -> Iterator[Path]:
    if module == _OURS:
        return
    if (single := root / f"{module}{_SUFFIX}").is_file():
        yield single
    elif (package := root / module).is_dir():
        yield from _walked(package)


def _walked(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a package; an environment that somebody made in it is none of it."""
    if (folder / "pyvenv.cfg").exists():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walked(path)
        elif path.suffix == _SUFFIX and path.is_file():
            yield path


def _imported(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # whoever imports it is told
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
