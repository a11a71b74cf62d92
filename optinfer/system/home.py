"""Where optinfer keeps what outlives a job on this machine: built artifacts, journals, the default MLflow file.

One folder, `$OPTINFER_HOME` or `~/.optinfer`, always absolute: a Ray worker's working directory differs from the
driver's, so nothing here may depend on it. What lies in it is a cache: a damaged file counts as one that is not there.
Where `$OPTINFER_HOME` is the URL of a store, the folder is this machine's cache of it (data/home_store.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.system import atomic
from optinfer.system.contents import Listed, as_plain, from_plain

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
    chosen = os.environ.get("OPTINFER_HOME", "").removeprefix("file://")
    try:
        if url := store():
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
            return cache.absolute() / "optinfer" / hashlib.sha256(redact(url).rstrip("/").encode()).hexdigest()[:16]
        return (Path(chosen).expanduser() if chosen else Path.home() / ".optinfer").absolute()
    except (RuntimeError, OSError) as error:  # no HOME and no such user, or a working directory that is gone
        raise ConfigError(
            f"no folder for optinfer's own files: {error}; set {_variable()} to the full path of one that can be "
            "written to"
        ) from error


def store() -> str | None:
    """Return the URL that `$OPTINFER_HOME` names, None where it is a folder of this machine."""
    chosen = os.environ.get("OPTINFER_HOME", "")
    return chosen if "://" in chosen and not chosen.startswith("file://") else None


def shown() -> str:
    """Say where the home is: of a store, also the folder that is this machine's cache of it."""
    url = store()
    return f"{redact(url)}, by way of {home()}" if url else str(home())


def _variable() -> str:
    """Name what says where the folder is."""
    return "XDG_CACHE_HOME" if store() else "OPTINFER_HOME"


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


def note_files(folder: Path, files: Sequence[Listed]) -> None:
    """Note, beside a cached `folder`, the files that are to be in it."""
    put(_noted(folder), json.dumps(as_plain(files)).encode())


def is_whole(folder: Path, read: bool = True) -> bool:
    """Tell whether a cached folder holds what was noted of it; one that does not is said, and counts as none.

    Args:
        read: files are held against their digests, once a process; else against their sizes.
    """
    if not folder.is_dir():
        return False
    noted = read_json(_noted(folder), from_plain) or []
    lost = next((file.name for file in noted if not file.is_at(folder / file.name, read)), None)
    if lost is None and next(folder.iterdir(), None) is not None:
        return True
    _log.warning(
        "warning: %s is damaged (%s) and is made again", folder, f"{lost} is not as it was" if lost else "empty"
    )
    return False


def bring(folder: Path, files: Sequence[Listed], pieces: Callable[[Listed], Iterable[bytes]]) -> Listed | None:
    """Make a cached folder of files that come from elsewhere; it is complete when it appears. Its caller locks it.

    Returns:
        The file that came with another content than was listed, where one did: then there is no folder.

    Raises:
        OptinferError: the disk does not take it.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(sum(file.size for file in files))
    coming = folder.with_name(f"{folder.name}.coming")
    shutil.rmtree(coming, ignore_errors=True)
    try:
        for file in files:
            if _brought(coming / file.name, pieces(file)) != file.sha256:
                return file
        note_files(folder, files)
        with writing(folder):
            remove(folder)
            os.replace(coming, folder)
        return None
    finally:
        shutil.rmtree(coming, ignore_errors=True)


def _brought(path: Path, pieces: Iterable[bytes]) -> str:
    """Write a file and return its digest; an OSError is of this disk: who gives the pieces raises none."""
    digest = hashlib.sha256()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as out:
            for piece in pieces:
                digest.update(piece)
                out.write(piece)
    return digest.hexdigest()


def remove(folder: Path) -> None:
    """Remove what was kept: a folder, or a name for one that lies elsewhere."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _noted(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.files.json")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` inside a `with` block into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise OptinferError(
            f"cannot write {path}: {error.strerror or error}; free or repair the place, or set {_variable()} to the "
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
            f"{folder} has {free / 1e6:,.0f} MB free, {size / 1e6:,.0f} MB are needed; free some, or set {_variable()} "
            "to a folder on a larger disk"
        )


def default_tracking_uri() -> str:
    """The MLflow store used when neither the job nor `MLFLOW_TRACKING_URI` names one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
