"""The account of a run: receipts and resumed fragments added up, and what must hold of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from optinfer.errors import AccountingError, QuarantineError
from optinfer.tracking.metrics import Stats


@dataclass
class Tally:
    """Rows of one job: `scored` in this attempt, `resumed` from earlier ones.

    `error_threshold` is a share of `rows` below 1, a number of rows from 1 on. Speed is measured after the first
    `warm_up` receipts, one for each replica, so that start-up and half-done fragments are left out. `first_load` is when
    the first replica that answered began to load its model, and the seconds it took; `replicas` says when each was ready.
    """

    rows: int
    error_threshold: float
    warm_up: int = 1
    scored: Stats = field(default_factory=Stats)
    resumed: Stats = field(default_factory=Stats)
    reasons: Counter[str] = field(default_factory=Counter)
    fragments: set[int] = field(default_factory=set)
    first_receipt: float | None = None
    rows_by_node: Counter[str] = field(default_factory=Counter)
    replica_peak_rss_mb: float = 0.0
    replicas: dict[str, float] = field(default_factory=dict)
    first_load: tuple[float, float] | None = None
    _mark: tuple[float, int] | None = None
    _last: float = 0.0
    _counted: int = 0

    @property
    def total(self) -> Stats:
        return self.scored + self.resumed

    def take_over(self, fragments: Iterable[int], rows_in: int, rows_out: int, rows_quarantined: int) -> None:
        """Count what earlier attempts committed."""
        self.fragments.update(fragments)
        self.resumed += Stats(rows_in=rows_in, rows_out=rows_out, rows_quarantined=rows_quarantined)

    def add(self, fragment: int, stats: Stats, reasons: dict[str, int], time: float, node: str = "") -> None:
        """Count one receipt; `time` is when it arrived, in seconds; `node` made it."""
        self._once(fragment)
        self.rows_by_node[node] += stats.rows_in
        self.scored += stats
        self.reasons.update(reasons)
        self._counted += 1
        self.first_receipt = self.first_receipt or time
        self._last = time
        if self._counted <= self.warm_up:
            self._mark = (time, self.scored.rows_in)

    @property
    def counted(self) -> int:
        """Fragments scored in this attempt."""
        return self._counted

    def steady_rows_per_second(self) -> float | None:
        """Return the speed after the warm-up, None where nothing came after it."""
        if self._mark is None or self._last <= self._mark[0]:
            return None
        return (self.scored.rows_in - self._mark[1]) / (self._last - self._mark[0])

    def model_share(self) -> float | None:
        """Return the share of the replicas' time, from when they were loaded, that was spent inside the model."""
        alive = sum(max(self._last - ready, 0.0) for ready in self.replicas.values())
        return min(self.scored.infer_seconds / alive, 1.0) if alive else None

    def check_threshold(self, where: str) -> None:
        """Raise as soon as more rows are quarantined than the job allows: the rest of the night would be wasted.

        Raises:
            QuarantineError: names the commonest reasons and `where` the rows are.
        """
        limit = self.error_threshold
        allowed = limit * self.rows if limit < 1 else limit
        quarantined = self.total.rows_quarantined
        if quarantined > allowed:
            top = "".join(f"\n  {count} rows: {reason}" for reason, count in self.reasons.most_common(3))
            raise QuarantineError(
                f"{quarantined} rows are quarantined, sink.error_threshold {limit:g} allows {allowed:g} of "
                f"{self.rows}; see {where}{top}\n"
                "correct the rows, or raise sink.error_threshold and run again: committed fragments are kept"
            )

    def check_complete(self, where: str) -> None:
        """Check rows in = rows scored + rows quarantined = rows planned.

        Raises:
            AccountingError: they differ.
        """
        total = self.total
        if not total.rows_in == total.rows_out + total.rows_quarantined == self.rows:
            raise AccountingError(
                f"{self.rows} rows planned, {total.rows_in} read, {total.rows_out} scored, "
                f"{total.rows_quarantined} quarantined: they must agree, so {where} is left without _SUCCESS; "
                "run the same command again"
            )

    def _once(self, fragment: int) -> None:
        if fragment in self.fragments:
            raise AccountingError(f"fragment {fragment} was counted twice; please report this as a bug")
        self.fragments.add(fragment)
