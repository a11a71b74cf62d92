"""Progress while a job runs, on stderr: a live line on a terminal, one plain line every ten seconds elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TextIO

_PLAIN_EVERY_SECONDS = 10.0


def _whatever_the_terminal_does() -> contextlib.AbstractContextManager[None]:
    """A terminal that is closed, or a log on a full disk, ends no job."""
    return contextlib.suppress(OSError, ValueError)


def _stream_of_people() -> TextIO:
    """Return stderr, which a program without a terminal may not have; in a notebook, where that is red, stdout."""
    if type(sys.stderr).__module__.startswith("ipykernel"):
        return sys.stdout
    return sys.stderr or io.StringIO()


class Progress:
    """Rows done, rows per second, time left and quarantined rows.

    `clock` gives seconds; `pause` waits so many of them and returns True to end the plain lines early.
    """

    def __init__(
        self,
        total_rows: int,
        done_rows: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._stream = stream or _stream_of_people()
        self._total, self._done, self._resumed = total_rows, done_rows, done_rows
        self._quarantined = 0
        self._clock = clock
        self._started = clock()
        self._live = self._stream.isatty()
        self._ended = threading.Event()
        self._pause = pause or self._ended.wait
        self._speaker = threading.Thread(target=self._speak, name="optinfer-progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(), TextColumn("{task.description}"), console=Console(file=self._stream), transient=True
            )
            self._task = self._bar.add_task(self.line(), total=self._total, completed=self._done)
            self._bar.start()
        else:
            self._speaker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with _whatever_the_terminal_does():
                self._bar.stop()
        else:
            self._ended.set()
            self._speaker.join()

    def advance(self, rows: int, quarantined: int) -> None:
        self._done += rows
        self._quarantined += quarantined
        if self._live:
            with _whatever_the_terminal_does():
                self._bar.update(self._task, completed=self._done, description=self.line())

    def _speak(self) -> None:
        """Say a line at every interval, also while no fragment ends: silence would look like a hang."""
        while not self._pause(_PLAIN_EVERY_SECONDS):
            self.say(self.line())

    def say(self, text: str) -> None:
        """Print a line without breaking the live one."""
        with _whatever_the_terminal_does():
            if self._live and hasattr(self, "_bar"):
                self._bar.console.print(text)
            else:
                print(text, file=self._stream, flush=True)

    def line(self) -> str:
        elapsed = self._clock() - self._started
        speed = (self._done - self._resumed) / elapsed if elapsed > 0 else 0.0
        left = f"{(self._total - self._done) / speed:,.0f} s left" if speed else "starting"
        return f"{self._done:,}/{self._total:,} rows, {speed:,.0f} rows/s, {left}, {self._quarantined:,} quarantined"
