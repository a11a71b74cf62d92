"""The local, append-only record of a run: one JSON object a line, on disk before anything else hears of it.

What the events hold: events.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from optinfer.errors import OptinferError
from optinfer.secrets import clean
from optinfer.system import home, last_resort, will
from optinfer.tracking.events import Committed, Event, Failed, Finished

# The name of a run's journal in its folder.
JOURNAL = "journal.jsonl"
# As the lines of receipts begin, of which there may be a million.
RECEIPT = f'{{"event": "{Committed.kind}"'
# More than any event of a run has.
_LONGEST_LINE = 2**24


class Journal:
    """Appends events; a `with` block closes it, with the error that ended it.

    Args:
        clock: gives seconds since the epoch.
        sync: brings what was written to a file, by its descriptor, onto the disk.
    """

    def __init__(self, path: Path, clock: Callable[[], float], sync: Callable[[int], None] = os.fsync) -> None:
        self.path = path
        self._clock, self._sync = clock, sync
        self._turn = threading.Lock()
        with home.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held open for the run
        will.leave(will.JOURNAL, path=str(path))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep(error)
        self.close()

    def write(self, event: Event) -> float:
        """Append one event and return its time; it is on disk when this returns, whichever thread calls it.

        Raises:
            OptinferError: it cannot be written: the disk is full, say.
        """
        with self._turn, home.writing(self.path):
            time = self._clock()
            record = clean({"event": event.kind, "time": time, **event.as_dict()})
            self._file.write(json.dumps(record, default=str) + "\n")
            self._file.flush()
            self._sync(self._file.fileno())
        return time

    def keep(self, error: BaseException) -> None:
        """Append an error with its traceback, where that is possible: it must not be hidden by another."""
        with contextlib.suppress(OptinferError, ValueError):
            self.write(Failed(message=last_resort.named(error), traceback=last_resort.whole(error)))
            setattr(error, last_resort.KEPT_IN, str(self.path))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written was said then
            self._file.close()


def close_of_the_dead(path: Path, end: Finished, clock: Callable[[], float] = time.time) -> None:
    """Close the journal of a process that could not, unless it did: a line cut short goes, the end is written."""
    with open(path, "rb+") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_LINE))
        begins, rest = file.tell(), file.read()
        file.truncate(begins + rest.rfind(b"\n") + 1)
    if f'"event": "{Finished.kind}"'.encode() not in rest.rpartition(b"\n")[0].rpartition(b"\n")[2]:
        with Journal(path, clock) as journal:
            journal.write(end)


def held(folder: Path) -> FileLock:
    """Return the lock of a run's folder: whoever writes its journal holds it, and whoever replays it."""
    with home.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "journal.lock", thread_local=False)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a journal; a last line cut short by a crash is left out."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
