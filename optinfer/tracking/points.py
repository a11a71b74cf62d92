"""How far a run is, in points that MLflow draws: of the same receipts always the same, live or from a journal."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.tracking.events import Finished, Resumed, Started

# A point costs some 5 ms of the driver, which shares the machine with replicas.
_POINT_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Point:
    """Rows, and rows per second since the point before, some seconds into a run.

    Attributes:
        percent: of the table's rows, those of earlier attempts included; None where nobody said how many there are.
    """

    seconds: int
    rows: int
    rows_per_second: float | None
    percent: float | None = None


class Points:
    """Makes points of receipts, at most one every few seconds, and a last one at the end.

    Args:
        time: when the run began; all times are in seconds since the epoch.
        begun: says how many rows there are to score.
    """

    def __init__(self, time: float, begun: Started) -> None:
        total = begun.params.get("data.rows")
        self._total = total if isinstance(total, int) else None
        self._started, self._rows, self._earlier = time, 0, 0
        self._last: tuple[float, int] | None = None

    def resume(self, event: Resumed) -> None:
        self._earlier = event.rows

    def add(self, now: float, rows: int) -> Point | None:
        self._rows += rows
        if self._last and now - self._last[0] < _POINT_EVERY_SECONDS:
            return None
        point = self._point(now)
        self._last = (now, self._rows)
        return point

    def end(self, now: float, event: Finished) -> Point | None:
        """Return where a run ended: at 100% if it is done; None for one that scores no table."""
        if self._total is None and not self._rows:
            return None
        return self._point(now, done=event.status == "done")

    def _point(self, now: float, done: bool = False) -> Point:
        since = now - self._last[0] if self._last else 0.0
        # Of a last point right behind another one, a speed says nothing.
        rate = (self._rows - self._last[1]) / since if self._last and since >= _POINT_EVERY_SECONDS else None
        return Point(int(now - self._started), self._rows, rate, self._percent(done))

    def _percent(self, done: bool) -> float | None:
        if self._total is None:
            return None
        # What was lost and scored again counts once.
        return 100.0 if done else min(100.0, 100.0 * (self._earlier + self._rows) / max(self._total, 1))
