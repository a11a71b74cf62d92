"""Whoever waits hears that the work goes on."""

from __future__ import annotations

import threading

import pytest

from optinfer.system.heartbeat import telling


def test_a_long_step_is_said_again_with_its_seconds() -> None:
    said: list[str] = []
    often = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) > 2:
            often.set()

    with telling(say, every=0.001) as tell:
        tell("building x")
        assert often.wait(30)
    assert said[0] == "building x"
    assert said[1] == "building x: 0 s so far"
    count = len(said)
    assert not [thread for thread in threading.enumerate() if thread.name == "optinfer-heartbeat"]
    assert len(said) == count, "nothing is said after the end"


def test_a_short_step_is_said_once_and_a_silent_one_not_at_all() -> None:
    said: list[str] = []
    with telling(said.append) as tell:
        tell("certifying x")
        tell("probing x", silently=True)
    assert said == ["certifying x"]


def test_it_ends_with_the_work_that_fails() -> None:
    with pytest.raises(ValueError, match="broken"), telling(lambda line: None):
        raise ValueError("broken")
    assert not [thread for thread in threading.enumerate() if thread.name == "optinfer-heartbeat"]
