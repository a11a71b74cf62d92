"""What `tune` found for one model on one kind of node, and the lengths of the rows it was found with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from optinfer.records.record import Record, decoded, plain
from optinfer.records.run import MlflowRun
from optinfer.system.machine import installed


@dataclass(frozen=True, kw_only=True)
class Lengths(Record):
    """Tokens a row takes, as quantiles; all 0 where rows have no lengths."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, lengths: np.ndarray[Any, Any] | None) -> Lengths:
        if lengths is None or not len(lengths):
            return cls()
        p50, p90, p99 = (float(q) for q in np.percentile(lengths, [50, 90, 99]))
        return cls(mean=float(lengths.mean()), p50=p50, p90=p90, p99=p99)

    @property
    def bucket(self) -> tuple[int, int]:
        """Where mean and p90 lie, in half octaves."""
        mean, p90 = (round(2 * math.log2(max(value, 1.0))) for value in (self.mean, self.p90))
        return mean, p90


NO_LENGTHS = Lengths()


@dataclass(frozen=True, kw_only=True)
class NodeKind(Record):
    """What of a node the speed of its replicas depends on.

    Attributes:
        cpu_features: instruction sets, as the kernel names them.
        cpus: those that its replicas share.
        gpu: name and driver; empty without one.
    """

    cpu_features: tuple[str, ...]
    cpus: int
    gpus: int = 0
    gpu: str = ""

    def __str__(self) -> str:
        gpus = f", {self.gpus} x {self.gpu}" if self.gpus else ""
        return f"{self.cpus} CPUs ({' '.join(self.cpu_features) or 'no instruction sets told'}){gpus}"


@dataclass(frozen=True, kw_only=True)
class Tuned(Record):
    """The best settings of one model on one kind of node, and what they gave.

    Attributes:
        max_batch_tokens, max_batch_size: 0 leaves the backend's or the family's own.
        replicas: on one node.
        rows_per_second: of the node; `peak_rss_mb` of one replica.
        default_rows_per_second: of the defaults, measured beside it; None where they could not run.
        versions: packages that the speed depends on.
        node: the kind of node that it was measured on; None in those of before.
    """

    variant: str
    max_batch_tokens: int
    max_batch_size: int
    replicas: int
    threads_per_replica: int
    rows_per_second: float
    default_rows_per_second: float | None
    peak_rss_mb: float
    lengths: Lengths
    measured_at: str
    versions: dict[str, str]
    node: NodeKind | None = None

    @property
    def stale(self) -> str:
        """Say how the packages it was measured with differ from those here; nothing where they do not."""
        changed = [
            f"{name} {was}, here {installed(name)}" for name, was in self.versions.items() if installed(name) != was
        ]
        return ", ".join(changed)


@dataclass(frozen=True, kw_only=True)
class NodeSpeed(Record):
    """What the replicas of a node did together.

    Attributes:
        rows_per_second: all rows by the time from the common start to the last replica's end.
        peak_rss_mb: most memory of one replica; `memory_mb` is the sum of all.
    """

    rows_per_second: float
    seconds: float
    rows: int
    rows_rejected: int
    peak_rss_mb: float
    memory_mb: float
    micro_batches: int
    micro_batch_p50_ms: float
    micro_batch_p99_ms: float
    padding_fraction: float


@dataclass(frozen=True, order=True)
class Point(Record):
    """One setting of everything that is searched; `budget` is the micro-batch's limit, in tokens or in rows."""

    variant: str
    budget: int
    replicas: int
    threads: int

    def __str__(self) -> str:
        return f"{self.variant}, micro-batch {self.budget}, {self.replicas} x {self.threads} threads"


@dataclass(frozen=True)
class Space(Record):
    """What may be tried: the points are all combinations. `layouts` holds (replicas, threads of each)."""

    variants: tuple[str, ...]
    budgets: tuple[int, ...]
    layouts: tuple[tuple[int, int], ...]

    @property
    def points(self) -> list[Point]:
        return [Point(v, b, r, t) for v, b, (r, t) in product(self.variants, self.budgets, self.layouts)]


@dataclass(frozen=True)
class Outcome(Record):
    """A trial that ended; `value` is None for one that failed, with the `reason`.

    Attributes:
        excess_mb: memory above what is allowed; above 0 the point can be no winner.
        measured: None, and empty in JSON, where the trial failed.
    """

    point: Point
    value: float | None = None
    reason: str = ""
    excess_mb: float = 0.0
    measured: NodeSpeed | None = None

    @property
    def valid(self) -> bool:
        return self.value is not None and self.excess_mb <= 0

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "measured": plain(self.measured) or {}}

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Outcome:
        """Return the outcome that plain values describe.

        Raises:
            ValueError: they are none.
        """
        return decoded(cls, {**raw, "measured": raw.get("measured") or None})


@dataclass(frozen=True, kw_only=True)
class TuningSample(Record):
    """The rows that every trial scored, and how their lengths compare with those of a larger, separate draw."""

    rows: int
    digest: str
    lengths: Lengths
    table_lengths: Lengths
    largest_deviation: float


@dataclass(frozen=True, kw_only=True)
class Finalist(Record):
    """A point that met the others again; `rows_per_second` of the node, by round."""

    point: Point
    rows_per_second: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**self.point.as_dict(), "rows_per_second": list(self.rows_per_second)}


@dataclass(frozen=True, kw_only=True)
class TuneRecord(Record):
    """What `tune` answers.

    Attributes:
        budget: the key of the micro-batch's limit that was searched.
        trials_earlier: how many of `trials` an earlier search had measured.
        left_out: variant -> why it was not searched.
        record: file with the winner, which later jobs use.
    """

    status: str = "done"
    run_id: str
    job: str
    model: str
    objective: str
    budget: str
    sample: TuningSample
    memory_mb: float
    space: Space
    trials: tuple[Outcome, ...]
    default: Point
    finalists: tuple[Finalist, ...]
    winner: Tuned
    trials_earlier: int = 0
    left_out: Mapping[str, str]
    record: str
    journal: str
    plot: str | None = None
    mlflow: MlflowRun | None = None

    def as_dict(self) -> dict[str, Any]:
        told = super().as_dict()
        return {**told, "space": {**told["space"], "points": len(self.space.points)}}
