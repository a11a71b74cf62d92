"""What is left to do when a command's process was ended from outside: its output is given free, its journal closed.

Its parent does it (system/guard.py), which has loaded nothing until then.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from optinfer.data.lock import give_free
from optinfer.data.storage import Folder
from optinfer.errors import OptinferError, scrubbed
from optinfer.system import last_resort, will
from optinfer.system.guard import Death
from optinfer.tracking.events import Finished
from optinfer.tracking.journal import close_of_the_dead

_AGAIN = "run the same command again"
_GO_ON = "committed fragments are kept, the same command goes on from them"
# Those that end a process by its own fault; other signals were sent.
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")


def what_ended(death: Death) -> BaseException:
    """Return a death as the error that it would have been, had the process lived to raise it."""
    if death.asked:
        return KeyboardInterrupt()
    for note in death.notes:
        if note.kind == will.LOST:
            return OptinferError(note.about["message"])
    next_step = _GO_ON if any(note.kind == will.HELD for note in death.notes) else _AGAIN
    return OptinferError(f"{_said(death)}{_kept(death)}; {next_step}")


def put_in_order(death: Death, error: BaseException) -> None:
    """Do what the process could not do any more, as far as that is possible; it was told already."""
    _, message = last_resort.ended(error)
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    for note in death.notes:
        if note.kind == will.HELD:
            with contextlib.suppress(Exception):  # a store may fail in ways of its own: the next run takes over then
                give_free(Folder(note.about["url"]), note.about["token"], error)
        elif note.kind == will.JOURNAL:
            with contextlib.suppress(OptinferError, OSError):
                end = Finished(status=status, tags={"optinfer.error": message[:500]})
                close_of_the_dead(Path(note.about["path"]), end)


def _said(death: Death) -> str:
    if death.how == "SIGKILL":
        return "this command's process was killed by SIGKILL, sent by somebody or for want of memory (`dmesg` tells)"
    if death.how in _CRASHES:
        return f"this command's process crashed in a native library ({death.how})"
    if death.status < 0:
        return f"this command's process was ended by {death.how}"
    return f"this command's process was ended by a native library ({death.how})"


def _kept(death: Death) -> str:
    if not death.words or death.how == "SIGKILL":  # of which nobody inside knows
        return ""
    with contextlib.suppress(OptinferError):
        return f"; what it said last is in {last_resort.keep(scrubbed(death.words))}"
    return ""
