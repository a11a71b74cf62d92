"""What MLflow shows above a run: three lines in Markdown, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optinfer.records.text import duration, markdown_table

if TYPE_CHECKING:  # a command writes one of them, and starts without the others
    from optinfer.records.comparison import Candidate, OptimizeRecord
    from optinfer.records.proof import Certificate, GateResult
    from optinfer.records.run import RunRecord
    from optinfer.records.tuning import Finalist, Outcome, TuneRecord

# More rows of a table than this are in the run's files.
_MOST_ROWS = 8


def begun(job: str, doing: str) -> str:
    """Say what a run is about while it goes on."""
    return f"`{job}` {doing}. Under way: rows and speed are in the charts."


def run_note(run: RunRecord, source: str) -> str:
    """Say what was scored, how well that is proved, and what would make it faster.

    Args:
        source: the table, in short.
    """
    bad = f", {run.rows_quarantined:,} quarantined" if run.rows_quarantined else ""
    scored = f"**{run.rows_out:,} of {run.rows_in:,} rows** of `{source}` scored{bad}, in {duration(run.seconds)}."
    proof = _proof(run.certificate, run.gate) if run.certificate and run.gate else "Nothing had to be proved."
    lines = [scored, proof, *([_sentence(run.time.advice)] if run.time else [])]
    row = (
        f"`{run.variant}`{_places(run)}",
        f"{run.rows_in:,}",
        _speed(run),
        _gate(run.gate) if run.gate else "",
        _against_the_forecast(run),
    )
    return _note(lines, ("what ran", "rows", "rows/s", "gate", "against the forecast"), [row])


def variant_note(certificate: Certificate, gate: GateResult) -> str:
    """Say what was proved of one variant of a comparison."""
    lines = [
        f"**{'Passes' if gate.passed else 'Does not pass'}** the gate{f': {gate.reason}' if gate.reason else ''}.",
        _proof(certificate, gate),
        f"One replica of {certificate.threads} threads on {certificate.device}, alone, on a sample of the job's rows.",
    ]
    low, high = certificate.rows_per_second_range
    row = (
        f"`{certificate.variant}`",
        f"{gate.sample_rows:,}",
        f"{certificate.rows_per_second:.1f} ({low:.1f}-{high:.1f})",
        _gate(gate),
        f"{certificate.artifact_mb:.0f}",
        f"{certificate.build_seconds:.0f}",
    )
    return _note(lines, ("variant", "sample rows", "rows/s", "gate", "MB", "build s"), [row])


def optimize_note(record: OptimizeRecord) -> str:
    """Say which variant won, of which."""
    passed = sum(candidate.passed for candidate in record.candidates)
    won = f"**`{record.winner}`** is the fastest that passes" if record.winner else "**No variant passes**"
    lines = [
        f"{won} the gate: {passed} of {len(record.candidates)} do, {len(record.skipped)} were not measured.",
        f"{record.sample_rows:,} sample rows; one replica of each, alone.",
        f"A job takes it with `variant: {record.winner}`." if record.winner else "`table.md` says how far each is off.",
    ]
    head = ("variant", "rows/s", f"x {record.baseline}", "gate", "MB")
    return _note(lines, head, [_candidate(one) for one in record.candidates[:_MOST_ROWS]])


def tune_note(record: TuneRecord) -> str:
    """Say which settings won, against what."""
    winner, default = record.winner, record.winner.default_rows_per_second
    gain = f", {winner.rows_per_second / default:.2f} times the default" if default else ""
    lines = [
        f"**{winner.rows_per_second:.1f} rows/s of a node{gain}**: `{winner.variant}`, {winner.replicas} x "
        f"{winner.threads_per_replica} threads.",
        f"{len(record.trials)} of {len(record.space.points)} settings tried on {record.sample.rows:,} rows.",
        "Jobs with this model, machine, gate and like lengths use it from now on.",
    ]
    head = ("variant", record.budget, "replicas x threads", "rows/s of the node", "")
    best = sorted(record.finalists, key=lambda one: -max(one.rows_per_second))[:_MOST_ROWS]
    return _note(lines, head, [_finalist(one, record) for one in best])


def trial_note(outcome: Outcome) -> str:
    """Say what a node did with one setting."""
    point, measured = outcome.point, outcome.measured
    said = f"**{measured.rows_per_second:.1f} rows/s** of a node" if measured else "**Failed**"
    reason = f" ({outcome.reason})" if outcome.reason else ""
    return f"{said}{reason}: `{point.variant}`, micro-batch {point.budget}, {point.replicas} x {point.threads} threads."


def _note(lines: Sequence[str], head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n\n".join(["  \n".join(lines), markdown_table(head, [tuple(map(_cell, row)) for row in rows])])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _proof(certificate: Certificate, gate: GateResult) -> str:
    batches = "is the same in any batch" if certificate.batch_invariant else "depends on its neighbours in a batch"
    return f"{_gate(gate)} (95% bound) on {gate.sample_rows:,} sample rows; a row's answer {batches}."


def _gate(gate: GateResult) -> str:
    of = " of the baseline" if gate.relative else ""
    sign = "≥" if gate.value >= gate.threshold else "<"
    return f"{gate.metric} {gate.value:.4f} {sign} {gate.threshold:g}{of}"


def _places(run: RunRecord) -> str:
    return "".join(
        f", {place.replicas} x {place.threads_per_replica} threads on {place.device}" for place in run.placement
    )


def _speed(run: RunRecord) -> str:
    if run.rows_per_second is None:
        return ""
    then = f", once loaded {run.steady_rows_per_second:,.1f}" if run.steady_rows_per_second else ""
    return f"{run.rows_per_second:,.1f}{then}"


def _against_the_forecast(run: RunRecord) -> str:
    told = run.forecast
    if told is None or told.seconds is None or told.error_percent is None:
        return "none yet"
    return f"{duration(told.seconds)}, it took {duration(told.actual.seconds)} ({told.error_percent:+.0f}%)"


def _candidate(one: Candidate) -> tuple[str, ...]:
    return (
        f"`{one.variant}`",
        f"{one.certificate.rows_per_second:.1f}",
        f"{one.speedup:.2f}" if one.speedup else "",
        _gate(one.gate),
        f"{one.certificate.artifact_mb:.0f}",
    )


def _finalist(one: Finalist, record: TuneRecord) -> tuple[str, ...]:
    point, rates = one.point, one.rows_per_second
    return (
        f"`{point.variant}`",
        str(point.budget),
        f"{point.replicas} x {point.threads}",
        f"{min(rates):.1f}-{max(rates):.1f}",
        "default" if point == record.default else "",
    )
