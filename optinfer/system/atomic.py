"""Files that are whole whenever they are there: written aside, durably, then given their name in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

# What file systems without hard links answer: exFAT and SMB the first, FUSE any of them.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)
_NO_WAY = (
    "its file system has neither hard links nor a rename that replaces nothing, so one commit could overwrite another: "
    "choose a folder on another one"
)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
# Where a folder cannot be opened or synced (Windows, some of FUSE), its names last as the system sees fit.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EISDIR)


def put(path: Path, content: bytes, aside: Path | None = None, name: Callable[[Path, Path], None] = os.replace) -> None:
    """Write a file: a kill, or another process at the same, leaves no half of it.

    Args:
        aside: folder on the same disk for what is not whole yet; None takes a hidden name beside `path`.
        name: (what was written aside, path) gives it its name; `name_new` where nothing may be replaced.
    """
    with writing(path, aside, name) as file:
        file.write(content)


@contextlib.contextmanager
def writing(
    path: Path, aside: Path | None = None, name: Callable[[Path, Path], None] = os.replace
) -> Iterator[BinaryIO]:
    """Give a file to write, as `put` does, piece by piece; one whose writing raises is not there."""
    unique = uuid.uuid4().hex
    staged = path.with_name(f".{path.name}-{unique}") if aside is None else aside / unique
    staged.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(staged, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        name(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def name_new(staged: Path, path: Path) -> None:
    """Give a file its name where there is none: by a hard link, or by a rename that replaces nothing.

    Raises:
        FileExistsError: there is one, and it is not this file.
        OSError: the file system can do neither.
    """
    try:
        os.link(staged, path)
    except FileExistsError:
        if not _is_same(staged, path):  # NFS asks twice where an answer was lost, and hears of its own link
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_new(staged, path)


def remove(path: Path, aside: Path, unwanted: Callable[[bytes], bool]) -> None:
    """Remove a file whose bytes are `unwanted`; one that takes its place between the look and the end of it stays.

    Args:
        aside: folder on the same disk, where it is looked at once more: there nobody replaces it.

    Raises:
        FileNotFoundError: it is not there, or gone by then.
    """
    if not unwanted(path.read_bytes()):
        return
    aside.mkdir(parents=True, exist_ok=True)
    taken = aside / uuid.uuid4().hex
    os.rename(path, taken)
    try:
        if not unwanted(taken.read_bytes()):
            with contextlib.suppress(FileExistsError):  # yet another is there: conditional commits are alike
                name_new(taken, path)
    finally:
        taken.unlink(missing_ok=True)


def _is_same(staged: Path, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return staged.samefile(path)
    return False


def _rename_new(staged: Path, path: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    names = _AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE
    if rename is not None and rename(*names) == 0:
        return
    number = ctypes.get_errno() if rename is not None else errno.ENOSYS
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(number, _NO_WAY, str(path))
    raise OSError(number, os.strerror(number), str(path))


def keep(path: Path) -> None:
    """Have what a file holds, or the names in a folder, last if power goes now; what is not there has nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in (*_NO_SYNC, errno.ENOENT):
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
