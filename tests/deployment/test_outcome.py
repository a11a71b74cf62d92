"""What the end of a submitted job means to a script, and to a person."""

from __future__ import annotations

import pytest

from optinfer.deployment.jobs import JobState
from optinfer.deployment.outcome import answer_in, exit_code, explained, worth_another


@pytest.mark.parametrize(
    ("status", "driver", "code", "again"),
    [
        ("SUCCEEDED", 0, 0, False),
        ("FAILED", 1, 1, True),
        ("FAILED", 2, 2, False),
        ("FAILED", 3, 3, False),
        ("FAILED", 4, 4, False),
        ("FAILED", 5, 5, False),
        ("FAILED", 130, 130, True),
        ("FAILED", 127, 127, False),
        ("FAILED", None, 1, True),
        ("FAILED", -9, 1, True),
        ("FAILED", 137, 1, True),
        ("STOPPED", None, 130, False),
        ("LOST", None, 1, True),
    ],
)
def test_an_end_has_one_code_and_is_worth_another_try_or_not(
    status: str, driver: int | None, code: int, again: bool
) -> None:
    state = JobState("optinfer-a-0-1", status, driver)
    assert exit_code(state) == code
    assert worth_another(state) is again


@pytest.mark.parametrize(
    ("driver", "said"), [(137, "killed by SIGKILL"), (-15, "killed by SIGTERM"), (255, "signal 127")]
)
def test_a_signal_is_named(driver: int, said: str) -> None:
    assert said in explained(JobState("a", "FAILED", driver), "")


def test_of_a_traceback_only_what_happened_is_told() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1\nRuntimeEnvSetupError: no room at s3://me:secret@store/a\n'
    line = explained(JobState("a", "FAILED", None, trace), "")
    assert line == "a failed, exit code 1: RuntimeEnvSetupError: no room at s3://...@store/a"


def test_a_cluster_without_optinfer_is_told_what_it_lacks() -> None:
    log = "/usr/bin/python: No module named optinfer\n"
    assert "install it in the image" in explained(JobState("a", "FAILED", 1), log)
    assert "install it in the image" not in explained(JobState("a", "FAILED", 2), log)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ('{"status": "done", "rows_in": 3}', {"status": "done", "rows_in": 3}),
        ('{"rows_in": 3}', None),
        ('{"status": 3}', None),
        ("{'status': 'done'}", None),
        ('"status"', None),
        ("scoring", None),
    ],
)
def test_an_answer_is_told_from_other_lines(line: str, answer: dict[str, object] | None) -> None:
    assert answer_in(line) == answer
