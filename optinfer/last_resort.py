"""What a person reads when something fails that nobody foresaw: one line. The traceback goes to a file they can send.

A run's journal takes it (see tracking/journal.py); before there is one, a file in the home folder does.
"""

from __future__ import annotations

import errno
import re
import time
import traceback
from pathlib import Path

from optinfer import home
from optinfer.errors import OptinferError

# Set on an error whose traceback a journal has: its path.
KEPT_IN = "optinfer_kept_in"
_PASSWORD = re.compile(r"://[^/\s@'\"]+@")
_QUERY = re.compile(r"(\w://[^\s?'\"]+)\?[^\s'\")]+")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def line(error: BaseException) -> str:
    """Say what happened and where the traceback is."""
    return f"{said(error)}; {_where(error)}"


def whole(error: BaseException) -> str:
    """Return the traceback, and what replicas said of theirs."""
    try:
        return _scrubbed("".join(traceback.format_exception(error)))
    except Exception as second:  # an error whose own text cannot be made
        return f"{type(error).__name__}, which cannot be printed: {type(second).__name__}"


def named(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    try:
        text = _scrubbed(str(error).strip().partition("\n")[0])[:300]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def said(error: BaseException) -> str:
    """Say what happened, and what to do where that is known."""
    what = named(error)
    if isinstance(error, MemoryError):
        return f"this process ran out of memory ({what}): run where there is more, or fewer replicas"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"a disk is full ({what}): free some of it and run the same command again, committed fragments are kept"
    if isinstance(error, OSError):
        return f"the system refused something ({what}): correct it and run the same command again"
    return f"something failed that optinfer did not foresee ({what}): please report it"


def _scrubbed(text: str) -> str:
    """Take passwords and queries out of the URLs in a text that nobody wrote for others to read."""
    return _QUERY.sub(r"\1?...", _PASSWORD.sub("://...@", text))


def _where(error: BaseException) -> str:
    if kept := getattr(error, KEPT_IN, None):
        return f"the traceback is in {kept}"
    try:
        path = _keep(whole(error))
    except (OptinferError, OSError) as second:
        return f"no traceback is kept ({str(second).partition(';')[0]})"
    return f"the traceback is in {path}"


def _keep(text: str) -> Path:
    path = home.home() / "crashes" / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}.txt"
    home.put(path, text.encode(errors="backslashreplace"))
    return path
