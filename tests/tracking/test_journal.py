"""The journal: on disk before anybody else hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from optinfer.errors import OptinferError
from optinfer.tracking.events import ParamsKnown, Warned
from optinfer.tracking.journal import Journal, read
from tests.system.test_home import full_disk


def test_events_are_read_back_in_order_with_their_time(tmp_path: Path) -> None:
    times = iter([1.0, 2.0])
    journal = Journal(tmp_path / "runs" / "journal.jsonl", clock=lambda: next(times))
    assert journal.write(ParamsKnown({"variant": "fake"})) == 1.0
    assert journal.write(Warned("odd")) == 2.0
    journal.close()
    assert list(read(journal.path)) == [
        {"event": "params", "time": 1.0, "params": {"variant": "fake"}},
        {"event": "warning", "time": 2.0, "message": "odd"},
    ]


def test_an_event_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    path, synced = tmp_path / "journal.jsonl", list[str]()
    journal = Journal(path, clock=lambda: 0.0, sync=lambda file: synced.append(path.read_text()))
    journal.write(Warned("odd"))
    journal.close()
    assert synced == ['{"event": "warning", "time": 0.0, "message": "odd"}\n']


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "start", "time": 0.0}\n{"event": "rece')
    assert [event["event"] for event in read(path)] == ["start"]


def test_a_journal_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal(tmp_path / "journal.jsonl", clock=lambda: 0.0)
        journal.write(Warned("odd"))
        journal.close()
    assert len(list(read(tmp_path / "journal.jsonl"))) == 2


def test_a_full_disk_is_said_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", clock=lambda: 0.0)
    with full_disk(), pytest.raises(OptinferError, match=r"cannot write .*journal\.jsonl: File too large"):
        journal.write(Warned("odd"))
    journal.close()


def test_what_ends_a_run_is_kept_whole_and_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with pytest.raises(ZeroDivisionError) as error, Journal(path, clock=lambda: 0.0):
        1 / 0  # noqa: B018
    last = list(read(path))[-1]
    assert (last["event"], last["message"]) == ("error", "ZeroDivisionError: division by zero")
    assert "1 / 0" in last["traceback"]
    assert error.value.optinfer_kept_in == str(path)  # type: ignore[attr-defined]


def test_a_full_disk_does_not_hide_what_ended_a_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), full_disk(), Journal(tmp_path / "journal.jsonl", clock=lambda: 0.0):
        1 / 0  # noqa: B018
