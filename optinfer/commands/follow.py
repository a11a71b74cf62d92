"""follow(url): how far a run gets, told until it ends, by whoever can read its output folder.

It looks at the folder alone, as another process or machine does: one listing and the lock at each interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optinfer.data.lease import Watch, holder
from optinfer.data.lock import bad_end
from optinfer.data.output import Output
from optinfer.data.output_listing import listed
from optinfer.errors import ConfigError, OptinferError
from optinfer.system.outages import failures, reason

# So many looks in a row may fail before the folder counts as out of reach.
_MISSES = 6


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a run ended: the exit code of its command, and what it said."""

    exit_code: int
    message: str


def follow(
    url: str,
    say: Callable[[str], None],
    interval: float = 5.0,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunEnd:
    """Say how far the run that writes an output is, at each interval, until it ends; return how it did.

    Args:
        interval: seconds from one look to the next.
        wait: waits so many seconds.
        clock: gives seconds.

    Raises:
        ConfigError: no optinfer job writes there.
        OptinferError: the folder cannot be read for several looks in a row.
    """
    output, pace, missed, watch = Output(url), None, 0, Watch(clock, interval)
    while True:
        try:
            if not _running(output, watch):
                return _end(output)
            pace = pace or _Pace.begun(output, clock)
            say(pace.line())
            missed = 0
        except failures() as error:
            missed += 1
            if missed >= _MISSES:
                raise OptinferError(
                    f"cannot read {output.shown}: {reason(url, error)}; the run may go on: check the path, credentials "
                    "and endpoint, and follow again"
                ) from error
            say(f"cannot read {output.shown} now ({type(error.__cause__ or error).__name__}), and looks again")
        wait(interval)


class _Pace:
    """Rows of a run, from one look to the next."""

    def __init__(self, output: Output, rows: np.ndarray, clock: Callable[[], float]) -> None:  # type: ignore[type-arg]
        self._output, self._rows, self._clock = output, rows, clock
        self._began, self._first = clock(), self._done()[0]

    @classmethod
    def begun(cls, output: Output, clock: Callable[[], float]) -> _Pace:
        """Begin with what lies there.

        Raises:
            ConfigError: no optinfer job writes there.
        """
        rows = output.binding.planned_rows()
        if rows is None:
            raise ConfigError(f"{output.shown} holds no plan of an optinfer job that could be followed")
        return cls(output, rows, clock)

    def line(self) -> str:
        done, quarantined = self._done()
        total, seconds = int(self._rows.sum()), self._clock() - self._began
        speed = (done - self._first) / seconds if seconds > 0 else 0.0
        left = f", {speed:,.1f} rows/s, {(total - done) / speed:,.0f} s left" if speed > 0 else ""
        bad = f", {quarantined:,} fragments with quarantined rows" if quarantined else ""
        return f"{done:,} of {total:,} rows{left}{bad}"

    def _done(self) -> tuple[int, int]:
        """Return how many rows are in committed fragments, and how many quarantine files there are."""
        found = listed(self._output.folder, len(self._rows))
        there = found.sizes[: len(self._rows)] > 0
        return int(self._rows[there].sum()), found.quarantined.num_rows


def _running(output: Output, watch: Watch) -> bool:
    held = holder(output.folder)
    return held is not None and watch.lives(held) is not False


def _end(output: Output) -> RunEnd:
    """Return how the last run ended.

    Raises:
        ConfigError: there was none.
    """
    if output.binding.job() is None:
        raise ConfigError(f"{output.shown} is not the output of an optinfer job; give the job's file or its sink.path")
    if (manifest := output.manifest()) is not None:
        run = manifest.run
        return RunEnd(exit_code=0, message=f"done: {run.rows_out:,} of {run.rows_in:,} rows scored")
    if ended := bad_end(output.folder):
        return RunEnd(exit_code=ended.exit_code, message=ended.message)
    return RunEnd(
        exit_code=OptinferError.exit_code,
        message=f"the run that wrote {output.shown} ended without a word: it was killed, or its machine is gone; run "
        "the same command again, committed fragments are kept",
    )
