"""Who may end an output: a lease in epochs, of which each is taken once and the highest holds.

_optinfer/lease/00000003.json is the third: put conditionally by whoever takes the output, then written again by him
alone, as a sign of life and to say that he has ended. Nobody replaces what another wrote, so that of two who take one
wins, and a run that was paused and wakes finds a higher epoch than its own. No epoch is used again.

A holder on this machine is asked for at the kernel. One of elsewhere is watched: it is dead when its record has not
changed for `STALE_SECONDS` of our own clock, as no two machines agree on the time. `_optinfer/lock.json` is where the
version before looks and writes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from optinfer.data.storage import STATE, Folder
from optinfer.errors import OutputConflictError, redact
from optinfer.records.record import Record, decoded
from optinfer.system import process
from optinfer.system.process import Place

STALE_SECONDS = 60.0
LOOK_SECONDS = 2.0
# A lock of the version before says only the time of its machine. Clocks that differ by more are nobody's.
_STALE_BEFORE = 3600.0
_FOLDER, _BEFORE = f"{STATE}/lease", f"{STATE}/lock.json"
_NAMES = r"\d{8,}\.json"
# While it is listed and read, others may end and take it.
_TRIES = 10
# Of its own signs a run knows so many: one that was put and not answered may be there long after.
_SIGNS = 1000


@dataclass(frozen=True, kw_only=True)
class Holder(Record):
    """Whoever holds an output; times in seconds since the epoch.

    Attributes:
        started: when its process began.
        since: when it took the output; None in early locks.
        beat: when it last said that it lives.
        epoch: 0 in locks of the version before.
        place: what its process id counts in (see process.py).
        began: when its process began, as `process.began` tells.
        sign: another one with every sign of life.
        ended: it has let go of the output.
    """

    token: str
    host: str
    pid: int
    started: float
    since: float | None = None
    beat: float
    epoch: int = 0
    place: str | None = None
    began: float | None = None
    sign: str = ""
    ended: bool = False


def holder(folder: Folder) -> Holder | None:
    """Return the record of whoever holds the output, dead or alive; None where nobody does, or nobody can tell who."""
    found = _newest(folder)
    return None if found is None or found.ended else found


def let_go(folder: Folder, held: Holder, untouched: bool = False) -> None:
    """Let go of an output for its holder, whose record this is: the newest, as `holder` returns it.

    Args:
        untouched: the folder turned out to be somebody else's: nothing of ours stays where nothing was.
    """
    if untouched and held.epoch == 1:
        folder.delete(_at(held.epoch))
    else:
        folder.put(_at(held.epoch), _encoded(replace(held, ended=True)))
    before = _read(folder, _BEFORE)
    if before is not None and before.token == held.token:
        folder.delete(_BEFORE)


def let_go_for_the_dead(folder: Folder) -> None:
    """Let go of an output for a process of this machine that is dead, as far as it has not done so itself."""
    here = process.here()
    if (held := holder(folder)) is not None and _lives(held, time.time(), here) is False:
        let_go(folder, held)
    before = _read(folder, _BEFORE)
    if before is not None and _lives(before, time.time(), here) is False:
        folder.delete(_BEFORE)


def described(record: Holder) -> str:
    """Say who a holder is and since when; an early lock knows when its process began."""
    moment = record.started if record.since is None else record.since
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
    return f"process {record.pid} on {record.host}, since {shown}"


def is_here(record: Holder, here: Place | None = None) -> bool:
    """Tell whether a holder's process id is one of this machine."""
    return record.host == socket.gethostname() if record.place is None else record.place == (here or process.here()).id


def is_live(record: Holder, now: float) -> bool:
    """Tell at a glance whether a lease's holder still runs: of one elsewhere by its clock and ours, for who reads it.

    What depends on it is decided by a `Watch`.
    """
    known = _lives(record, now, process.here())
    return now - record.beat < STALE_SECONDS if known is None else known


def _lives(record: Holder, now: float, here: Place) -> bool | None:
    """Tell whether a holder's process runs; None where only watching it does."""
    if record.ended:
        return False
    if record.place is not None:
        return here.began(record.pid) == (record.began or 0.0) if is_here(record, here) else None
    if is_here(record) and here.began(record.pid) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(record.pid).create_time() - record.started) < 1:
                return True
    return None if now - record.beat < _STALE_BEFORE else False


