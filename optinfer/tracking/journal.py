"""The local, append-only record of a run: one JSON object a line, on disk before anything else hears of it.

Events: `start` (params, tags, inputs), `receipt` (one fragment), `finish` (status, metrics, artifacts).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends events; `clock` gives seconds since the epoch."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._clock = clock
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held open for the run

    def write(self, event: str, **values: Any) -> dict[str, Any]:
        """Append one event and return it; it is on disk when this returns."""
        record = {"event": event, "time": self._clock(), **values}
        self._file.write(json.dumps(record, default=str) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return record

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a journal; a last line cut short by a crash is left out."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
