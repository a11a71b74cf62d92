"""An output's sketch, held against the reference: findings for `run` and `drift`. Nothing is acted on here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from optinfer.commands.resolved import Resolved
from optinfer.data import reference
from optinfer.data.fragments import Plan
from optinfer.data.output import Output
from optinfer.data.reference import About, Kept
from optinfer.errors import ConfigError, redact
from optinfer.monitoring.sketch import ANSWER, COLUMN, FEWEST_ROWS, FRAGMENT, INPUT, ROW, merged
from optinfer.records.drift import Drift, Finding, Measure, ReferenceRun, Row, said
from optinfer.records.run import RunRecord
from optinfer.system import last_resort
from optinfer.tracking.tally import Tally

if TYPE_CHECKING:  # it loads scipy, which a job without a reference does without
    from optinfer.monitoring.drift import Column

FILE = "_file"


class Watching:
    """The watch of one run, for its end: `look` before the output is finished, `keep` after.

    Whatever goes wrong here is said, and ends no job.

    Args:
        warn: is told what moved.
    """

    def __init__(self, job: Resolved, output: Output, warn: Callable[[str], None]) -> None:
        self._job, self._output, self._warn = job, output, warn
        self._first: Kept | None = None
        self._speed: tuple[About, str, float] | None = None

    def look(self, run: RunRecord, accounts: pa.Table, tally: Tally) -> RunRecord:
        """Write the output's sketch, and return the record with what moved.

        Args:
            accounts: what is in the parts.
        """
        if not self._job.config.monitor.enabled:
            return run
        started = perf_counter()
        try:
            drift = self._drift(run, accounts)
        except Exception as error:  # the rows are scored, and the output is whole
            self._warn(f"this output was not held against a reference: {last_resort.named(error)}")
            return run
        for finding in drift.findings:
            self._warn(f"{said(finding)}; {finding.advice}")
        driver, replicas = perf_counter() - started, tally.scored.watch_seconds
        share = (replicas / max(len(tally.replicas), 1) + driver) / run.seconds if run.seconds else None
        return replace(run, drift=replace(drift, seconds=round(replicas + driver, 4), share=share and round(share, 5)))

    def keep(self) -> None:
        """Make the output the reference, where it is the first of its job, and remember how fast it was made."""
        try:
            if self._first is not None:
                reference.propose(self._first)
            if self._speed is not None:
                reference.add_speed(*self._speed)
        except Exception as error:
            self._warn(f"this run is not kept as a reference: {last_resort.named(error)}")

    def _drift(self, run: RunRecord, accounts: pa.Table) -> Drift:
        about = About(job=run.job, run_id=run.run_id, output=run.output, subject=reference.subject_of(self._job.fields))
        drift = self._rows(about, accounts)
        slow = self._slower(about, run)
        return drift if slow is None else replace(drift, status="moved", findings=(*drift.findings, slow))

    def _slower(self, about: About, run: RunRecord) -> Finding | None:
        """Hold the speed of a replica against earlier runs; of two variants' replicas nobody knows whose it is."""
        if run.steady_rows_per_second is None or run.certificate is None or len(run.placement) != 1:
            return None
        speed = run.steady_rows_per_second / run.placement[0].replicas
        self._speed = about, run.certificate.artifact, speed
        return slower(reference.speeds(about, run.certificate.artifact), speed)

    def _rows(self, about: About, accounts: pa.Table) -> Drift:
        tonight = sketched(about, accounts, self._job.plan)
        if tonight is None:
            return Drift(status="unknown", note="nothing was kept of its rows")
        reference.write(self._output.folder, tonight)
        before = reference.reference(about)
        if before is not None:
            return held(tonight, before)
        rows = tonight.rows.num_rows
        if rows < FEWEST_ROWS:
            return Drift(status="too few rows", rows=rows, note=f"{rows:,} were measured, {FEWEST_ROWS} are needed")
        self._first = tonight
        return Drift(status="reference", rows=rows, note="the first finished output; later ones are held against it")


def sketched(about: About, accounts: pa.Table, plan: Plan) -> Kept | None:
    """Put an output's sketch together from what its parts say; None where they say nothing.

    Args:
        accounts: columns `fragment` and `sketch`.
    """
    some = accounts.filter(accounts.column("sketch").is_valid())
    rows = merged(zip(some.column("fragment").to_pylist(), some.column("sketch").to_pylist(), strict=True))
    return Kept(about, _located(rows, plan)) if rows.num_rows else None


