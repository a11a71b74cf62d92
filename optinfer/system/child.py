"""A process of ours: it runs one of our modules, its last words are kept, and it is gone when it is not needed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

_LAST_WORDS = 500


class Child:
    """Runs `python -m module arguments` with this process's path; it is told to end by the end of its stdin.

    No fork: a copy of an actor would inherit threads' locks, and CUDA cannot be forked. No multiprocessing either: that
    would run the caller's main module again.

    Args:
        environment: variables beside this process's own.
        pass_fds: descriptors that it inherits.
        speaks: its stdout is a pipe to us; else what it prints counts among its last words.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        speaks: bool = False,
    ) -> None:
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        path = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if speaks else self._words,
            stderr=self._words,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return its exit code (a signal's number below 0) and the last of what it said."""
        code = self.process.wait()
        self._words.seek(0)
        return code, self._words.read().decode(errors="replace").strip()[-_LAST_WORDS:]

    def end(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._words.close()
