"""Files that are whole whenever they are there: written aside, durably, then given their name in one step."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def put(path: Path, content: bytes, aside: Path | None = None, name: Callable[[Path, Path], None] = os.replace) -> None:
    """Write a file: a kill, or another process at the same, leaves no half of it.

    Args:
        aside: folder on the same disk for what is not whole yet; None takes a hidden name beside `path`.
        name: (what was written aside, path) gives it its name; `os.link` where nothing may be replaced.
    """
    unique = uuid.uuid4().hex
    staged = path.with_name(f".{path.name}-{unique}") if aside is None else aside / unique
    staged.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(staged, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        name(staged, path)
    finally:
        staged.unlink(missing_ok=True)
