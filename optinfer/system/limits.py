"""An end to waiting for what may never answer: a store that accepts and is silent, or sends a byte a minute."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns, or raise what it raises; it is done on a thread of its own.

    Nothing ends a call that hangs in a library. Where it takes longer it is left to itself, on a thread that no process
    waits for, so it must leave nothing that a later call would trip over.

    Raises:
        TimeoutError: it takes longer.
    """
    answer: Future[_T] = Future()
    context = contextvars.copy_context()

    def act() -> None:
        try:
            answer.set_result(context.run(work))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=act, name="optinfer-within", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():  # it is the work's own
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
