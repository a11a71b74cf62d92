"""What was found of a finished output against a reference: what moved, how far, in which rows, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Measure(Record):
    """How far something moved: `value`, the `threshold` of this reference, and the `least` that counts."""

    value: float
    threshold: float
    least: float


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """A row of the source; `row` counts from 0 in its file."""

    file: str
    row: int


@dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """Something that moved.

    Attributes:
        what: a column of what is watched (`input.text.characters`, `answer.label`), or `speed`.
        measure: the one that is furthest beyond what counts; `measures` has all of those that alarm.
        before, now: what it was like and is, in words.
        rows: some to look at.
        advice: what to do.
    """

    what: str
    measure: str
    measures: Mapping[str, Measure]
    before: str
    now: str
    rows: tuple[Row, ...]
    advice: str


@dataclass(frozen=True, kw_only=True)
class ReferenceRun(Record):
    """The run whose rows and answers are the reference."""

    run_id: str
    output: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Drift(Record):
    """One output held against the reference.

    Attributes:
        status: `same`, `moved`; `reference`: this output is the reference from now on; `too few rows`; `unknown`:
            nothing was kept of it.
        rows: of this output that were measured.
        watched: every column and measure that was compared.
        seconds: that measuring took, of all replicas and the driver together; `share`: of the time of the run's
            replicas. None where nothing is known of that run.
    """

    status: str
    rows: int = 0
    reference: ReferenceRun | None = None
    findings: tuple[Finding, ...] = ()
    watched: Mapping[str, Mapping[str, Measure]] = field(default_factory=dict)
    note: str = ""
    seconds: float | None = None
    share: float | None = None


def drift_text(drift: Drift) -> str:
    """Say what moved and what to do."""
    return "\n".join(drift_lines(drift))


def drift_lines(drift: Drift) -> list[str]:
    """Say in a line how it stands, then in three what each finding is."""
    against = "" if drift.reference is None else f" against run {drift.reference.run_id} ({drift.reference.output})"
    compared = f"{len(drift.watched)} things in {drift.rows:,} rows" if drift.watched else f"{drift.rows:,} rows"
    if drift.status == "moved":
        lines = [f"{len(drift.findings)} of {compared} moved{against}"]
    elif drift.status == "same":
        lines = [f"nothing of {compared} moved{against}"]
    else:
        lines = [f"{drift.status}: {drift.note}"]
    for one in drift.findings:
        lines += [f"  {said(one)}", f"    {one.advice}"]
        lines += [f"    look at {_places(one.rows)}"] if one.rows else []
    return lines


def said(finding: Finding) -> str:
    """Say in a line what moved and how far."""
    measure = finding.measures[finding.measure]
    far = f"{finding.measure} {measure.value:.3g}, alarm above {max(measure.threshold, measure.least):.3g}"
    return f"{finding.what} moved: {finding.before} -> {finding.now} ({far})"


def _places(rows: tuple[Row, ...]) -> str:
    files: dict[str, list[int]] = {}
    for row in rows:
        files.setdefault(row.file, []).append(row.row)
    return "; ".join(f"rows {', '.join(map(str, found))} of {file}" for file, found in files.items())
