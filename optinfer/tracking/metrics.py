"""Every metric's name, with the one meaning that it has in whatever run carries it; docs/monitoring.md lists them.

What a metric is of stands before its slash: a whole job with its start-up, one node with all its replicas at work, one
replica alone on the sample. So jobs, variants and trials that are selected together in MLflow compare like with like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A value that is None is not known, and not recorded.
Measured = Mapping["Metric", float | None]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        of: the commands whose runs have it.
        before: what it was called in journals and MLflow runs of before, where these are read back.
    """

    name: str
    about: str
    of: str
    before: str = ""

    def read(self, metrics: Mapping[str, float]) -> float | None:
        """Return its value, by its name of now or of before; None where it is not there."""
        return metrics.get(self.name, metrics.get(self.before))


_RUN, _OPTIMIZE, _TUNE, _COMPARE = "run", "optimize", "tune", "compare"
_VARIANTS = f"{_RUN}, {_OPTIMIZE}, {_TUNE}"

ROWS = Metric("job/rows", "rows accounted for, scored or not, those of earlier attempts included", _RUN, "rows_in")
QUARANTINED = Metric("job/rows_quarantined", "those of them without an answer", _RUN, "rows_quarantined")
SECONDS = Metric("job/seconds", "from the command to its end", _RUN, "seconds")
STARTUP = Metric("job/startup_seconds", "from the command to the first committed fragment", _RUN)
SPEED = Metric("job/rows_per_second", "rows scored in this attempt by `job/seconds`", _RUN, "rows_per_second")
COST = Metric("job/cost", "what it cost, by `placement.cost_per_hour`", _RUN, "cost")
FORECAST_ERROR = Metric(
    "job/forecast_error_percent", "how far the forecast was above (+) or below (-) what it took", _RUN,
    "forecast.error_percent",
)  # fmt: skip
NODE_SPEED = Metric(
    "node/rows_per_second", "all replicas of a node side by side, once loaded; of several nodes on average",
    f"{_RUN}, {_TUNE}",
)  # fmt: skip
REPLICA_SPEED = Metric(
    "replica/rows_per_second", "one replica, alone, on the sample", f"{_VARIANTS}, {_COMPARE}"
)  # fmt: skip
REPLICA_P50 = Metric("replica/micro_batch_p50_ms", "median of its micro-batches", f"{_VARIANTS}, {_COMPARE}")
REPLICA_RSS = Metric("replica/peak_rss_mb", "its most memory", f"{_VARIANTS}, {_COMPARE}")
GATE = Metric("gate/value", "what `gate.min` was held against: the metric's lower 95% bound", _VARIANTS)

# What one looks at first. MLflow sorts some of its pages by name: the others' prefix comes after these.
FIRST = (
    ROWS, QUARANTINED, SPEED, SECONDS, STARTUP, COST, FORECAST_ERROR, NODE_SPEED, REPLICA_SPEED, REPLICA_P50,
    REPLICA_RSS, GATE,
)  # fmt: skip
_ORDER = {metric: at for at, metric in enumerate(FIRST)}

PROGRESS_PERCENT = Metric("progress/percent", "rows committed so far, of all; ends at 100", _RUN)
PROGRESS_ROWS = Metric("progress/rows", "rows committed so far, in this attempt", _RUN)
PROGRESS_SPEED = Metric("progress/rows_per_second", "since the point before", _RUN)


def _rest(name: str, about: str, of: str, before: str = "") -> Metric:
    return Metric(f"stats/{name}", about, of, before)


