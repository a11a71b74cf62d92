"""The account of a run: receipts and resumed fragments added up, and what must hold of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from optinfer.errors import AccountingError, QuarantineError
from optinfer.records.receipt import Receipt, TakenOver
from optinfer.records.stats import Stats


@dataclass
class Pace:
    """One replica's commits: when the first and the last came, in seconds; `rows` leaves out those of the first."""

    first: float
    last: float
    rows: int = 0
    total: int = 0


@dataclass
class Tally:
    """Rows of one job: `scored` in this attempt, `resumed` from earlier ones, `lost` of both.

    What is lost was counted, and its part is gone: it is scored again. `error_threshold` is a share of `rows` below 1,
    a number of rows from 1 on. `replicas` says when each was ready, `paces` how they committed, `first_load` when the
    first that answered began to load its model, and for how long.
    `rows_by_variant` says whose rows the output holds, resumed ones included. `taken_over`: why others had not ended
    with fragments -> how many there were, the rows that a model was given twice, the longest wait in seconds.
    """

    rows: int
    error_threshold: float
    scored: Stats = field(default_factory=Stats)
    resumed: Stats = field(default_factory=Stats)
    lost: Stats = field(default_factory=Stats)
    earlier: set[int] = field(default_factory=set)
    fragments: set[int] = field(default_factory=set)
    scored_again: int = 0
    first_receipt: float | None = None
    replicas: dict[str, float] = field(default_factory=dict)
    first_load: tuple[float, float] | None = None
    paces: dict[str, Pace] = field(default_factory=dict)
    rows_by_variant: Counter[str] = field(default_factory=Counter)
    taken_over: dict[str, dict[str, float]] = field(default_factory=dict)
    replica_peak_rss_mb: float = 0.0
    _reasons: dict[int, dict[str, int]] = field(default_factory=dict)

    @property
    def total(self) -> Stats:
        """Return what the output holds; work that was done twice counts once in its rows."""
        total = self.scored + self.resumed
        total.rows_in -= self.lost.rows_in
        total.rows_out -= self.lost.rows_out
        total.rows_quarantined -= self.lost.rows_quarantined
        return total

    @property
    def reasons(self) -> Counter[str]:
        """Return why rows were quarantined in this attempt."""
        found: Counter[str] = Counter()
        for reasons in self._reasons.values():
            found.update(reasons)
        return found

    def take_over(self, fragments: Iterable[int], rows_in: int, rows_out: int, rows_quarantined: int) -> None:
        """Count what earlier attempts committed."""
        self.earlier.update(fragments)
        self.resumed += Stats(rows_in=rows_in, rows_out=rows_out, rows_quarantined=rows_quarantined)

    def lose(self, fragments: Iterable[int], rows_in: int, rows_out: int, rows_quarantined: int) -> None:
        """Take back what was counted of fragments whose parts are gone: they are scored again."""
        for fragment in fragments:
            self.earlier.discard(fragment)
            self.fragments.discard(fragment)
            self._reasons.pop(fragment, None)
            self.scored_again += 1
        self.lost += Stats(rows_in=rows_in, rows_out=rows_out, rows_quarantined=rows_quarantined)

    def add(self, receipt: Receipt) -> None:
        """Count one committed fragment."""
        fragment, time, rows = receipt.made.fragment, receipt.committed, receipt.stats.rows_in
        self._once(fragment)
        self.scored += receipt.stats
        if receipt.reasons:
            self._reasons[fragment] = receipt.reasons
        self.first_receipt = min(self.first_receipt or time, time)
        if (pace := self.paces.get(receipt.replica)) is None:
            pace = self.paces[receipt.replica] = Pace(first=time, last=time)
        else:
            pace.first, pace.last, pace.rows = min(pace.first, time), max(pace.last, time), pace.rows + rows
        pace.total += rows
        self.rows_by_variant[str(receipt.made.variant)] += receipt.made.rows_out
        if receipt.taken_over:
            self._take_up(receipt.taken_over)
        self.replica_peak_rss_mb = max(self.replica_peak_rss_mb, receipt.peak_rss_mb)
        self.replicas.setdefault(receipt.replica, receipt.load_started + receipt.load_seconds)
        self.first_load = self.first_load or (receipt.load_started, receipt.load_seconds)

    def _take_up(self, before: TakenOver) -> None:
        found = self.taken_over.setdefault(before.why, {"fragments": 0})
        found["fragments"] += 1
        if before.rows is not None and before.seconds is not None:
            found["rows_scored_twice"] = found.get("rows_scored_twice", 0) + before.rows
            found["seconds"] = max(found.get("seconds", 0.0), round(before.seconds, 3))

    @property
    def allowed(self) -> float:
        """How many rows of the whole table may be quarantined."""
        limit = self.error_threshold
        # Rounded: 0.29 of 100 rows are 29, and 28.999999999999996 as floats are multiplied.
        return round(limit * self.rows, 6) if limit < 1 else limit

    @property
    def counted(self) -> int:
        """Fragments scored in this attempt."""
        return len(self.fragments)

    def steady_rows_per_second(self) -> float | None:
        """Return the replicas' speeds after each one's first fragment, added; None where nothing came after it."""
        speeds = [pace.rows / (pace.last - pace.first) for pace in self.paces.values() if pace.last > pace.first]
        return sum(speeds) if speeds else None

    def rows_by_node(self) -> dict[str, int]:
        """Return how many rows each node scored; a replica is called `pid@node`."""
        rows: Counter[str] = Counter()
        for replica, pace in self.paces.items():
            rows[replica.partition("@")[2]] += pace.total
        return dict(rows)

    def model_share(self) -> float | None:
        """Return the share of the replicas' time, from when they were loaded, that was spent inside the model."""
        last = max((pace.last for pace in self.paces.values()), default=0.0)
        alive = sum(max(last - ready, 0.0) for ready in self.replicas.values())
        return min(self.scored.infer_seconds / alive, 1.0) if alive else None

    def check_threshold(self, where: str) -> None:
        """Raise as soon as more rows are quarantined than the job allows: the rest of the night would be wasted.

        Raises:
            QuarantineError: names the commonest reasons and `where` the rows are.
        """
        limit, allowed = self.error_threshold, self.allowed
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
        if fragment in self.fragments or fragment in self.earlier:
            raise AccountingError(f"fragment {fragment} was counted twice; please report this as a bug")
        self.fragments.add(fragment)
