"""What a run, a variant, a trial measured, under the names that metrics.py gives it."""

from __future__ import annotations

import re

from optinfer.records.comparison import OptimizeRecord
from optinfer.records.drift import Drift
from optinfer.records.proof import Certificate, GateResult
from optinfer.records.run import RunRecord
from optinfer.records.tuning import Outcome, TuneRecord
from optinfer.tracking import metrics
from optinfer.tracking.metrics import Metric, named
from optinfer.tracking.tally import Tally


def of_run(run: RunRecord, tally: Tally, driver_peak_rss_mb: float) -> dict[str, float]:
    """Return what a job's run measured, its variant's proof included."""
    told, parts = run.forecast, run.time
    known: dict[Metric, float | None] = {
        metrics.ROWS: run.rows_in,
        metrics.QUARANTINED: run.rows_quarantined,
        metrics.SECONDS: run.seconds,
        metrics.STARTUP: run.startup_seconds,
        metrics.SPEED: run.rows_per_second,
        metrics.NODE_SPEED: _of_a_node(run),
        metrics.ROWS_OUT: run.rows_out,
        metrics.DEDUPLICATED: run.rows_deduplicated,
        metrics.FRAGMENTS: run.fragments,
        metrics.RESUMED: run.fragments_resumed,
        metrics.SCORED_AGAIN: run.fragments_scored_again,
        metrics.OUT_OF_MEMORY: run.out_of_memory,
        metrics.STEADY: run.steady_rows_per_second,
        metrics.TOKENS: run.tokens_per_second,
        metrics.PADDING: run.padding_fraction,
        metrics.MODEL_SHARE: tally.model_share(),
        metrics.DRIVER_RSS: driver_peak_rss_mb,
        metrics.RSS: tally.replica_peak_rss_mb,
        **{metric: tally.scored.latencies.percentile(q) * 1e3 for q, metric in metrics.BATCH_MS.items()},
    }
    if parts:
        known |= {metrics.PARTS[part]: seconds for part, seconds in parts.replica_seconds.items()}
        known |= {metrics.STEPS[step]: seconds for step, seconds in parts.startup_seconds.items()}
    if told:
        known |= {
            metrics.FORECAST_SECONDS: told.seconds,
            metrics.FORECAST_LOW: told.low_seconds,
            metrics.FORECAST_HIGH: told.high_seconds,
            metrics.FORECAST_SPEED: told.rows_per_second,
            metrics.FORECAST_COST: told.cost,
            metrics.FORECAST_ERROR: told.error_percent,
            metrics.COST: told.actual.cost,
        }
    if run.gate and run.certificate:
        known |= _of_a_variant(run.certificate, run.gate)
    return named(known)


def of_drift(drift: Drift | None) -> dict[str, float]:
    """Return how far each thing that is watched moved, by `stats/drift.<what>.<measure>`, and how many did too far."""
    if drift is None:
        return {}
    moved = {
        # Of a column's name MLflow takes no other characters.
        f"stats/drift.{re.sub(r'[^0-9A-Za-z_. -]', '_', what)}.{name}": measure.value
        for what, measures in drift.watched.items()
        for name, measure in measures.items()
    }
    return {**named({metrics.DRIFT_FINDINGS: len(drift.findings), metrics.DRIFT_SHARE: drift.share}), **moved}


def of_variant(certificate: Certificate, gate: GateResult) -> dict[str, float]:
    """Return what was proved of a variant: the same for one of a comparison and for the one that a job scored with."""
    return named(_of_a_variant(certificate, gate))


def _of_a_variant(certificate: Certificate, gate: GateResult) -> dict[Metric, float | None]:
    fidelity = certificate.fidelity
    return {
        **_of_a_replica(certificate, gate),
        metrics.REPLICA_LOW: certificate.rows_per_second_range[0],
        metrics.REPLICA_HIGH: certificate.rows_per_second_range[1],
        metrics.REPLICA_P99: certificate.micro_batch_p99_ms,
        metrics.FIDELITY: fidelity.value,
        metrics.FIDELITY_LOW: fidelity.ci_low,
        metrics.FIDELITY_HIGH: fidelity.ci_high,
        metrics.FIDELITY_RELATIVE: fidelity.relative,
        metrics.FIDELITY_WORST: fidelity.worst,
        metrics.DIFFERENCE: certificate.largest_difference,
        metrics.ARTIFACT_MB: certificate.artifact_mb,
        metrics.BUILD: certificate.build_seconds,
        metrics.LOAD: certificate.load_seconds,
        metrics.PASSED: float(gate.passed),
    }


def _of_a_replica(certificate: Certificate, gate: GateResult) -> dict[Metric, float | None]:
    return {
        metrics.REPLICA_SPEED: certificate.rows_per_second,
        metrics.REPLICA_P50: certificate.micro_batch_p50_ms,
        metrics.REPLICA_RSS: certificate.peak_rss_mb,
        metrics.GATE: gate.value,
    }


def of_comparison(record: OptimizeRecord) -> dict[str, float]:
    """Return what `optimize` found: of the variant that won, and of how many."""
    winner = next((one for one in record.candidates if one.variant == record.winner), None)
    return named(
        {
            metrics.CANDIDATES: len(record.candidates),
            metrics.CANDIDATES_PASSED: sum(candidate.passed for candidate in record.candidates),
            **(_of_a_replica(winner.certificate, winner.gate) if winner else {}),
        }
    )


def of_trial(outcome: Outcome, certificate: Certificate, gate: GateResult) -> dict[str, float]:
    """Return what a node did with one setting, beside what one replica of the variant does alone."""
    known, measured = _of_a_replica(certificate, gate), outcome.measured
    if measured:
        known |= {
            metrics.NODE_SPEED: measured.rows_per_second,
            metrics.OBJECTIVE: outcome.value,
            metrics.TRIAL_SECONDS: measured.seconds,
            metrics.TRIAL_ROWS: measured.rows,
            metrics.TRIAL_REJECTED: measured.rows_rejected,
            metrics.TRIAL_MEMORY: measured.memory_mb,
            metrics.RSS: measured.peak_rss_mb,
            metrics.BATCH_MS[50]: measured.micro_batch_p50_ms,
            metrics.BATCH_MS[99]: measured.micro_batch_p99_ms,
            metrics.PADDING: measured.padding_fraction,
        }
    return named(known)


def of_tuning(record: TuneRecord) -> dict[str, float]:
    """Return what `tune` found: the speed of a node with what won, and with what a job would have had."""
    winner, default = record.winner, record.winner.default_rows_per_second
    return named(
        {
            metrics.NODE_SPEED: winner.rows_per_second,
            metrics.DEFAULT_SPEED: default,
            metrics.GAIN: winner.rows_per_second / default if default else None,
            metrics.TRIALS: len(record.trials),
            metrics.DEVIATION: record.sample.largest_deviation,
        }
    )


def _of_a_node(run: RunRecord) -> float | None:
    """Return the replicas' speed together, by node; None where nothing tells it."""
    if not run.steady_rows_per_second:
        return None
    return run.steady_rows_per_second / max(sum(rows > 0 for rows in run.rows_by_node.values()), 1)
