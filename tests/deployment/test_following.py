"""A job is followed as a cluster answers, answers badly, or not at all. The cluster is a script here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.deployment.following import Follower, Patience
from optinfer.deployment.jobs import Entry, JobState, UnknownJobError, UnreachableError, UnreadableLogError

Answer = tuple[str | Exception, str | Exception]
ID = "optinfer-a-0-1"


@dataclass
class Script:
    """Answers in turn: a status and a log each, or what is raised in their place; the last one for ever."""

    answers: list[Answer]
    address: str = "script"
    turn: int = field(default=-1)

    def state(self, id: str) -> JobState:
        self.turn = min(self.turn + 1, len(self.answers) - 1)
        status = self.answers[self.turn][0]
        if isinstance(status, Exception):
            raise status
        return JobState(id, status)

    def log(self, id: str) -> str:
        log = self.answers[self.turn][1]
        if isinstance(log, Exception):
            raise log
        return log

    def starting_with(self, prefix: str) -> list[JobState]:
        return [self.state(ID)]

    def send(self, id: str, entry: Entry) -> bool:
        return False

    def stop(self, id: str) -> None:
        return None


def followed(*answers: Answer) -> tuple[JobState, list[str], Follower]:
    said: list[str] = []
    follower = Follower(Script(list(answers)), ID, Patience(said.append, pause=lambda _: None))
    return follower.to_its_end(), said, follower


def test_a_line_is_told_when_it_is_whole() -> None:
    _, said, _ = followed(("RUNNING", "one\ntw"), ("RUNNING", "one\ntwo\nthr"), ("SUCCEEDED", "one\ntwo\nthree"))
    assert said == ["one", "two", "three"]


def test_empty_lines_are_lines() -> None:
    _, said, _ = followed(("RUNNING", "\n"), ("RUNNING", "\n\none\n"), ("SUCCEEDED", "\n\none\n"))
    assert said == ["", "", "one"]


@given(st.text(alphabet="ab\n{é", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_however_a_log_grows_its_lines_are_told_once(log: str, cuts: list[int]) -> None:
    seen: Iterator[Answer] = (("RUNNING", log[:cut]) for cut in sorted(cuts))
    _, said, _ = followed(*seen, ("SUCCEEDED", log))
    assert said == (log.removesuffix("\n").split("\n") if log else [])


def test_the_answer_is_kept_and_not_told() -> None:
    log = 'scoring\n{"status": "done", "rows_in": 3}\nlast words\n'
    _, said, follower = followed(("SUCCEEDED", log))
    assert said == ["scoring", "last words"]
    assert follower.answer == {"status": "done", "rows_in": 3}


def test_an_outage_is_told_once_and_its_end_too() -> None:
    away: Answer = (UnreachableError("no Jobs API answers"), "")
    state, said, _ = followed(("RUNNING", "one\n"), away, away, away, ("SUCCEEDED", "one\ntwo\n"))
    assert state.status == "SUCCEEDED"
    assert said == ["one", "no Jobs API answers; a job goes on without us, asking again", "connected again", "two"]


def test_who_never_answers_again_is_given_up() -> None:
    script = Script([("RUNNING", ""), (UnreachableError("no Jobs API answers"), "")])
    with pytest.raises(UnreachableError):
        Follower(script, ID, Patience(lambda _: None, seconds=0.0, pause=lambda _: None)).to_its_end()


def test_a_job_that_the_cluster_has_forgotten_is_lost() -> None:
    state, _, _ = followed(("RUNNING", "one\n"), (UnknownJobError("knows no such job"), ""))
    assert state.status == "LOST"
    assert "made anew" in state.message


def test_half_a_character_is_no_reason_to_give_a_log_up() -> None:
    unreadable = UnreadableLogError("the log cannot be read")
    _, said, _ = followed(("RUNNING", "one\n"), ("RUNNING", unreadable), ("SUCCEEDED", "one\ntwo\n"))
    assert said == ["one", "two"]


def test_a_log_that_stays_unreadable_is_told_once() -> None:
    unreadable = UnreadableLogError("the log cannot be read")
    _, said, _ = followed(*[("RUNNING", unreadable)] * 8, ("SUCCEEDED", unreadable))
    assert said == ["the log cannot be read; only the job's state is followed from here"]
