"""One live run an output: a lock that survives nothing it should not.

The lock only saves work (two runs would score the same fragments); correctness comes from the conditional commit, so a
lock taken over in a race costs time, never rows. A holder that is dead on this machine is replaced at once, one on
another machine when its heartbeat is older than `STALE_SECONDS`.

A run that ends with an error leaves beside it what that was, for whoever watches the folder from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import psutil

from optinfer.data.storage import STATE, Folder, failures, reaching
from optinfer.errors import OutputConflictError, redact
from optinfer.records.record import Record, decoded
from optinfer.system import last_resort, will

STALE_SECONDS = 60.0
_BEAT_SECONDS = 10.0
_NAME, _END = f"{STATE}/lock.json", f"{STATE}/ended.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Holder(Record):
    """Whoever holds an output; times in seconds since the epoch.

    Attributes:
        started: when its process began: a process id may be another's by then.
        since: when it took the output; None in locks of the version before.
        beat: when it last said that it lives.
    """

    token: str
    host: str
    pid: int
    started: float
    since: float | None = None
    beat: float


@dataclass(frozen=True, kw_only=True)
class BadEnd(Record):
    """How the last run of an output ended, which was not well."""

    exit_code: int
    message: str


class RunLock:
    """Holds the output while in its `with` block.

    Args:
        clock: gives seconds since the epoch.
        beat_seconds: between two signs of life.
    """

    def __init__(
        self, folder: Folder, clock: Callable[[], float] = time.time, beat_seconds: float = _BEAT_SECONDS
    ) -> None:
        self._folder = folder
        self._clock, self._beat_seconds = clock, beat_seconds
        self._token = uuid.uuid4().hex
        self._since = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="optinfer-lock", daemon=True)

    def __enter__(self) -> RunLock:
        with reaching(self._folder.url):
            self._acquire()
        will.leave(will.HELD, url=self._folder.url, token=self._token)
        self._thread.start()
        return self

    def _acquire(self) -> None:
        if not self._folder.put_new(_NAME, self._record()):
            holder = self._holder()
            if holder is not None and is_live(holder, self._clock()):
                raise OutputConflictError(
                    f"{redact(self._folder.url)} is being written by a live run ({described(holder)}); wait for it, "
                    "or stop it and run again"
                )
            self._folder.put(_NAME, self._record())
        self._folder.delete(_END)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        give_free(self._folder, self._token, error)

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            try:
                if not self.renew():
                    _log.warning("another run took over %s; commits stay exactly once", redact(self._folder.url))
                    return
            except failures() as error:
                _log.warning("the lock's heartbeat failed and is tried again: %s", error)

    def renew(self) -> bool:
        """Write the lock again, with the time of now; return False where another run holds it."""
        holder = self._holder()
        if holder is not None and holder.token != self._token:
            return False
        self._folder.put(_NAME, self._record())
        return True

    def _record(self) -> bytes:
        me = psutil.Process()
        record = Holder(
            token=self._token,
            host=socket.gethostname(),
            pid=me.pid,
            started=me.create_time(),
            since=self._since,
            beat=self._clock(),
        )
        return json.dumps(record.as_dict()).encode()

    def _holder(self) -> Holder | None:
        return holder(self._folder)


def holder(folder: Folder) -> Holder | None:
    """Return the record of whoever holds the output, dead or alive; None where nobody does, or nobody can tell who."""
    try:
        return decoded(Holder, json.loads(folder.read(_NAME) or b""))
    except ValueError:
        return None


def give_free(folder: Folder, token: str, error: BaseException | None) -> None:
    """Give an output free that is held under this token, with what ended the run; nothing where another holds it."""
    held = holder(folder)
    if held is None or held.token != token:
        return
    if error is not None and not isinstance(error, OutputConflictError):  # a folder of others stays as it is
        with contextlib.suppress(*failures()):  # it must not hide what ended the run
            folder.put(_END, json.dumps(_ended(error).as_dict()).encode())
    folder.delete(_NAME)


def bad_end(folder: Folder) -> BadEnd | None:
    """Return how the last run ended; None where it ended well, was killed, or goes on."""
    try:
        return decoded(BadEnd, json.loads(folder.read(_END) or b""))
    except ValueError:
        return None


def described(record: Holder) -> str:
    """Say who a holder is and since when; a lock of the version before knows when its process began."""
    moment = record.started if record.since is None else record.since
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
    return f"process {record.pid} on {record.host}, since {shown}"


def _ended(error: BaseException) -> BadEnd:
    code, message = last_resort.ended(error)
    return BadEnd(exit_code=code, message=message)


def is_live(record: Holder, now: float) -> bool:
    """Tell whether a lock's holder still runs; a reused process id does not count."""
    if record.host != socket.gethostname():
        return bool(now - record.beat < STALE_SECONDS)
    try:
        process = psutil.Process(record.pid)
        # A killed process stays listed until its parent collects it, in some containers for ever.
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and bool(abs(process.create_time() - record.started) < 1)
    except psutil.NoSuchProcess:
        return False
