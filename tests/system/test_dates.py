"""Dates in paths: two words, the rest of a name's braces left alone."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.errors import ConfigError
from optinfer.system import dates

NIGHT = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("s3://bucket/{date}/", "s3://bucket/2026-03-01/"),
        ("in/day={date}/*.parquet", "in/day=2026-03-01/*.parquet"),
        ("{previous}", "2026-02-28"),
        ("{previous}..{date}", "2026-02-28..2026-03-01"),
        # Braces that are no word are part of a name, as they were before there were dates.
        ("in/{a,b}/*.parquet", "in/{a,b}/*.parquet"),
        ("in/{}/{3F25-04E0}/{1}", "in/{}/{3F25-04E0}/{1}"),
        ("date", "date"),
    ],
)
def test_dates_are_put_in(path: str, found: str) -> None:
    assert dates.filled(path, NIGHT) == found


@pytest.mark.parametrize(
    "path", ["{dat}", "{today}", "{ds}", "{DATE}", "{ date }", "{date:%Y}", "{date!r}", "{date.year}"]
)
def test_another_word_is_refused_with_those_that_are_known(path: str) -> None:
    with pytest.raises(ValueError, match=r"in a path is unknown;.* valid: {date}, {previous}"):
        dates.filled(f"in/{path}/x", NIGHT)


@given(st.dates(min_value=date(1, 1, 2)), st.text(alphabet="ab/{}, -*1", max_size=12))
def test_a_path_with_its_dates_is_not_changed_again(night: date, around: str) -> None:
    """A job is read in one process and may be read again in another."""
    try:
        once = dates.filled(f"{around}/{{date}}/{{previous}}/x", night)
    except ValueError:
        return
    assert dates.filled(once, date(2000, 1, 1)) == once


def test_a_word_of_somebody_elses_is_left_alone() -> None:
    assert dates.filled("{date}/{model_version}", NIGHT, ("{model_version}",)) == "2026-03-01/{model_version}"
    with pytest.raises(ValueError, match=r"valid: {date}, {model_version}, {previous}"):
        dates.filled("{modelversion}", NIGHT, ("{model_version}",))


def test_the_day_before_knows_leap_years() -> None:
    assert dates.filled("{previous}", date(2028, 3, 1)) == "2028-02-29"


def test_an_argument_without_dates_takes_none() -> None:
    assert dates.argument("out/{date}", NIGHT) == "out/2026-03-01"
    assert dates.argument("out", None) == "out"
    with pytest.raises(ConfigError, match="--logical-date changes nothing, as out has no"):
        dates.argument("out", NIGHT)
    with pytest.raises(ConfigError, match="unknown"):
        dates.argument("out/{day}", None)
