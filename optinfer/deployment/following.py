"""Follows a submitted job to its end, through dropped connections: no line of its log is lost, none is told twice.

The whole log is asked for each time and what was shown is skipped by its length. A stream would be lighter, but ends
without a word where a connection is half open, and begins anew where one was cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from optinfer.deployment.jobs import LOST, Jobs, JobState, UnknownJobError, UnreachableError, UnreadableLogError
from optinfer.deployment.outcome import answer_in

T = TypeVar("T")
Say = Callable[[str], None]
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_POLL_SECONDS, _SLOWEST_POLL, _BYTES_A_SECOND = 1.0, 30.0, 2**20
# A character that is half written makes one request fail; what fails five times stays so.
_UNREADABLE_TIMES = 5


@dataclass(frozen=True)
class Patience:
    """How long a cluster that stopped answering is asked again, and who is told."""

    say: Say
    seconds: float = 600.0
    pause: Callable[[float], None] = time.sleep

    def ask(self, call: Callable[[], T]) -> T:
        """Return what `call` does, asked again while nobody answers.

        Raises:
            UnreachableError: nobody did for `seconds`.
        """
        lost = False

        def told(attempt: RetryCallState) -> None:
            nonlocal lost
            if not lost and attempt.outcome:
                self.say(f"{attempt.outcome.exception()}; a job goes on without us, asking again")
            lost = True

        asking = Retrying(
            retry=retry_if_exception_type(UnreachableError),
            wait=wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE),
            stop=stop_after_delay(self.seconds),
            before_sleep=told,
            sleep=self.pause,
            reraise=True,
        )
        answer = asking(call)
        if lost:
            self.say("connected again")
        return answer


class Follower:
    """One job's log and state; `answer` is what `optinfer run --json` printed into the log, which is not shown."""

    def __init__(self, jobs: Jobs, id: str, patience: Patience) -> None:
        self._jobs, self._id, self._patience = jobs, id, patience
        self._shown = self._unreadable = 0
        self.log = ""
        self.answer: dict[str, object] | None = None

    def to_its_end(self) -> JobState:
        """Show the log as it grows, and return how the job ended."""
        while True:
            # State first: whatever ended has written all its log.
            state = self._state()
            self._show(ended=state.ended)
            if state.ended:
                return state
            self._patience.pause(min(_SLOWEST_POLL, _POLL_SECONDS + len(self.log) / _BYTES_A_SECOND))

    def _state(self) -> JobState:
        try:
            return self._patience.ask(lambda: self._jobs.state(self._id))
        except UnknownJobError as error:
            return JobState(self._id, LOST, message=f"{error}; the cluster was made anew, perhaps")

    def _show(self, ended: bool) -> None:
        try:
            self.log = self._patience.ask(lambda: self._jobs.log(self._id))
        except (UnreadableLogError, UnknownJobError) as error:
            self._unreadable += 1
            if self._unreadable == _UNREADABLE_TIMES or (ended and self._unreadable < _UNREADABLE_TIMES):
                self._patience.say(f"{error}; only the job's state is followed from here")
            return
        whole = len(self.log) if ended else self.log.rfind("\n") + 1
        if whole <= self._shown:
            return
        for line in self.log[self._shown : whole].removesuffix("\n").split("\n"):
            if found := answer_in(line):
                self.answer = found
            else:
                self._patience.say(line)
        self._shown = whole
