"""compare(config, challenger): two models on the same rows, and a decision that one can defend."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from optinfer.commands.compared import Question, decided
from optinfer.commands.readiness import require_places
from optinfer.commands.rivals import Rival, rivals, tables
from optinfer.commands.tracked import command_begun
from optinfer.commands.turns import take_turns
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.records.decision import CompareRecord, Side
from optinfer.records.decision_text import compare_table
from optinfer.tracking import metrics
from optinfer.tracking.events import Finished
from optinfer.tracking.recorder import new_run_id, recorder_of


def compare(
    config: JobConfig,
    challenger: str,
    by: Sequence[str] = (),
    margin: float = 0.01,
    rows: int | None = 2000,
    say: Callable[[str], None] = lambda line: None,
) -> CompareRecord:
    """Score the same rows with a job's variant and with a challenger, and return what `compare --json` prints.

    Nothing is written to the job's sink.

    Args:
        challenger: a variant of the job's model, or another model: its path, or an address of MLflow's.
        by: source columns by whose values the rows are looked at apart, too.
        margin: a loss up to this is none, in the metric's own units.
        rows: how many are drawn; None takes all.

    Raises:
        ConfigError: the two cannot be compared.
        GateError: one has no variant that passes its gate.
    """
    require_places()
    one, other = rivals(config, challenger, say)
    label = config.gate.label
    labels = [label] if label else []
    read = list(dict.fromkeys(name for side in (one, other) for name in side.job.config.source.columns_read))
    never_null = [*labels, *([] if one.job.subject.family.takes_nulls else read)]
    kept = list(dict.fromkeys([*config.sink.columns, *by, *labels]))
    _require_columns(one, by)
    run_id = new_run_id()
    with recorder_of(config.tracking, run_id, say) as recorder:
        params = {"champion": one.name, "challenger": other.name, "margin": margin}
        recorder.event(command_begun(one.job, run_id, "compare", "meets a challenger on the same rows", params))
        parts = tables(one.job, list(dict.fromkeys([*read, *kept])), never_null, rows)
        both = take_turns(one, other, parts, kept, say)
        record = decided(Question(one, other, both, label, margin), run_id, by)
        for side in (record.champion, record.challenger):
            recorder.child(side.name, {"variant": side.variant, "model": side.model}, _metrics(side))
        record = replace(record, journal=str(recorder.journal.path))
        return replace(record, mlflow=recorder.finish(_finished(record)))


def _require_columns(champion: Rival, by: Sequence[str]) -> None:
    names = champion.job.plan.schema.names
    for column in by:
        if column not in names:
            raise ConfigError(f"--by: the table has no column {column!r}; it has {', '.join(names)}")


def _metrics(side: Side) -> dict[str, float]:
    return metrics.named(
        {
            metrics.REPLICA_SPEED: side.rows_per_second,
            metrics.REPLICA_RSS: side.peak_rss_mb,
            metrics.REPLICA_P50: side.micro_batch_ms["p50"],
            metrics.REPLICA_P95: side.micro_batch_ms["p95"],
            metrics.REPLICA_P99: side.micro_batch_ms["p99"],
            metrics.ARTIFACT_MB: side.artifact_mb,
            metrics.UNANSWERED: side.unanswered,
            metrics.QUALITY: side.value,
            metrics.COST_PER_MILLION: side.cost_per_million_rows,
        }
    )


def _finished(record: CompareRecord) -> Finished:
    found: dict[metrics.Metric, float | None] = {
        metrics.COMPARED_ROWS: record.rows,
        metrics.AGREEMENT: record.agreement.value,
    }
    if record.difference:
        found |= {
            metrics.BETTER_BY: record.difference.value,
            metrics.BETTER_LOW: record.difference.low,
            metrics.BETTER_HIGH: record.difference.high,
        }
    return Finished(
        metrics=metrics.named(found),
        note=f"**{record.verdict}**: {record.reason}\n\n{compare_table(record)}",
        tags={"optinfer.verdict": record.verdict, "optinfer.reason": record.reason},
        artifacts={
            "table.md": compare_table(record),
            "record.json": json.dumps(record.as_dict(), indent=1, default=str),
        },
    )