ROWS_OUT = _rest("rows_out", "rows in the output", _RUN)
DEDUPLICATED = _rest("rows_deduplicated", "rows that took an identical row's answer", _RUN)
FRAGMENTS = _rest("fragments", "of the table", _RUN)
RESUMED = _rest("fragments_resumed", "those that an earlier attempt committed", _RUN, "fragments_resumed")
SCORED_AGAIN = _rest("fragments_scored_again", "those that were lost and scored again", _RUN)
OUT_OF_MEMORY = _rest("out_of_memory", "micro-batches that memory did not suffice for", _RUN)
STEADY = _rest("steady_rows_per_second", "all replicas of all nodes, once loaded", _RUN)
TOKENS = _rest("tokens_per_second", "tokens of the rows scored, by `job/seconds`", _RUN)
MODEL_SHARE = _rest("model_share", "share of the loaded replicas' time inside the model", _RUN)
DRIVER_RSS = _rest("driver_peak_rss_mb", "most memory of the command's own process", _RUN)
FORECAST_SECONDS = _rest("forecast.seconds", "what was foretold", _RUN, "forecast.seconds")
DRIFT_FINDINGS = _rest("drift.findings", "things that moved since the reference", _RUN)
DRIFT_SHARE = _rest("drift.share_of_time", "what watching took of the replicas' time", _RUN)
FORECAST_LOW = _rest("forecast.low_seconds", "lower end of what was foretold", _RUN)
FORECAST_HIGH = _rest("forecast.high_seconds", "upper end of what was foretold", _RUN)
FORECAST_SPEED = _rest("forecast.rows_per_second", "what was foretold", _RUN)
FORECAST_COST = _rest("forecast.cost", "what was foretold", _RUN, "forecast.cost")
PARTS = {
    part: _rest(f"seconds.{part}", f"seconds of all replicas: {about}", _RUN)
    for part, about in {
        "read": "reading", "preprocess": "rows to inputs", "wait": "a fragment's wait for the model",
        "infer": "the model", "postprocess": "outputs to columns", "commit": "putting the output's files",
    }.items()
}  # fmt: skip
STEPS = {
    step: _rest(f"startup_seconds.{step.replace(' ', '_')}", f"seconds until {about}", _RUN)
    for step, about in {
        "prepare": "the variant was proved", "ray": "Ray was there", "actors": "a replica began to load",
        "load": "it had loaded", "first fragment": "the first fragment was committed",
    }.items()
}  # fmt: skip

_AT_WORK = f"{_RUN}, {_TUNE}"
BATCH_MS = {
    q: _rest(f"micro_batch_ms.p{q}", "percentile of all micro-batches, replicas side by side", _AT_WORK)
    for q in (50, 95, 99)
}
PADDING = _rest("padding_fraction", "share of the model's tokens that were padding", _AT_WORK)
RSS = _rest("replica_peak_rss_mb", "most memory of one replica, at work beside others", _AT_WORK)

_PROVED = f"{_RUN}, {_OPTIMIZE}"
REPLICA_LOW = _rest("replica_rows_per_second.low", "of the slowest part of the sample", _PROVED)
REPLICA_HIGH = _rest("replica_rows_per_second.high", "of the fastest part of the sample", _PROVED)
REPLICA_P99 = _rest("replica_micro_batch_ms.p99", "99th percentile of a replica alone", f"{_PROVED}, {_COMPARE}")
REPLICA_P95 = _rest("replica_micro_batch_ms.p95", "95th percentile of a replica alone", _COMPARE)
FIDELITY = _rest("fidelity", "the gate's metric, as measured", _PROVED)
FIDELITY_LOW = _rest("fidelity.ci_low", "lower end of its 95% interval", _PROVED)
FIDELITY_HIGH = _rest("fidelity.ci_high", "upper end of its 95% interval", _PROVED)
FIDELITY_RELATIVE = _rest("fidelity.relative", "as a share of the baseline's", _PROVED)
FIDELITY_WORST = _rest("fidelity.worst", "of the worst row", _PROVED)
DIFFERENCE = _rest("largest_difference", "by which a row's answer depends on its neighbours", _PROVED)
ARTIFACT_MB = _rest("artifact_mb", "size of what is loaded", f"{_PROVED}, {_COMPARE}")
BUILD = _rest("build_seconds", "making it", _PROVED)
LOAD = _rest("load_seconds", "loading it", _PROVED)
PASSED = _rest("gate_passed", "1 where the gate let it pass, else 0", _PROVED)

