"""The parent of a command: it outlives what ends the command's process, and sees to it that the end is told.

A process that scores holds Ray's core worker, which ends its process in C++ when Ray's own ones are gone, and it may be
killed for want of memory at any moment. So the program forks before it has loaded anything: the child is the command,
the parent waits. It passes signals on, and when the child is gone it ends what that had started, has put in order what
it left (`will.py`), and exits with a code that means something. A parent that is killed takes the child with it: who
kills a job wants it dead.

Only on Linux, where the kernel tells a child of its parent's end and gives a parent the orphans; elsewhere the command
runs alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, NoReturn

from optinfer.system import will

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# What a terminal sends reaches the child, too: it is of the same process group.
_FROM_THE_KERNEL = 0x80
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# After it has said its last word, or lost what it cannot go on without, a process has so long to end by itself.
_SECONDS_TO_END = 20.0
_LOOK_SECONDS = 1.0
_LAST_WORDS = 20_000


@dataclass(frozen=True)
class Death:
    """The end of a process that did not come from itself.

    Attributes:
        status: its exit code, or a signal's number below 0.
        asked: it had been asked to end.
        notes: what it left.
        words: what libraries in C and C++ wrote to its stderr at last.
    """

    status: int
    asked: bool
    notes: Sequence[will.Note]
    words: str

    @property
    def how(self) -> str:
        """Name the signal or the exit code."""
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"


def guarded(
    command: Callable[[], NoReturn], settle: Callable[[Death], int], seconds_to_end: float = _SECONDS_TO_END
) -> int:
    """Run `command` in a child and return its exit code, or what `settle` makes of an end that was none of its own.

    Args:
        seconds_to_end: how long the child may take once it has nothing left to do.
    """
    if sys.platform != "linux":
        command()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel would keep no exit code
    passed = {number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*passed, signal.SIGCHLD})
    with _memory("notes") as notes, _memory("words") as words:
        parent, child = os.getpid(), os.fork()
        if not child:
            _leave_with(parent)
            will.write_to(notes.fileno())
            _keep_native_words(words)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            command()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        status, asked = _Watch(child, notes, passed, seconds_to_end).until_gone()
        _end_orphans()
        left = will.read(notes.fileno())
        for note in left:
            if note.kind == will.ENDED:
                return int(note.about["code"])
        words.seek(0)
        return settle(Death(status, asked, left, words.read().decode(errors="replace").strip()[-_LAST_WORDS:]))


class _Watch:
    """Waits for a child and passes on what it is asked."""

    def __init__(self, child: int, notes: IO[bytes], passed: set[signal.Signals], seconds_to_end: float) -> None:
        self._child, self._notes, self._passed, self._seconds_to_end = child, notes, passed, seconds_to_end
        self._asked = False
        self._looks = 0

    def until_gone(self) -> tuple[int, bool]:
        """Return its exit code, a signal's number below 0, and whether it had been asked to end."""
        while True:
            if (status := self._reaped()) is not None:
                return status, self._asked
            if (heard := signal.sigtimedwait({*self._passed, signal.SIGCHLD}, _LOOK_SECONDS)) is None:
                self._end_what_hangs()
            elif heard.si_signo != signal.SIGCHLD:
                self._asked = True
                if heard.si_code != _FROM_THE_KERNEL:
                    self._send(heard.si_signo)

    def _reaped(self) -> int | None:
        """Collect whoever ended, orphans of the child's among them; return how the child did."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == self._child:
                return os.waitstatus_to_exitcode(status)
            if pid == 0:
                return None

    def _end_what_hangs(self) -> None:
        """End a child that has nothing left to do, and does not end."""
        over = any(note.kind in (will.ENDED, will.LOST) for note in will.read(self._notes.fileno()))
        self._looks = self._looks + 1 if over else 0
        if self._looks * _LOOK_SECONDS >= self._seconds_to_end:
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)


def _memory(name: str) -> IO[bytes]:
    """Return a file without a disk, which may be full; parent and child append to it in one order."""
    return open(os.memfd_create(f"optinfer-{name}"), "rb+", buffering=0)


def _leave_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel was told
        os._exit(1)


def _keep_native_words(words: IO[bytes]) -> None:
    """Keep stderr for us: what libraries in C and C++ write there goes to a file, read when they end this process.

    So does what each thread is at when one of them crashes, without which nobody could tell where.
    """
    sys.stderr = open(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    os.dup2(words.fileno(), 2)
    faulthandler.enable(2)


def _end_orphans() -> None:
    """End what the command started and left: Ray's processes, a replica on its own."""
    with contextlib.suppress(ChildProcessError):  # nobody is left
        while True:
            os.waitpid(-1, os.WNOHANG)
            import psutil

            for orphan in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    orphan.kill()
            os.waitpid(-1, 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
