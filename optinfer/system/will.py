"""What a command wants put in order should its process be ended from outside: written down as it goes, for its parent.

A process that is killed, or that a library in C++ ends, says nothing and closes nothing any more. Whoever holds
something that others wait for leaves a note here; `system/guard.py` reads them when the process is gone. Without a
parent that reads (a notebook, a test) nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

# How a command ended by itself, what it held, where it kept its record, and what it lost that it cannot go on without.
ENDED, HELD, JOURNAL, LOST = "ended", "held", "journal", "lost"
# Which MLflow has its run; who is told of its end; what they were told, without anything once that is done. Addresses
# are whole here, with what may be secret in them: notes never reach a disk.
TRACKED, NEWS, TOLD = "tracked", "news", "told"

_paper: int | None = None


@dataclass(frozen=True)
class Note:
    """One thing that was left."""

    kind: str
    about: Mapping[str, str]


def write_to(descriptor: int) -> None:
    """Leave notes in a file from now on; it is opened to append."""
    global _paper
    _paper = descriptor


def leave(kind: str, **about: str) -> None:
    """Leave a note; it is there when this returns."""
    if _paper is not None:
        with contextlib.suppress(OSError):  # without a note the end is told all the same, in less words
            os.write(_paper, json.dumps([kind, about]).encode() + b"\n")


def read(descriptor: int) -> list[Note]:
    """Return the notes in a file; one that was cut short is left out."""
    lines = os.pread(descriptor, os.fstat(descriptor).st_size, 0).split(b"\n")[:-1]
    return [Note(*json.loads(line)) for line in lines]
