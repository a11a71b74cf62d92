"""What the commands print for people; `--json` prints the same values as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import localtime, strftime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command prints one of them, and starts without the others
    from optinfer.records.comparison import Candidate, OptimizeRecord
    from optinfer.records.draft import Draft
    from optinfer.records.drift import Drift
    from optinfer.records.forecast import Compared, Forecast
    from optinfer.records.history import History, PastRun
    from optinfer.records.machine import Check, Offer
    from optinfer.records.preview import Preview
    from optinfer.records.run import Breakdown, MlflowRun, Proof, RunRecord
    from optinfer.records.status import Status
    from optinfer.records.sync import SyncRecord
    from optinfer.records.table import TableRecord
    from optinfer.records.tuning import TuneRecord, TuningSample

# By whom fragments were begun that others took over.
_BEGUN = {
    "left": "on nodes that were told to leave",
    "lost": "on nodes that were lost",
    "died": "by replicas that died",
}


def run_text(run: RunRecord) -> str:
    """Say what was done and where to look."""
    if run.status == "nothing to do":
        return f"nothing to do: {run.output} holds all {run.rows_in:,} rows of this job (run {run.run_id})"
    lines = [
        f"{run.rows_out:,} of {run.rows_in:,} rows scored, {run.rows_quarantined:,} quarantined",
        f"  variant     {run.variant}{_gate(run)}",
        *_beside(run),
        *[f"  arm         {name}: {one.variant}{_gate(one)}" for name, one in run.arms.items()],
        f"  speed       {_speed(run)}",
        *_time(run.time),
        *[f"  forecast    {line}" for line in _forecast_error(run.forecast, run.seconds)],
        *_drift(run.drift),
        f"  fragments   {run.fragments}, of which {run.fragments_resumed} were committed earlier",
        *_taken_over(run.taken_over),
        f"  output      {run.output}  (read *.parquet; _manifest.json has the whole account)",
        f"  mlflow      {mlflow_text(run.mlflow)}",
    ]
    return "\n".join(lines)


def _taken_over(run: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say which fragments had been begun before, and what that cost."""
    lines = []
    for why, found in run.items():
        cost = f": {found['rows_scored_twice']:,.0f} rows scored twice" if "rows_scored_twice" in found else ""
        waited = f", taken up within {found['seconds']:.1f} s" if "seconds" in found else ""
        lines.append(f"              {found['fragments']:,.0f} had been begun {_BEGUN.get(why, why)}{cost}{waited}")
    return lines


def _beside(run: RunRecord) -> list[str]:
    """Say which second variant scored, and whose the rows of the output are."""
    if not (second := run.beside):
        return []
    rows = ", ".join(f"{rows:,} by {name}" for name, rows in run.rows_by_variant.items())
    return [f"  on CPUs     {second.variant}{_gate(second)}", f"              rows: {rows}"]


def _gate(run: RunRecord | Proof) -> str:
    gate, certificate = run.gate, run.certificate
    if not gate or not certificate:
        return ""
    invariant = "same answer in any batch" if certificate.batch_invariant else "answers depend on the batch"
    against = ""
    if gate.relative:
        against = " of the baseline's"
    elif certificate.fidelity.baseline == 1:
        against = " to the baseline"
    return (
        f": {gate.metric} at least {gate.value:.4f}{against} (95%) on {gate.sample_rows} sample rows, "
        f"gate {gate.threshold:g}; {invariant}"
    )


def _speed(run: RunRecord) -> str:
    text = f"{run.rows_per_second or 0.0:,.1f} rows/s over {run.seconds:.1f} s"
    if run.startup_seconds is not None:
        text += f", first fragment after {run.startup_seconds:.1f} s"
    if run.steady_rows_per_second:
        text += f", then {run.steady_rows_per_second:,.1f} rows/s"
    return text


def _time(time: Breakdown | None) -> list[str]:
    """Say where the time went, and what would help."""
    if time is None:
        return []
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in time.replica_seconds.items())
    start = ", ".join(f"{name} {seconds:.1f}" for name, seconds in time.startup_seconds.items())
    busy = "" if time.model_share is None else f"; the model was busy {time.model_share:.0%} of it"
    return [
        f"  time        replicas: {parts} s{busy}",
        f"              start-up: {start} s",
        f"              {time.advice}",
    ]