def _located(rows: pa.Table, plan: Plan) -> pa.Table:
    """Count rows from the beginning of their files, which are named, so that a sketch can be read without its plan."""
    cuts, fragment = plan.fragments, rows.column(FRAGMENT).to_numpy()
    paths = pa.array([redact(path) for path in cuts.paths], pa.string())
    named = pa.DictionaryArray.from_arrays(pa.array(cuts.file[fragment].astype(np.int32)), paths)
    numbers = rows.column(ROW).to_numpy() + cuts.start[fragment]
    return rows.drop_columns([FRAGMENT, ROW]).append_column(FILE, named).append_column(ROW, pa.array(numbers))


def held(tonight: Kept, before: Kept) -> Drift:
    """Hold an output against a reference.

    Raises:
        ConfigError: they are not of the same model and columns.
    """
    _require_same_subject(tonight.about, before.about)
    rows = tonight.rows.num_rows
    of = ReferenceRun(run_id=before.about.run_id, output=before.about.output, rows=before.rows.num_rows)
    if min(rows, of.rows) < FEWEST_ROWS:
        note = f"{rows:,} were measured here and {of.rows:,} of the reference, {FEWEST_ROWS} of each are needed"
        return Drift(status="too few rows", rows=rows, reference=of, note=note)
    from optinfer.monitoring.drift import compare

    columns = compare(before.rows.drop_columns([FILE]), tonight.rows)
    findings = tuple(_finding(one, tonight.rows) for one in columns if one.moved)
    watched = {column.name: _measures(column, tuple(column.measures)) for column in columns}
    return Drift(status="moved" if findings else "same", rows=rows, reference=of, findings=findings, watched=watched)


def slower(earlier: Sequence[float], now: float) -> Finding | None:
    """Return the finding that a replica is slower than it was, None where it is not, or few runs are known."""
    from optinfer.monitoring.speed import LEAST, slowdown

    found = slowdown(earlier, now)
    if found is None or not found.alarms:
        return None
    return Finding(
        what="speed",
        measure="slowdown",
        measures={"slowdown": Measure(value=round(found.value, 4), threshold=round(found.threshold, 4), least=LEAST)},
        before=f"{found.usual:,.1f} rows/s of a replica (median of {len(earlier)} runs)",
        now=f"{now:,.1f}",
        rows=(),
        advice="`time` in the record says where it went; where rows are longer, `optinfer tune JOB` finds other "
        "settings; else look who shares the machine",
    )


def _require_same_subject(tonight: About, before: About) -> None:
    if (tonight.subject, tonight.version) == (before.subject, before.version):
        return
    ours, theirs = (json.loads(json.dumps(about.subject, default=str)) for about in (tonight, before))
    differ = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)) or ["version"]
    told = "; ".join(f"{name}: {_short(theirs.get(name))} there, {_short(ours.get(name))} here" for name in differ)
    raise ConfigError(
        f"{before.output} (run {before.run_id}) is no reference for {tonight.output}: it differs in {told}. Give the "
        "output of a run of the same model and columns"
    )


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _measures(column: Column, names: Sequence[str]) -> Mapping[str, Measure]:
    found = {name: column.measures[name] for name in names}
    return {
        name: Measure(value=round(one.value, 6), threshold=round(one.threshold, 6), least=one.least)
        for name, one in found.items()
    }


def _finding(column: Column, rows: pa.Table) -> Finding:
    some = rows.take(pa.array(column.rows))
    places = zip(some.column(FILE).to_pylist(), some.column(ROW).to_pylist(), strict=True)
    return Finding(
        what=column.name,
        measure=column.moved[0],
        measures=_measures(column, column.moved),
        before=column.before,
        now=column.now,
        rows=tuple(Row(file=file, row=row) for file, row in places),
        advice=_advice(column.name),
    )


_MEANT = "meant to stay: `optinfer drift OUTPUT --accept` makes this output the reference"


def _advice(name: str) -> str:
    """Say what to do about something that moved."""
    kind, _, rest = name.partition(".")
    if name in ("tokens", "tokens.truncated") or rest.endswith(".characters"):
        cut = "; texts that are cut off lose their ends: see model.max_length" if rest == "truncated" else ""
        return f"rows of another length want other batches: `optinfer tune JOB` measures which{cut}; {_MEANT}"
    if name == "tokens.unknown" or rest.endswith(".bytes_a_character"):
        return f"the model may not know this language: ask whoever writes the table, and compare on labels; {_MEANT}"
    if name in ("repeated", "unanswered") or rest.endswith(".null"):
        return f"look at the rows, and ask whoever writes the table; {_MEANT}"
    if kind == ANSWER:
        return (
            "where no input moved, the model did: `optinfer optimize JOB --again` proves it anew; else label some of "
            f"these rows and `optinfer compare`; {_MEANT}"
        )
    if kind in (INPUT, COLUMN):
        return f"what the model was proved on is not what comes now: label some of these rows, and compare; {_MEANT}"
    return _MEANT
