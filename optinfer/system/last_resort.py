"""What a person reads when something fails that nobody foresaw: one line. The traceback goes to a file they can send.

A run's journal takes it (see tracking/journal.py); before there is one, a file in the home folder does.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import optinfer.errors
from optinfer.errors import INTERRUPTED, INTERRUPTED_LINE, OptinferError, scrubbed
from optinfer.system import home, outages

# Set on an error whose traceback a journal has: its path.
KEPT_IN = "optinfer_kept_in"


def line(error: BaseException) -> str:
    """Say what happened and where the traceback is."""
    return f"{said(error)}; {_where(error)}"


def whole(error: BaseException) -> str:
    """Return the traceback, and what replicas said of theirs."""
    try:
        return scrubbed("".join(traceback.format_exception(error)))
    except Exception as second:  # an error whose own text cannot be made
        return f"{type(error).__name__}, which cannot be printed: {type(second).__name__}"


def named(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    try:
        text = scrubbed(str(error).strip().partition("\n")[0])[:300]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def said(error: BaseException) -> str:
    """Say what happened, and what to do where that is known."""
    what = named(error)
    if isinstance(error, MemoryError):
        return f"this process ran out of memory ({what}): run where there is more, or fewer replicas"
    if outages.is_full(error):
        return f"a disk is full ({what}): free some of it and run the same command again, committed fragments are kept"
    if isinstance(error, outages.no_answers()):
        return (
            f"a store did not do what it was asked ({what}): check network, endpoint and credentials, and run the same "
            "command again, committed fragments are kept"
        )
    if isinstance(error, OSError):
        return f"the system refused something ({what}): correct it and run the same command again"
    return f"something failed that optinfer did not foresee ({what}): please report it"


def ended(error: BaseException) -> tuple[int, str]:
    """Return the exit code of a command that an error ended, and what a person reads of it."""
    if isinstance(error, OptinferError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, INTERRUPTED_LINE
    return OptinferError.exit_code, said(error)


def told(error: Exception, who: str = "") -> dict[str, str]:
    """Return an error as plain values, which travel: its class, what a person reads of it, its traceback.

    Args:
        who: what is said before an error that nobody foresaw.
    """
    if isinstance(error, OptinferError):
        return {"error": type(error).__name__, "message": str(error), "traceback": whole(error)}
    return {"error": OptinferError.__name__, "message": f"{who}{said(error)}", "traceback": whole(error)}


def again(values: dict[str, str]) -> OptinferError:
    """Return the error that `told` made values of, of its own class; its traceback is a note, for the journal."""
    error: OptinferError = getattr(optinfer.errors, values["error"], OptinferError)(values["message"])
    error.add_note(f"Where it was raised:\n{values.get('traceback')}")
    return error


def _where(error: BaseException) -> str:
    if kept := getattr(error, KEPT_IN, None):
        return f"the traceback is in {kept}"
    try:
        path = keep(whole(error))
    except (OptinferError, OSError) as second:
        return f"no traceback is kept ({str(second).partition(';')[0]})"
    return f"the traceback is in {path}"


def keep(text: str) -> Path:
    """Keep what a person may send, in a file of the home folder; return it."""
    path = home.home() / "crashes" / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}.txt"
    home.put(path, text.encode(errors="backslashreplace"))
    return path