CANDIDATES = _rest("candidates", "variants that were measured", _OPTIMIZE)
CANDIDATES_PASSED = _rest("candidates_passed", "those of them that pass", _OPTIMIZE)

OBJECTIVE = _rest("objective", "what the search went by", _TUNE)
TRIAL_SECONDS = _rest("trial.seconds", "of the trial", _TUNE)
TRIAL_ROWS = _rest("trial.rows", "scored in it", _TUNE)
TRIAL_REJECTED = _rest("trial.rows_rejected", "without an answer", _TUNE)
TRIAL_MEMORY = _rest("trial.memory_mb", "of all replicas", _TUNE)
TRIALS = _rest("trials", "settings that were measured", _TUNE)
DEFAULT_SPEED = _rest("default_rows_per_second", "of a node with the settings that a job would have had", _TUNE)
GAIN = _rest("gain", "the winner's speed over that", _TUNE)
DEVIATION = _rest("sample_deviation", "by which lengths of the sample differ most from the table's", _TUNE)

QUALITY = _rest("quality", "the comparison's metric, of this side", _COMPARE)
UNANSWERED = _rest("unanswered", "rows that it has no answer for", _COMPARE)
COMPARED_ROWS = _rest("compared_rows", "rows that both sides scored", _COMPARE)
AGREEMENT = _rest("agreement", "how far the two sides say the same", _COMPARE)
BETTER_BY = _rest("difference", "quality of the challenger less the champion's", _COMPARE)
BETTER_LOW = _rest("difference.low", "lower end of its interval", _COMPARE)
BETTER_HIGH = _rest("difference.high", "upper end of its interval", _COMPARE)
COST_PER_MILLION = _rest("cost_per_million_rows", "by `placement.cost_per_hour`", _COMPARE)

# All there are, as the documentation lists them.
ALL = (
    *FIRST, PROGRESS_PERCENT, PROGRESS_ROWS, PROGRESS_SPEED, ROWS_OUT, DEDUPLICATED, FRAGMENTS, RESUMED,
    SCORED_AGAIN, OUT_OF_MEMORY, STEADY, TOKENS, MODEL_SHARE, DRIVER_RSS, FORECAST_SECONDS, FORECAST_LOW,
    FORECAST_HIGH, FORECAST_SPEED, FORECAST_COST, DRIFT_FINDINGS, DRIFT_SHARE,
    PADDING, RSS, REPLICA_LOW, REPLICA_HIGH, REPLICA_P99, REPLICA_P95, FIDELITY, FIDELITY_LOW,
    FIDELITY_HIGH, FIDELITY_RELATIVE, FIDELITY_WORST, DIFFERENCE, ARTIFACT_MB, BUILD, LOAD, PASSED, CANDIDATES,
    CANDIDATES_PASSED, OBJECTIVE, TRIAL_SECONDS, TRIAL_ROWS, TRIAL_REJECTED, TRIAL_MEMORY, TRIALS,
    DEFAULT_SPEED, GAIN, DEVIATION, QUALITY, UNANSWERED, COMPARED_ROWS, AGREEMENT, BETTER_BY, BETTER_LOW,
    BETTER_HIGH, COST_PER_MILLION, *PARTS.values(), *STEPS.values(), *BATCH_MS.values(),
)  # fmt: skip


def named(measured: Measured) -> dict[str, float]:
    """Return what is known, by name, as journals and MLflow have it: its pages show the first of them first."""
    ordered = sorted(measured, key=lambda metric: _ORDER.get(metric, len(_ORDER)))
    return {metric.name: float(value) for metric in ordered if (value := measured[metric]) is not None}
