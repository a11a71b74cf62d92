"""What a run's end is told as, and what becomes of what nobody took: for the run, or for whoever outlives it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence

from optinfer.errors import OptinferError
from optinfer.records.news import FAILED, INTERRUPTED, Ended
from optinfer.secrets import clean
from optinfer.system import home, last_resort
from optinfer.tracking.courier import Courier, Undelivered
from optinfer.tracking.events import NotDelivered
from optinfer.tracking.journal import JOURNAL, Journal
from optinfer.tracking.webhook import Webhook

# The end of a job is delayed by no more than this.
WAIT_SECONDS = 1.5


def failure(run_id: str, job: str, output: str, error: BaseException) -> Ended:
    """Return the end of a run as `run --json` tells it, with the run's own names beside it."""
    code, message = last_resort.ended(error)
    kind = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    record = {
        "status": kind,
        "run_id": run_id,
        "job": job,
        "output": output,
        "error": type(error).__name__,
        "message": message,
        "exit_code": code,
    }
    return Ended(kind=kind, time=time.time(), record=record, message=message)


def keep(run_id: str, late: Sequence[Undelivered], say: Callable[[str], None]) -> None:
    """Keep what has not arrived in the run's journal, and say so."""
    path = home.runs() / run_id / JOURNAL
    kept = "it is not kept, as the journal cannot be written"
    with contextlib.suppress(OptinferError), Journal(path, time.time) as journal:
        for one in late:
            letter = one.letter
            journal.write(NotDelivered(what=letter.what, to=letter.to, reason=one.reason, body=letter.body))
        kept = f"kept in {path}"
    for one in late:
        say(f"warning: {one.letter.what} did not reach {one.letter.to}: {one.reason}; {kept}")


class OfTheDead:
    """The news of a run whose process could not tell them, on their way to its webhook.

    Args:
        about: the note that the run left (system/will.py).
        told: the end that it had told already, where it had: that one is posted again, under the same id, unless
            it had arrived.
    """

    def __init__(self, about: Mapping[str, str], told: Ended | None, error: BaseException) -> None:
        self._run_id, self._courier = about["run_id"], Courier("notify")
        ended = clean(told or failure(self._run_id, about["job"], about["output"], error))
        if ended.kind in about["on"].split():
            webhook = Webhook(about["url"], os.environ.get(about["secret_env"], ""))
            self._courier.send(webhook.letter(self._run_id, ended))

    def wait(self, say: Callable[[str], None]) -> None:
        """Wait for them to arrive, a bounded time; those that do not are kept, and said."""
        if late := self._courier.close(WAIT_SECONDS):
            keep(self._run_id, late, say)
