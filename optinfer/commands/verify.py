"""verify(output): a sample of its rows scored again, and whatever moved their answers since, by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from optinfer.commands.again import Scorers
from optinfer.commands.finished import Finished, finished
from optinfer.commands.held import Held, held, score_again
from optinfer.data.fragments import Fragment, part_name
from optinfer.data.sampling import spread
from optinfer.data.stored import StoredPart
from optinfer.errors import redact
from optinfer.records.inspection import Changed, ColumnMoved, LostFile, RowMoved, VerifyRecord

_SHOWN_ROWS = 10


def verify(url: str, rows: int = 256, say: Callable[[str], None] = lambda line: None) -> VerifyRecord:
    """Score a sample of a finished output again, with the artifact that scored it, and hold both against each other.

    Whole fragments are scored, from all over the output, so that a row has the company that it had.

    Args:
        rows: at least so many, where there are; a fragment is the least.

    Raises:
        ConfigError: it is no finished output, or what scored it can be neither found nor built.
    """
    done = finished(url, say)
    count = _Count()
    with ExitStack() as stack:
        scorers = Scorers(done, stack, say)
        for fragment in _chosen(done, rows):
            part = done.part(part_name(fragment.index, done.total), fragment.index)
            scorer = scorers.of(part.made)
            say(f"{part.name}: {fragment.rows:,} rows are scored again")
            count.add(fragment, part, held(done, part, score_again(done, fragment, None, scorer)), scorer.tolerance)
        return _record(done, count, scorers.changed)


def _chosen(done: Finished, rows: int) -> list[Fragment]:
    """Return fragments that can be read, from all over the output, that have so many rows together."""
    there, frozen = done.source.readable, done.source.frozen
    if not len(there):
        return []
    average = float((frozen.stop - frozen.start)[there].mean())
    chosen = (int(there[at]) for at in spread(len(there), math.ceil(rows / max(average, 1))))
    return [fragment for at in chosen if (fragment := done.source.fragment(at)) is not None]


@dataclass
class _Count:
    """What fragments came to, one after another."""

    rows: int = 0
    fragments: int = 0
    same_bits: int = 0
    moved: int = 0
    tolerance: float = 0.0
    columns: dict[str, float] = field(default_factory=dict)
    beyond: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[float, RowMoved]] = field(default_factory=list)

    def add(self, fragment: Fragment, part: StoredPart, now: Held, tolerance: float) -> None:
        farthest = now.moved.farthest
        self.fragments += 1
        self.tolerance = max(self.tolerance, tolerance)
        self.rows += fragment.rows
        as_before = fragment.rows - len(now.both) - len(now.gone) - len(now.came)  # without an answer, then and now
        self.same_bits += int(now.moved.same_bits.sum()) + as_before
        beyond = ~(farthest <= tolerance)
        self.moved += int(beyond.sum()) + len(now.gone) + len(now.came)
        for name, apart in now.moved.columns.items():
            self.columns[name] = max(self.columns.get(name, 0.0), float(apart.max(initial=0.0)))
            self.beyond[name] += int((~(apart <= tolerance)).sum())
        stored_at = {int(row): at for at, row in enumerate(part.places)}
        for at in np.argsort(-farthest, kind="stable")[: min(_SHOWN_ROWS, int(beyond.sum()))]:
            far = float(farthest[at])
            column = next(name for name, apart in now.moved.columns.items() if apart[at] == farthest[at])
            said = f"{column} differs" + (f" by {far:.3g}" if math.isfinite(far) else "")
            self._note(far, fragment, part, stored_at, int(now.both[at]), said)
        for row, why in list(now.gone.items())[:_SHOWN_ROWS]:
            self._note(math.inf, fragment, part, stored_at, row, f"has no answer any more: {why}")
        for row in now.came[:_SHOWN_ROWS].tolist():
            self._note(math.inf, fragment, part, stored_at, row, f"had no answer ({part.no_answer[row]}), and has one")

    def _note(
        self, far: float, fragment: Fragment, part: StoredPart, stored_at: dict[int, int], row: int, said: str
    ) -> None:
        moved = RowMoved(
            part=part.name,
            row=stored_at.get(row, -1),
            source=redact(fragment.path),
            source_row=fragment.start + row,
            said=said,
        )
        self.worst = sorted([*self.worst, (far, moved)], key=lambda one: -one[0])[:_SHOWN_ROWS]

    @property
    def largest_difference(self) -> float | None:
        """Of any number."""
        return max(filter(math.isfinite, self.columns.values()), default=None)


def _record(done: Finished, count: _Count, changed: tuple[Changed, ...]) -> VerifyRecord:
    lost = tuple(LostFile(path=redact(path), why=why, rows=rows) for path, why, rows in done.source.lost())
    status, reason = _verdict(count, changed, lost)
    bound = done.output.binding.bound()
    return VerifyRecord(
        status=status,
        reason=reason,
        output=done.output.shown,
        job=done.config.name,
        run_id=done.manifest.run.run_id,
        variant=" and ".join(one.variant for pool in bound for one in (pool, *pool.arms)) or done.manifest.run.variant,
        artifact=" and ".join(one.artifact for pool in bound for one in (pool, *pool.arms)),
        rows=count.rows,
        fragments=count.fragments,
        rows_bit_for_bit=count.same_bits,
        rows_moved=count.moved,
        largest_difference=count.largest_difference,
        tolerance=count.tolerance,
        columns=tuple(
            ColumnMoved(
                column=name,
                largest_difference=far if math.isfinite(far) else None,
                rows=count.beyond[name],
            )
            for name, far in count.columns.items()
        ),
        changed=changed,
        moved=tuple(row for _, row in count.worst),
        lost=lost,
    )


def _verdict(
    count: _Count, changed: tuple[Changed, ...], lost: tuple[LostFile, ...]
) -> tuple[Literal["same", "moved", "unverified"], str]:
    if not count.rows:
        why = f": {lost[0].path} {lost[0].why}" if lost else ""
        return "unverified", f"no row can be scored again{why}"
    names = ", ".join(f"{one.kind} {one.name}" for one in changed)
    largest = "" if count.largest_difference is None else f"; numbers differ by up to {count.largest_difference:.3g}"
    allowed = f"{count.tolerance:.3g} is allowed" if count.tolerance else "no certificate allows any"
    if count.moved:
        since = f"changed since: {names}" if names else "nothing that is recorded changed: check memory and drivers"
        return "moved", f"{count.moved:,} of {count.rows:,} rows moved{largest} ({allowed}); {since}"
    exact = f"{count.same_bits:,} of {count.rows:,} rows are bit for bit as stored"
    rest = "" if count.same_bits == count.rows else f", the others within what is allowed{largest} ({allowed})"
    return "same", f"{exact}{rest}" + (f"; what changed since moved none: {names}" if names else "")
