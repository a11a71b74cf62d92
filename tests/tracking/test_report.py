"""Progress on stderr."""

from __future__ import annotations

import io

import pytest

from optinfer.tracking.report import Progress


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


def test_a_pipe_gets_one_line_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(100, stream=stream, clock=clock) as progress:
        for clock.now in (4.0, 9.9, 10.0, 15.0, 20.0):
            progress.advance(10, 0)
    assert stream.getvalue().splitlines() == [
        "30/100 rows, 3 rows/s, 23 s left, 0 quarantined",
        "50/100 rows, 2 rows/s, 20 s left, 0 quarantined",
    ]


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
