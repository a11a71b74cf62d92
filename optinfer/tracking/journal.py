"""The local, append-only record of a run: one JSON object a line, on disk before anything else hears of it.

What the events hold: events.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from optinfer.errors import OptinferError
from optinfer.secrets import clean
from optinfer.system import home, last_resort
from optinfer.tracking.events import Event, Failed


class Journal:
    """Appends events; a `with` block closes it, with the error that ended it.

    Args:
        clock: gives seconds since the epoch.
        sync: brings what was written to a file, by its descriptor, onto the disk.
    """

    def __init__(self, path: Path, clock: Callable[[], float], sync: Callable[[int], None] = os.fsync) -> None:
        self.path = path
        self._clock, self._sync = clock, sync
        with home.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held open for the run

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep(error)
        self.close()

    def write(self, event: Event) -> float:
        """Append one event and return its time; it is on disk when this returns.

        Raises:
            OptinferError: it cannot be written: the disk is full, say.
        """
        time = self._clock()
        record = clean({"event": event.kind, "time": time, **event.as_dict()})
        with home.writing(self.path):
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


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a journal; a last line cut short by a crash is left out."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
