"""Progress on stderr."""

from __future__ import annotations

import contextlib
import io
import threading

import pytest

from optinfer.tracking.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_line_every_ten_seconds_even_while_no_fragment_ends(clock: Clock) -> None:
    stream, spoken, pauses = io.StringIO(), threading.Event(), []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        clock.now += seconds
        if len(pauses) > 2:
            spoken.set()
        return len(pauses) > 2

    with Progress(100, stream=stream, clock=clock, pause=pause):
        assert spoken.wait(30)
    assert pauses == [10.0] * 3
    assert stream.getvalue().splitlines() == ["0/100 rows, 0 rows/s, starting, 0 quarantined"] * 2


def test_resumed_rows_count_as_done_and_not_as_speed(clock: Clock) -> None:
    progress = Progress(1_000, done_rows=500, stream=io.StringIO(), clock=clock)
    assert progress.line() == "500/1,000 rows, 0 rows/s, starting, 0 quarantined"
    clock.now = 10.0
    progress.advance(100, quarantined=3)
    assert progress.line() == "600/1,000 rows, 10 rows/s, 40 s left, 3 quarantined"


def test_a_terminal_gets_a_live_bar(clock: Clock) -> None:
    stream = Terminal()
    with Progress(100, stream=stream, clock=clock) as progress:
        clock.now = 1.0
        progress.advance(50, 0)
        progress.say("a warning")
    assert "50/100 rows" in stream.getvalue()
    assert "a warning" in stream.getvalue()


def test_a_notebook_which_shows_stderr_as_an_error_gets_it_on_stdout() -> None:
    class OutStream(io.StringIO):
        """What Jupyter's kernel has for both streams."""

    OutStream.__module__ = "ipykernel.iostream"
    out, err = OutStream(), OutStream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        Progress(total_rows=3).say("a line")
    assert (out.getvalue(), err.getvalue()) == ("a line\n", "")
