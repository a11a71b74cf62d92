"""What is told of a run to those outside, as it begins and as it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

INTERRUPTED, FAILED, DONE = "interrupted", "failed", "done"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table that a run reads or writes.

    Attributes:
        fields: name and type of each column, in order.
    """

    url: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that has begun; `time` is in seconds since the epoch."""

    run_id: str
    job: str
    time: float
    source: Dataset
    sink: Dataset


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended.

    Attributes:
        kind: `done`, `failed` or `interrupted`.
        record: what `run --json` prints of it.
        message: why it failed; empty where it did not.
        rows: scored, in the output.
    """

    kind: str
    time: float
    record: Mapping[str, object]
    message: str = ""
    rows: int = 0
