"""Cron expressions: what all schedulers read alike, and the same in systemd's words."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import islice

import pytest

pytest.importorskip("croniter", reason="the extra `schedule` is not installed")

from croniter import croniter

from optinfer.deployment.cron import Cron
from optinfer.errors import ConfigError

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("0 2 * * *", "0 2 * * *"),
        ("  */15  9-17 * * MON-FRI ", "*/15 9-17 * * mon-fri"),
        ("0 2 1,15 * *", "0 2 1,15 * *"),
        ("0 2 1 jan,jul *", "0 2 1 jan,jul *"),
        ("0 2 1 * 1", "0 2 1 * 1"),
        ("0 2 29 2 *", "0 2 29 2 *"),
        ("5-59/10 * * * sun", "5-59/10 * * * sun"),
        ("@daily", "0 0 * * *"),
        ("@Monthly", "0 0 1 * *"),
    ],
)
def test_what_every_scheduler_reads_is_read(given: str, read: str) -> None:
    assert Cron.read(given, "Europe/Paris").expression == read


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is not five fields"),
        ("0 2 * *", "is not five fields"),
        ("0 0 2 * * *", "is not five fields"),
        ("0 2 L * *", "is not five fields"),
        ("0 2 * * 1#1", "is not five fields"),
        ("0 2 15W * *", "is not five fields"),
        ("0 2 ? * *", "is not five fields"),
        ("H 2 * * *", "is not five fields"),
        ("0 2/3 * * *", "is not five fields"),
        ("@reboot", "is not five fields"),
        ("0 2 * * *; reboot", "is not five fields"),
        ("0 2 * * *\n0 3 * * *", "is not five fields"),
        ("60 2 * * *", "never comes"),
        ("0 24 * * *", "never comes"),
        ("0 2 0 * *", "never comes"),
        ("0 2 30 2 *", "never comes"),
        ("0 2 31 4,6 *", "never comes"),
        ("*/0 2 * * *", "never comes"),
        ("0 2 * foo *", "never comes"),
        ("0 2 * * 8", "never comes"),
        ("0 2 * * 7", "Sunday"),
        ("0 2 * * fri-sun", "Sunday"),
        ("0 2 */2 * 1", "beginning with *"),
        ("0 2 1 * */2", "beginning with *"),
    ],
)
def test_what_one_of_them_reads_otherwise_is_refused_with_the_fix(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        Cron.read(given, "Europe/Paris")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("zone", "nearest"),
    [
        ("Paris", "'Europe/Paris'"),
        ("europe/paris", "'Europe/Paris'"),
        ("Europe/Pariss", "'Europe/Paris'"),
        ("", ""),
        ("CET+1", ""),
    ],
)
def test_a_time_zone_that_is_none_is_refused_with_the_nearest(zone: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match="is no time zone") as refused:
        Cron.read("0 2 * * *", zone)
    assert nearest in str(refused.value)
    assert "write it as Europe/Paris" in str(refused.value)


def test_ticks_are_in_the_schedules_zone() -> None:
    assert [t.isoformat() for t in islice(Cron.read("0 2 * * *", "Asia/Tokyo").after(NOW), 2)] == [
        "2026-11-27T02:00:00+09:00",
        "2026-11-28T02:00:00+09:00",
    ]
    assert (
        Cron.read("0 22 * * *", "America/New_York").next_night(datetime(2026, 11, 27, 2, tzinfo=UTC)).isoformat()
        == "2026-11-26"
    )


def test_nights_whose_hour_is_missing_or_double_are_named() -> None:
    assert Cron.read("30 2 * * *", "Europe/Paris").odd_nights(NOW) == [
        "2027-03-28 02:30 does not exist",
        "2027-10-31 02:30 comes twice",
    ]
    assert Cron.read("30 3 * * *", "Europe/Paris").odd_nights(NOW) == []
    assert Cron.read("30 2 * * *", "Asia/Tokyo").odd_nights(NOW) == []


@pytest.mark.parametrize(
    ("expression", "shares"), [("0 2 * * *", False), ("0 2,14 * * *", True), ("*/5 2 * * 1", True)]
)
def test_ticks_of_one_day_are_told(expression: str, shares: bool) -> None:
    assert Cron.read(expression, "UTC").shares_a_day(NOW) is shares


@pytest.mark.parametrize(
    ("expression", "events"),
    [
        ("0 2 * * *", ["*-*-* 02:00:00 Europe/Paris"]),
        ("*/20 9-11 * * mon-wed", ["Mon,Tue,Wed *-*-* 09,10,11:00,20,40:00 Europe/Paris"]),
        ("0 2 1 1,7 *", ["*-01,07-01 02:00:00 Europe/Paris"]),
        # cron takes either day, systemd both: two events, of which any is enough.
        ("0 2 13 * fri", ["*-*-13 02:00:00 Europe/Paris", "Fri *-*-* 02:00:00 Europe/Paris"]),
    ],
)
def test_the_same_in_systemds_words(expression: str, events: list[str]) -> None:
    assert Cron.read(expression, "Europe/Paris").calendars() == events


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "expression",
    [
        "0 2 * * *",
        "*/7 * * * *",
        "5 4 * * sun",
        "0 0 1 */3 *",
        "59 23 29 2 *",
        "0 2 13 * fri",
        "10,40 1-5/2 * 6-8 2-4",
        "@weekly",
    ],
)
def test_systemd_comes_at_the_same_times(expression: str, zone: str) -> None:
    cron = Cron.read(expression, zone)
    said = set[datetime]()
    for event in cron.calendars():
        shown = subprocess.run(
            ["systemd-analyze", "calendar", "--iterations=8", f"--base-time={NOW:%Y-%m-%d %H:%M:%S} UTC", event],
            env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        times = re.findall(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC", shown)
        said |= {datetime.strptime(time, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for time in times}
    assert len(said) >= 8
    assert sorted(said)[:8] == [tick.astimezone(UTC) for tick in islice(cron.after(NOW), 8)]


def test_crontabs_own_reader_agrees() -> None:
    assert croniter.is_valid(Cron.read("10,40 1-5/2 * 6-8 2-4", "UTC").expression, strict=True)
