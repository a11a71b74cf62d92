"""Where optinfer keeps what outlives a job on this machine: built artifacts, journals, the default MLflow file.

One folder, `$OPTINFER_HOME` or `~/.optinfer`, always absolute: a Ray worker's working directory differs from the
driver's, so nothing here may depend on it. What lies in it is a cache: a damaged file counts as one that is not there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from optinfer.errors import ConfigError, OptinferError
from optinfer.system import atomic

T = TypeVar("T")

_log = logging.getLogger(__name__)
# What reading a file that is empty, cut short or not ours may raise, before and while its values are used.
_DAMAGE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def home() -> Path:
    """Return the folder; it need not exist.

    Raises:
        ConfigError: nothing says where it is.
    """
    chosen = os.environ.get("OPTINFER_HOME")
    try:
        return (Path(chosen).expanduser() if chosen else Path.home() / ".optinfer").absolute()
    except (RuntimeError, OSError) as error:  # no HOME and no such user, or a working directory that is gone
        raise ConfigError(
            f"no folder for optinfer's own files: {error}; set OPTINFER_HOME to the full path of one that can be "
            "written to"
        ) from error


def artifacts() -> Path:
    return home() / "artifacts"


def models() -> Path:
    return home() / "models"


def runs() -> Path:
    return home() / "runs"


def put(path: Path, content: bytes) -> None:
    """Write a file that is whole whenever it is there: a kill, or another job at the same, leaves no half of it."""
    with writing(path):
        atomic.put(path, content)


def read_json(path: Path, make: Callable[[Any], T]) -> T | None:
    """Return `make(what the file holds)`, None where there is no file; a damaged one is said and counts as none."""
    return read(path, lambda file: make(json.loads(file.read_text(encoding="utf-8"))))


def read(path: Path, make: Callable[[Path], T]) -> T | None:
    """Return `make(path)`, None where there is no file; a damaged one is said and counts as none."""
    try:
        return make(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        _log.warning("warning: %s is damaged (%s) and is made again", path, type(error).__name__)
        return None


def note_files(folder: Path, inside: Path) -> None:
    """Note, beside a cached `folder`, the files that are to be in it; they are in `inside` now."""
    put(_noted(folder), json.dumps(_sizes(inside)).encode())


def is_whole(folder: Path) -> bool:
    """Tell whether a cached folder holds what was noted of it; one that lost files is said, and counts as none."""
    if not folder.is_dir():
        return False
    noted = read_json(_noted(folder), dict[str, int])
    found = _sizes(folder)
    lost = sorted(name for name, size in (noted or {}).items() if found.get(name) != size)
    if found and not lost:
        return True
    _log.warning(
        "warning: %s is damaged (%s) and is made again", folder, f"{lost[0]} is not as it was" if lost else "empty"
    )
    return False


def _noted(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.files.json")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` inside a `with` block into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise OptinferError(
            f"cannot write {path}: {error.strerror or error}; free or repair the place, or set OPTINFER_HOME to the "
            "full path of a folder that can be written to"
        ) from error


def require_writable() -> None:
    """Refuse a home that cannot be written to, before anything is worked out that would be kept there."""
    folder = home()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(4096))


def require_space(size: int) -> None:
    """Refuse to begin a file of `size` bytes in a home whose disk cannot take it."""
    folder = home()
    free = shutil.disk_usage(folder).free if folder.is_dir() else size
    if free < size:
        raise OptinferError(
            f"{folder} has {free / 1e6:,.0f} MB free, {size / 1e6:,.0f} MB are needed; free some, or set OPTINFER_HOME "
            "to a folder on a larger disk"
        )


def default_tracking_uri() -> str:
    """The MLflow store used when neither the job nor `MLFLOW_TRACKING_URI` names one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
