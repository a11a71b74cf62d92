"""How our own records are kept in an output: JSON and Parquet as bytes, and what was begun and not ended."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.storage import STATE, Folder

_ATTEMPTS = f"{STATE}/attempts"


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, default=str).encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """Build the file in memory: a writer that dies half way leaves nothing behind."""
    # Numbers out of a model hardly repeat: a dictionary of them takes five times as long and a third more room.
    repeating = [f.name for f in table.schema if not (pa.types.is_nested(f.type) or pa.types.is_floating(f.type))]
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeating or False)
    return sink.getvalue()


@dataclass(frozen=True)
class GivenBack:
    """An attempt that ended when its node was told to leave.

    Attributes:
        rows: that a model had been given; of no use to whoever takes them up.
        time: seconds since the epoch.
    """

    node: str
    rows: int
    time: float


class Attempts:
    """Parts of which the making was begun in this run: one that was not ended is made in isolation."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = Folder(url), clock

    def begin(self, part: str, node: str) -> str | None:
        """Mark that a part is being made on a node; return the node of the attempt of this run that did not end."""
        # Known by its content: an attempt whose mark was written, and the answer to that lost, finds its own.
        if self._folder.put_new(_mark(part, "begun"), f"{node} {uuid.uuid4().hex}".encode()):
            return None
        return (self._folder.read(_mark(part, "begun")) or b"").decode().partition(" ")[0]

    def excuse(self, part: str) -> bool:
        """Excuse an attempt that ended with its node, once: rows that take a second node with them may be why."""
        return self._folder.put_new(_mark(part, "excused"), uuid.uuid4().hex.encode())

    def give_back(self, part: str, node: str, rows: int) -> None:
        """Note that an attempt ended in order, on a node that leaves, when a model had been given so many rows."""
        told = GivenBack(node, rows, self._clock())
        self._folder.put(_mark(part, "returned"), as_json(asdict(told)))

    def take_over(self, part: str, node: str) -> GivenBack | None:
        """Take up on a node what `begin` found begun; None where it was not given back."""
        told = self._folder.read(_mark(part, "returned"))
        if told is None:
            return None
        self._folder.put(_mark(part, "begun"), f"{node} {uuid.uuid4().hex}".encode())
        self._folder.delete(_mark(part, "returned"))
        return GivenBack(**json.loads(told))

    def forget(self) -> None:
        """Start a run with a clean slate: what an earlier run left half done says nothing about its rows."""
        self._folder.delete(_ATTEMPTS)


def _mark(part: str, what: str) -> str:
    """Name a mark of a part: without `.parquet`, which `datasets` looks for anywhere in a name."""
    return f"{_ATTEMPTS}/{part.partition('.')[0]}.{what}"