def _drift(drift: Drift | None) -> list[str]:
    """Say what moved since the reference."""
    if drift is None:
        return []
    from optinfer.records.drift import drift_lines

    return [f"{'  watch' if at == 0 else '':<14}{line}" for at, line in enumerate(drift_lines(drift))]


def _forecast_error(told: Compared | None, run_seconds: float) -> list[str]:
    """Say how far off the forecast was, where there was one."""
    if told is None or told.seconds is None or told.error_percent is None:
        return []
    seconds, cost = told.actual.seconds, told.actual.cost
    since = " after the proof" if seconds < run_seconds - 1 else ""
    paid = "" if cost is None else f"; it cost {cost:.4g}"
    return [f"{expected(told)}{since}, it took {duration(seconds)} ({told.error_percent:+.0f}%){paid}"]


def mlflow_text(mlflow: MlflowRun | None) -> str:
    if mlflow is None:
        return "nothing is recorded there"
    where = f"run {mlflow.run_id} in experiment {mlflow.experiment} at {mlflow.uri}"
    return f"{where}; {mlflow.warning}" if mlflow.warning else where


def plan_text(plan: Preview) -> str:
    apart = ("placement", "forecast", "warnings")
    lines = [f"{key:<12} {value}" for key, value in plan.as_dict().items() if key not in apart]
    placement = plan.placement[0]
    lines.append(f"{'placement':<12} {placement.replicas} replicas on {placement.device}")
    lines += [f"{'':<12} {reason}" for reason in placement.reasons]
    said = _forecast(plan.forecast)
    lines += [f"{label:<12} {line}" for label, line in zip(("forecast", ""), said, strict=False)]
    lines += [f"warning: {line}" for line in plan.warnings]
    return "\n".join(lines)


def _forecast(told: Forecast) -> list[str]:
    if told.seconds is None or told.rows_per_second is None:
        return [told.basis]
    nodes = "a node" if told.nodes == 1 else f"{told.nodes} nodes"
    price = "" if told.cost is None else f", {_costs(told)} for {nodes}"
    return [f"{expected(told)} (likely {told.rows_per_second:,.1f} rows/s){price}", told.basis]


def expected(told: Forecast) -> str:
    """Say between what a run's time is expected to be; one number where an earlier version gave one, or both agree."""
    likely = duration(told.seconds or 0.0)
    if told.low_seconds is None or told.high_seconds is None:
        return likely
    low, high = duration(told.low_seconds), duration(told.high_seconds)
    if low == high:
        return likely
    (number, *unit), (_, *other) = low.split(), high.split()
    return f"{number}-{high}" if unit == other else f"{low} to {high}"


def _costs(told: Forecast) -> str:
    """Say between what its cost is expected to be: it is in proportion to its time."""
    cost = told.cost or 0.0
    if not told.seconds or told.low_seconds is None or told.high_seconds is None:
        return f"{cost:.4g}"
    low, high = (f"{cost * bound / told.seconds:.2g}" for bound in (told.low_seconds, told.high_seconds))
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def variants_text(listing: Sequence[Offer]) -> str:
    width = max(len(v.name) for v in listing)
    return "\n".join(
        f"{v.name:<{width}}  {'available    ' if v.available else 'not available'}  "
        f"{v.about if v.available else v.reason}"
        for v in listing
    )


def optimize_text(record: OptimizeRecord) -> str:
    """Say which variant is best and show all of them."""
    lines = [optimize_table(record), ""]
    lines += [f"not measured: {name}: {reason}" for name, reason in record.skipped.items()]
    lines += [f"does not pass: {c.variant}: {c.reason}" for c in record.candidates if not c.passed]
    winner = record.winner
    lines.append(
        f"fastest that passes: {winner}; `variant: {winner}` scores with it" if winner else "no variant passes the gate"
    )
    if record.registered:
        lines.append(f"registered: {record.registered.uri or f'no: {record.registered.error}'}")
    if record.plot:
        lines.append(f"plot: {record.plot}")
    lines.append(f"mlflow: {mlflow_text(record.mlflow)}")
    return "\n".join(lines)


