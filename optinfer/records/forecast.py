"""What a run was expected to take, and what it took."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Forecast(Record):
    """Seconds, rows per second and cost of a run; None where it is not known, with `basis` saying why or from what.

    Attributes:
        seconds: what is likely; the range from `low_seconds` to `high_seconds` holds the truth 10 times of 12, and is
            None in those of before. Their parts are `startup_seconds`, `scoring_seconds` and `closing_seconds`.
        cost: of the likely seconds; in proportion to them.
    """

    rows: int
    seconds: float | None
    startup_seconds: float | None
    rows_per_second: float | None
    nodes: int
    cost: float | None
    basis: str
    low_seconds: float | None = None
    high_seconds: float | None = None
    scoring_seconds: float | None = None
    closing_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Actual(Record):
    """What a run took; `cost` is None where the job names no price."""

    seconds: float
    rows_per_second: float
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Compared(Forecast):
    """A forecast with what came of it; `error_percent` is its excess over the actual time, None without a forecast."""

    actual: Actual
    error_percent: float | None