class Watch:
    """Looks at a holder again and again, until it is known to live, or to be dead.

    Args:
        clock: gives seconds, whatever time they count from.
        look_seconds: from one look to the next. A longer time between two says that the looker did not run, and
            nothing of the other.
        here: where its own process is.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
        here: Place | None = None,
    ) -> None:
        self.here, self.look_seconds = here or process.here(), look_seconds
        self._clock = clock
        self._seen: Holder | None = None
        self._looked = self._quiet = 0.0

    def lives(self, record: Holder) -> bool | None:
        """Tell whether a holder lives, from this look and those before; None while nobody knows."""
        if (known := _lives(record, time.time(), self.here)) is not None:
            return known
        now = self._clock()
        since, self._looked, before, self._seen = now - self._looked, now, self._seen, record
        if before != record:
            self._quiet = 0.0
            return None if before is None else True
        self._quiet += min(since, 2 * self.look_seconds)
        return False if self._quiet >= STALE_SECONDS else None


class Lease:
    """One run's hold on an output, from `take` to `end`.

    Args:
        watch: looks at who holds it before.
        clock: gives seconds since the epoch, for those who read the record.
    """

    def __init__(self, folder: Folder, watch: Watch, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._watch, self._clock = folder, watch, clock
        here = watch.here
        self._mine = Holder(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=here.pid,
            started=psutil.Process().create_time(),
            since=clock(),
            beat=clock(),
            place=here.id,
            began=here.began(here.pid),
        )
        self._signs: deque[str] = deque(maxlen=_SIGNS)
        self._turn = threading.Lock()

    @property
    def epoch(self) -> int:
        return self._mine.epoch

    @property
    def record(self) -> Holder:
        """What was last written."""
        return self._mine

    def take(self, wait: Callable[[Holder], None]) -> None:
        """Take the output, when nobody holds it who lives.

        Args:
            wait: waits, for a holder, from one look to the next.

        Raises:
            OutputConflictError: somebody does.
        """
        while (found := _newest(self._folder)) is None or found.token != self._mine.token:  # else its answer was lost
            if found is not None and not found.ended and (lives := self._watch.lives(found)) is not False:
                if lives:
                    raise OutputConflictError(
                        f"{redact(self._folder.url)} is being written by a live run ({described(found)}); wait for "
                        "it, or stop it and run again"
                    )
                wait(found)
            elif self._claimed(found.epoch + 1 if found else 1):
                break
        for name in self._folder.names(_NAMES, under=_FOLDER):
            if _epoch(name) < self.epoch:
                self._folder.delete(f"{_FOLDER}/{name}")
        self._folder.put(_BEFORE, _encoded(self._mine))

    def _claimed(self, epoch: int) -> bool:
        self._mine = self._signed(replace(self._mine, epoch=epoch))
        return self._folder.put_new(_at(epoch), _encoded(self._mine))

    def renew(self) -> Holder | None:
        """Say that its holder lives; return whoever took the output since, None while it is held."""
        with self._turn:
            if (other := self._taken()) is not None:
                return other
            self._mine = self._signed(self._mine)
            for name in (_at(self.epoch), _BEFORE):
                self._folder.put(name, _encoded(self._mine))
            return None

    def _signed(self, record: Holder) -> Holder:
        """Return a record with a new sign."""
        sign = uuid.uuid4().hex[:12]
        self._signs.append(sign)
        return replace(record, beat=self._clock(), sign=sign)

    def _taken(self) -> Holder | None:
        """Return whoever took the output from this run; a lease that is gone or garbage is still its own."""
        found = _newest(self._folder)
        if found is None or found.epoch < self.epoch or (found.epoch == self.epoch and not found.token):
            return None
        # The same token with a sign that is not ours: a clone of this machine, with this run in it.
        ours = found.epoch == self.epoch and found.token == self._mine.token and found.sign in self._signs
        return None if ours else found


def _at(epoch: int) -> str:
    return f"{_FOLDER}/{epoch:08d}.json"


def _epoch(name: str) -> int:
    return int(name.removesuffix(".json"))


def _encoded(record: Holder) -> bytes:
    return json.dumps(record.as_dict()).encode()


def _newest(folder: Folder) -> Holder | None:
    """Return the record of the highest epoch; before the first, or after its end, a lock of the version before.

    One that is garbage is of nobody (its token is empty), and has ended.
    """
    found = None
    for _ in range(_TRIES):
        epoch = max(map(_epoch, folder.names(_NAMES, under=_FOLDER)), default=0)
        data = folder.read(_at(epoch)) if epoch else b""
        if data is not None:
            found = _decoded(data, epoch) if epoch else None
            break
    if found is None or found.ended:
        before = _read(folder, _BEFORE)
        if before is not None and before.epoch == 0:
            return replace(before, epoch=found.epoch if found else 0)
    return found


def _decoded(data: bytes, epoch: int) -> Holder:
    try:
        return replace(decoded(Holder, json.loads(data)), epoch=epoch)
    except ValueError:
        return Holder(token="", host="a machine that left no record", pid=0, started=0.0, beat=0.0, epoch=epoch,
                      ended=True)  # fmt: skip


def _read(folder: Folder, name: str) -> Holder | None:
    try:
        return decoded(Holder, json.loads(folder.read(name) or b""))
    except ValueError:
        return None
