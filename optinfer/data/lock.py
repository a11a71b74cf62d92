"""One live run an output: what holds its lease while it works.

The lease says who may remove parts and end the output; rows are safe without it, by the conditional commit. A run that
was paused, or cut off from the store, finds when it wakes that another took its output: it touches nothing more of what
only the holder may, whatever it waits for ends, and so does it. It asks right before each such write: a process that is
stopped for a minute between the two is beyond a store that has no fences, and the next look at the folder names what it
did.

A run that ends with an error leaves beside the lease what that was, for whoever watches the folder from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType

from optinfer.data.lease import STALE_SECONDS, Holder, Lease, Watch, described, holder, let_go, let_go_for_the_dead
from optinfer.data.storage import STATE, Folder
from optinfer.errors import OutputConflictError, redact
from optinfer.records.record import Record, decoded
from optinfer.system import last_resort, will
from optinfer.system.outages import failures, reaching

_BEAT_SECONDS = 10.0
_END = f"{STATE}/ended.json"
_log = logging.getLogger(__name__)


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class BadEnd(Record):
    """How the last run of an output ended, which was not well."""

    exit_code: int
    message: str


class RunLock:
    """Holds the output while in its `with` block.

    Args:
        say: is told that whoever holds it is being watched.
        clock: gives seconds since the epoch.
        beat_seconds: between two signs of life.
        watch, wait: how a holder of elsewhere is looked at, and what waits so many seconds for the next look.
    """

    def __init__(
        self,
        folder: Folder,
        say: Callable[[str], None] = _silent,
        clock: Callable[[], float] = time.time,
        beat_seconds: float = _BEAT_SECONDS,
        watch: Watch | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._folder, self._say = folder, say
        self._watch, self._wait, self._waited = watch or Watch(), wait, False
        self._lease = Lease(folder, self._watch, clock)
        self._beat_seconds = beat_seconds
        self._taker: Holder | None = None
        self._waits_in: int | None = None
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="optinfer-lock", daemon=True)

    def __enter__(self) -> RunLock:
        with reaching(self._folder.url):
            self._lease.take(self._look_again)
            self._folder.delete(_END)
        will.leave(will.HELD, url=self._folder.url, token=self._lease.record.token)
        self._thread.start()
        return self

    def _look_again(self, of: Holder) -> None:
        if not self._waited:
            self._say(
                f"{redact(self._folder.url)} is held by {described(of)}; nobody here knows whether it lives, so it is "
                f"watched for up to {STALE_SECONDS:.0f} s"
            )
        self._waited = True
        self._wait(self._watch.look_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            give_free(self._folder, self._lease.record.token, error)
        except failures() as failure:  # it must not hide how the run ended, which is not changed by it
            _log.warning("the lock of %s could not be given back: %s", redact(self._folder.url), failure)

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            try:
                if (taker := self._lease.renew()) is not None:
                    return self._lost(taker)
            except Exception as error:  # a heart that stops for any reason would give the output away
                _log.warning("the lock's heartbeat failed and is tried again: %s", error)

    def _lost(self, taker: Holder) -> None:
        self._taker = taker
        with self._turn:
            if self._waits_in is not None:
                signal.pthread_kill(self._waits_in, signal.SIGUSR2)

    @contextlib.contextmanager
    def ending_what_waits(self) -> Iterator[None]:
        """End what the main thread does in this block when another run takes the output, whatever it waits for.

        Raises:
            OutputConflictError: one did.
        """
        if threading.current_thread() is not threading.main_thread():  # signals are not for it: `check` has to do
            yield
            return
        before = signal.signal(signal.SIGUSR2, self._interrupt)
        self._waits_in = threading.get_ident()
        try:
            try:
                yield
            finally:
                with self._turn:  # from here on nobody sends the signal, whose default ends the process
                    self._waits_in = None
                signal.signal(signal.SIGUSR2, before)
        except KeyboardInterrupt:
            self.check()
            raise

    def check(self) -> None:
        """Go on only where no heartbeat found that another run took the output; asks nobody.

        Raises:
            OutputConflictError: one did.
        """
        if self._taker is not None:
            raise OutputConflictError(
                f"{redact(self._folder.url)} was taken over by another run ({described(self._taker)}) while this one "
                "did not run, or did not reach the store; what it committed is kept, and it ends here: wait for the "
                "other one, and run the same command again if it does not end well"
            )

    def require(self) -> None:
        """Ask whether the output is still held, before what only its holder may do; put the lease back if it is gone.

        Raises:
            OutputConflictError: another run took it.
        """
        self._taker = self._taker or self._lease.renew()
        self.check()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._waits_in is not None:
            raise KeyboardInterrupt  # Ray knows no other that ends a wait of its own


def give_free(folder: Folder, token: str, error: BaseException | None) -> None:
    """Give an output free that is held under this token, with what ended the run; nothing where another holds it."""
    held = holder(folder)
    if held is None or held.token != token:
        return
    if error is not None and not isinstance(error, OutputConflictError):  # a folder of others stays as it is
        with contextlib.suppress(*failures()):  # it must not hide what ended the run
            folder.put(_END, json.dumps(_ended(error).as_dict()).encode())
    let_go(folder, held, untouched=isinstance(error, OutputConflictError))


def give_free_of_the_dead(folder: Folder) -> None:
    """Give a finished output free that a dead process of this machine still holds: it was killed at its last step."""
    with contextlib.suppress(*failures()):  # such an output may be read-only, and is finished all the same
        let_go_for_the_dead(folder)


def bad_end(folder: Folder) -> BadEnd | None:
    """Return how the last run ended; None where it ended well, was killed, or goes on."""
    try:
        return decoded(BadEnd, json.loads(folder.read(_END) or b""))
    except ValueError:
        return None


def _ended(error: BaseException) -> BadEnd:
    code, message = last_resort.ended(error)
    return BadEnd(exit_code=code, message=message)