def optimize_table(record: OptimizeRecord) -> str:
    """Return the comparison as a Markdown table: those that pass by speed, then the others; `*`: the Pareto front."""
    metric = record.metric + (f" of `{record.label}`" if record.label else "")
    speedup, quality = f"x {record.baseline}", f"{metric} [95%]"
    head = ("variant", "passes", "rows/s", speedup, quality, "any batch", "runs as", "MB", "RAM MB", "build s")
    rows = [_optimize_row(candidate, record.pareto) for candidate in record.candidates]
    return markdown_table(head, rows)


def _optimize_row(candidate: Candidate, front: Sequence[str]) -> tuple[str, ...]:
    certificate = candidate.certificate
    fidelity, low_high = certificate.fidelity, certificate.rows_per_second_range
    return (
        f"`{candidate.variant}`{' *' if candidate.variant in front else ''}",
        "yes" if candidate.passed else "no",
        f"{certificate.rows_per_second:.1f} ({low_high[0]:.1f}-{low_high[1]:.1f})",
        f"{candidate.speedup:.2f}" if candidate.speedup else "",
        f"{fidelity.value:.4f} [{fidelity.ci_low:.4f}, {fidelity.ci_high:.4f}]",
        "same answer" if certificate.batch_invariant else f"differs by {certificate.largest_difference:.2g}",
        ", ".join(certificate.executed["precisions"]),
        f"{certificate.artifact_mb:.0f}",
        f"{certificate.peak_rss_mb:.0f}",
        f"{certificate.build_seconds:.0f}",
    )


def tune_text(record: TuneRecord) -> str:
    """Say what won, against what, and where it is kept."""
    winner, sample = record.winner, record.sample
    lines = [tune_table(record), ""]
    lines += [f"left out: {name}: {reason}" for name, reason in record.left_out.items()]
    failed = [t for t in record.trials if t.reason]
    lines += [f"failed: {t.point}: {t.reason}" for t in failed]
    own = f", of which {record.trials_earlier} were measured earlier" if record.trials_earlier else ""
    lines.append(f"tried {len(record.trials)} of {len(record.space.points)} settings{own}")
    lines.append(f"sample: {sample.rows} rows{_lengths(sample)}")
    lines.append(_tune_verdict(record))
    lines.append(f"kept in {record.record}: jobs with this model, machine, gate and like lengths use it from now on")
    if winner.max_batch_tokens == winner.max_batch_size == 0:
        lines.append(f"its {record.budget} is the default")
    if record.plot:
        lines.append(f"plot: {record.plot}")
    lines.append(f"mlflow: {mlflow_text(record.mlflow)}")
    return "\n".join(lines)


def tune_table(record: TuneRecord) -> str:
    """Return what met in the last rounds as a Markdown table, fastest first."""
    head = ("variant", record.budget, "replicas x threads", "rows/s of the node", "")
    rows: list[tuple[str, ...]] = []
    for finalist in sorted(record.finalists, key=lambda f: -sum(f.rows_per_second) / len(f.rows_per_second)):
        point, rates = finalist.point, sorted(finalist.rows_per_second)
        rows.append(
            (
                f"`{point.variant}`",
                str(point.budget),
                f"{point.replicas} x {point.threads}",
                f"{rates[len(rates) // 2]:.1f} ({rates[0]:.1f}-{rates[-1]:.1f})",
                "default" if point == record.default else "",
            )
        )
    return markdown_table(head, rows)


def _tune_verdict(record: TuneRecord) -> str:
    winner = record.winner
    best, base = winner.rows_per_second, winner.default_rows_per_second
    what = f"{winner.variant}, {winner.replicas} replicas of {winner.threads_per_replica} threads"
    if base is None:
        return f"best: {what}: {best:.1f} rows/s; the default could not run"
    if best == base:
        return f"the default stays: nothing beats {what} by more than the spread"
    return f"best: {what}: {best:.1f} rows/s, {best / base:.2f} times the default's {base:.1f}"


