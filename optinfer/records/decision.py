"""What `compare` answers: two models on the same rows, and what that allows to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optinfer.records.model_version import ModelVersion
from optinfer.records.record import Record
from optinfer.records.run import MlflowRun


@dataclass(frozen=True, kw_only=True)
class Side(Record):
    """One of the two.

    Attributes:
        name: what tells it from the other: a variant, or a model.
        version: of a registered model; None where it is none.
        value: the metric on these rows; None without labels.
        unanswered: rows that it has no answer for; they count as wrong.
        rows_per_second: of one replica on one thread, both scoring these rows in turns.
        micro_batch_ms: percentile (`p50`, `p95`, `p99`) -> milliseconds of a micro-batch.
        peak_rss_mb, artifact_mb: as its certificate has them.
        cost_per_million_rows: None where the job names no price.
    """

    name: str
    model: str
    variant: str
    artifact: str
    value: float | None
    unanswered: int
    rows_per_second: float
    micro_batch_ms: Mapping[str, float]
    peak_rss_mb: float
    artifact_mb: float
    cost_per_million_rows: float | None
    version: ModelVersion | None = None


@dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """A measured value with its two-sided interval."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """How far the two say the same; that is no quality: both may be wrong.

    Attributes:
        metric: `same answer` (share of rows), `cosine` (mean), `r2` (of numbers).
        low, high: its 95% interval; None where there is none.
        differing: rows whose answers differ; None where answers are numbers, which always do a little.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    differing: int | None


@dataclass(frozen=True, kw_only=True)
class Differing(Record):
    """A row to look at.

    Attributes:
        row: its carried columns.
        closeness: of the two outputs: cosine of vectors, else minus the distance of numbers.
    """

    row: Mapping[str, str]
    champion: str
    challenger: str
    label: str | None
    closeness: float


@dataclass(frozen=True, kw_only=True)
class Slice(Record):
    """The rows with one value of a column.

    Attributes:
        difference: its interval is widened so that all slices' hold together.
        p_value: exact, adjusted for the number of slices (Holm); None for a metric that has no exact test.
    """

    column: str
    value: str
    rows: int
    champion: float
    challenger: float
    difference: Interval
    verdict: str
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class CompareRecord(Record):
    """A comparison.

    Attributes:
        metric: that the verdict is about; None without labels.
        difference: challenger minus champion; None without labels.
        margin: a loss up to this is none.
        verdict: `better`, `not worse`, `worse` or `cannot tell`.
        more_rows: about so many would tell; None where it is decided, or where no number of rows would.
        p_value: of no difference (exact McNemar); None for a metric that has no exact test.
        slices_left_out: values of the columns that are too many to be listed.
    """

    status: str = "done"
    run_id: str
    job: str
    rows: int
    label: str | None
    metric: str | None
    champion: Side
    challenger: Side
    difference: Interval | None
    margin: float
    verdict: str
    reason: str
    more_rows: int | None
    p_value: float | None
    agreement: Agreement
    differing: tuple[Differing, ...]
    slices: tuple[Slice, ...]
    slices_left_out: int
    journal: str = ""
    plot: str | None = None
    mlflow: MlflowRun | None = None
