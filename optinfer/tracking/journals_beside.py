"""What the journals beside an output say of one part: which replica committed it, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optinfer.tracking.journal_copy import whole


@dataclass(frozen=True)
class Committed:
    """Who committed a part; `time` is in seconds since the epoch."""

    node: str
    replica: str
    time: float


class Journals:
    """The journals of the runs that wrote one output.

    Args:
        pieces: run -> name -> bytes, as they were copied there; one that has a gap says nothing.
    """

    def __init__(self, pieces: Mapping[str, Mapping[str, bytes]]) -> None:
        self._texts = list(filter(None, (_whole(of_a_run) for of_a_run in pieces.values())))

    def committed(self, part: str, sha256: str | None) -> Committed | None:
        """Return who committed a part as it lies there: the last one, where a digest does not tell."""
        found = [one for text in self._texts for one in _receipts(text, part)]
        exact = [one for one in found if sha256 is not None and one.get("sha256") == sha256]
        last = max(exact or found, key=lambda one: float(one["committed"]), default=None)
        return Committed(last["node"], last["replica"], float(last["committed"])) if last else None


def _whole(pieces: Mapping[str, bytes]) -> bytes:
    try:
        return whole(pieces)
    except ValueError:
        return b""


def _receipts(text: bytes, part: str) -> Iterator[dict[str, Any]]:
    named = json.dumps(part).encode()
    for line in text.splitlines():
        if named in line and b'"event": "receipt"' in line:
            yield json.loads(line)
