"""An end to waiting for what may never answer."""

from __future__ import annotations

import contextvars
import threading

import pytest

from optinfer.system.limits import within


def test_what_ends_in_time_is_returned_or_raised_as_it_is() -> None:
    assert within(60, lambda: "answer") == "answer"

    def stopped() -> None:
        raise KeyboardInterrupt("as it is")

    with pytest.raises(KeyboardInterrupt, match="as it is"):
        within(60, stopped)


def test_what_never_ends_is_left_to_itself_and_named() -> None:
    ended, gone_on = threading.Event(), threading.Event()

    def hangs() -> None:
        ended.wait()
        gone_on.set()

    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        within(0.01, hangs)
    ended.set()
    assert gone_on.wait(60)


def test_a_timeout_of_the_work_itself_keeps_its_own_words() -> None:
    def refused() -> None:
        raise TimeoutError("the socket's own")

    with pytest.raises(TimeoutError, match="the socket's own"):
        within(60, refused)


def test_the_callers_context_goes_along() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    who.set("the caller")
    assert within(60, who.get) == "the caller"
