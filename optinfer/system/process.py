"""Which process it is, and on which machine: what no host name, process id or wall clock tells.

Containers and clones share names, ids are used again, clocks are put right. A process is named by the boot of its
kernel, the namespace its id counts in, and the tick after that boot at which it began.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from optinfer.system import atomic


@dataclass(frozen=True)
class Place:
    """What process ids mean something in, and this process in it.

    Attributes:
        id: of two that differ nothing is known: they may still be one machine.
        began: when the process of an id began, None if it is dead.
    """

    id: str
    pid: int
    began: Callable[[int], float | None]


def here() -> Place:
    return Place(_place(), os.getpid(), began)


@cache
def _place() -> str:
    """Return the id of this place.

    Clones of a running machine share boot and namespace: the first process of ours after the start leaves a random id
    in memory, which no two of them share, and no boot keeps.
    """
    boot = _text(Path("/proc/sys/kernel/random/boot_id"))
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{boot} {namespace} {_own_id()}".encode()).hexdigest()[:32]


def began(pid: int) -> float | None:
    """Return when a process of this place began, on a scale of its own that no clock's step moves; None if it is dead.

    A killed process stays listed until its parent collects it, in some containers for ever: that one is dead.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # In clock ticks since the boot, the 22nd value; the second, the command's name, may hold anything.
        told = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        return float(told[19]) if len(told) > 19 else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _own_id() -> str:
    shared = Path("/dev/shm")  # of this machine or container alone, and of this boot
    user = os.getuid() if hasattr(os, "getuid") else ""
    path = (shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())) / f"optinfer-{user}-place"
    try:
        with contextlib.suppress(FileExistsError):
            atomic.put(path, uuid.uuid4().hex.encode(), name=os.link)
        return path.read_text()
    except OSError:
        return uuid.uuid4().hex  # of this process alone: others are watched before they count as dead


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
