"""What `optimize` answers and records: the variants as they compare, and the one that won."""

from __future__ import annotations

import json
from collections.abc import Sequence

from optinfer.commands.resolved import Resolved
from optinfer.optimization.selection import Prepared, Skipped
from optinfer.optimization.variants import BASELINES
from optinfer.records.comparison import Candidate, OptimizeRecord, Unmeasured
from optinfer.records.notes import optimize_note, variant_note
from optinfer.records.text import optimize_table
from optinfer.tracking.events import Below, Compared, Finished
from optinfer.tracking.measured import of_comparison, of_variant


def answer(job: Resolved, run_id: str, sample_rows: int, results: list[Prepared | Skipped]) -> OptimizeRecord:
    baseline = BASELINES[job.subject.model.format]
    measured = [r for r in results if isinstance(r, Prepared)]
    passed = sorted((r for r in measured if r.gate.passed), key=lambda r: -r.certificate.rows_per_second)
    failed = sorted((r for r in measured if not r.gate.passed), key=lambda r: -r.certificate.rows_per_second)
    skipped = [r for r in results if isinstance(r, Skipped)]
    base = next((r.certificate.rows_per_second for r in measured if r.variant.name == baseline), None)
    return OptimizeRecord(
        run_id=run_id,
        job=job.config.name,
        model=job.subject.model.key,
        family=job.config.model.family,
        metric=job.subject.metric,
        label=job.config.gate.label,
        threshold=job.config.gate.threshold,
        relative=job.config.gate.largest_drop is not None,
        sample_rows=sample_rows,
        baseline=baseline,
        winner=passed[0].variant.name if passed else None,
        pareto=pareto(
            # Differences of rounding are none: beside the baseline nothing else would ever be on the front.
            [(r.variant.name, r.certificate.rows_per_second, round(r.certificate.fidelity.value, 5)) for r in passed]
        ),
        candidates=tuple(_candidate(r, base) for r in (*passed, *failed)),
        skipped={r.name: r.reason for r in skipped},
    )


def pareto(points: Sequence[tuple[str, float, float]]) -> tuple[str, ...]:
    """Return the names of the (name, speed, quality) points that no other point beats in both."""
    front = []
    for name, speed, quality in points:
        beaten = any(
            s >= speed and q >= quality and (s > speed or q > quality) for other, s, q in points if other != name
        )
        if not beaten:
            front.append(name)
    return tuple(front)


def _candidate(result: Prepared, base: float | None = None) -> Candidate:
    """Return what is said of a measured variant; `base` is the baseline's rows per second."""
    return Candidate(
        variant=result.variant.name,
        passed=result.gate.passed,
        reason=result.gate.reason,
        techniques=result.variant.techniques,
        backend=result.variant.backend,
        gate=result.gate,
        certificate=result.certificate,
        speedup=result.certificate.rows_per_second / base if base else None,
    )


def _unmeasured(result: Skipped) -> Unmeasured:
    return Unmeasured(variant=result.name, reason=result.reason)


def compared(result: Prepared | Skipped) -> Compared:
    """Return a variant's result as an event of the comparison."""
    return Compared(_candidate(result) if isinstance(result, Prepared) else _unmeasured(result))


def below(result: Prepared) -> Below:
    """Return a variant's run below the comparison's."""
    return Below(
        name=result.variant.name,
        params=result.params,
        note=variant_note(result.certificate, result.gate),
        metrics=of_variant(result.certificate, result.gate),
        artifacts={"certificate.json": json.dumps(result.certificate.as_dict(), indent=1)},
    )


def finished(record: OptimizeRecord) -> Finished:
    return Finished(
        metrics=of_comparison(record),
        note=optimize_note(record),
        tags={"optinfer.winner": str(record.winner), "optinfer.pareto": ", ".join(record.pareto)},
        artifacts={
            "table.md": optimize_table(record),
            "record.json": json.dumps(record.as_dict(), indent=1, default=str),
        },
    )