def _lengths(sample: TuningSample) -> str:
    ours, table = vars(sample.lengths), vars(sample.table_lengths)
    if not sample.lengths.mean:
        return ""
    pairs = ", ".join(f"{name} {ours[name]:.0f} ({table[name]:.0f})" for name in ours)
    return f", tokens a row (in a larger draw): {pairs}"


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table whose columns line up as plain text, too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def doctor_text(checks: Sequence[Check]) -> str:
    return "\n".join(f"{'ok ' if c.ok else 'FIX'}  {c.name:<14} {c.detail}" for c in checks)


def status_text(status: Status) -> str:
    lines = [f"{key:<20} {value}" for key, value in vars(status).items() if key != "damage"]
    damage = [f"{'' if i else 'damage':<20} {line}" for i, line in enumerate(status.damage)]
    fix = "`optinfer run` with the same job scores what is missing again" if damage else ""
    return "\n".join([*lines, *damage, *([f"{'':<20} {fix}"] if fix else [])])


def history_text(history: History) -> str:
    """Return a job's runs as a table, newest first, and what ended those that were not done."""
    head = ("when", "status", "variant", "rows", "rows/s", "took", "forecast", "quarantined", "cost", "run")
    lines = [markdown_table(head, [_past_run(run) for run in history.runs])] if history.runs else ["no run is known"]
    lines += [f"{run.run_id} {run.status}: {run.error}" for run in history.runs if run.error]
    lines += [f"note: {note}" for note in history.notes]
    return "\n".join([*lines, *([f"home: {history.home}"] if "://" in history.home else [])])


def _past_run(run: PastRun) -> tuple[str, ...]:
    foretold, error = run.forecast_seconds, run.forecast_error_percent
    return (
        strftime("%Y-%m-%d %H:%M", localtime(run.started)),
        run.status,
        run.variant,
        f"{run.rows:,}",
        f"{run.rows_per_second:,.1f}",
        duration(run.seconds),
        "" if foretold is None else duration(foretold) + ("" if error is None else f" ({error:+.0f}%)"),
        f"{run.quarantined:,}",
        "" if run.cost is None else f"{run.cost:.4g}",
        run.run_id,
    )


def sync_text(record: SyncRecord) -> str:
    """Say of each journal what became of it."""
    if not record.runs:
        return "no journal is here"
    rows = [
        (run.run_id or run.journal, run.status, run.reason or f"{run.mlflow_run_id} in {run.experiment} at {run.uri}")
        for run in record.runs
    ]
    return markdown_table(("run", "status", "mlflow"), rows)


def table_text(record: TableRecord) -> str:
    """Say what a table holds, and what it does not."""
    columns = ", ".join(f"{name} {kind}" for name, kind in record.columns.items())
    lines = [
        f"{record.rows:,} rows of {record.files:,} files ({record.kind}) in {record.table}",
        f"  columns     {columns}",
        f"  size        {record.bytes / 1e6:,.1f} MB, {record.row_groups:,} row groups, in {duration(record.seconds)}",
    ]
    most = sorted(record.labels.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(most) - 8:,} more" if len(most) > 8 else ""
    lines += [f"  labels      {', '.join(f'{name} {rows:,}' for name, rows in most[:8])}{more}"] if most else []
    lines += [f"  found out   {said}" for said in record.said]
    lines += [f"  left out    {len(record.left_out):,} files of other kinds or hidden"] if record.left_out else []
    lines += [f"  bad files   {len(record.bad_files):,}, named above"] if record.bad_files else []
    return "\n".join(lines)


def draft_text(draft: Draft) -> str:
    """Say what was found out, and what comes next."""
    lines = [f"{draft.job} scores {draft.rows:,} rows"]
    lines += [f"  {one.key:<15} {one.value}: {one.why}" for one in draft.findings]
    return "\n".join([*lines, f"next: optinfer plan {draft.job}"])
