"""What was proved of a variant: its answers held against others, what really ran, how fast, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from optinfer.records.canary import Canaries
from optinfer.records.record import Record, plain


@dataclass(frozen=True, kw_only=True)
class Reference(Record):
    """The answers of the library that a model came from, held against ours.

    Attributes:
        library, version: whose answers they are; empty where no other library reads this model, or it is not installed.
        rows: how many were compared.
        largest_difference: of any number in a finished row, as a share of the largest; None where nobody compared.
        tolerance: what it may be: rounding, and no more.
        note: why nobody compared, or in what the two differ most.
    """

    library: str = ""
    version: str = ""
    rows: int = 0
    largest_difference: float | None = None
    tolerance: float = 0.0
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Tell whether nothing speaks against our answers; also where nobody compared."""
        return self.largest_difference is None or self.largest_difference <= self.tolerance

    @property
    def said(self) -> str:
        """Say in a line who compared what."""
        if self.largest_difference is None:
            return f"the baseline was held against no other library: {self.note}"
        differ = f"{self.rows} rows differ by at most {self.largest_difference:.2g} (tolerance {self.tolerance:.1g})"
        return f"the baseline was held against {self.library} {self.version}: {differ}"


@with_config(ConfigDict(extra="allow"))
class Executed(TypedDict):
    """What really ran, read back from the runtime; a backend may say more beside it.

    `precisions` counts what multiplies matrices (compute nodes, or parameters) by precision.
    """

    backend: str
    version: str
    device: str
    precisions: Mapping[str, int]


@dataclass(frozen=True)
class Fidelity(Record):
    """How good a variant's answers are on the sample.

    Attributes:
        outputs: the model's outputs that were compared.
        value: the metric; `ci_low` and `ci_high` are its 95% interval.
        worst: the lowest row's value, or None for a metric of the whole sample.
        baseline: the same metric of the baseline: 1 where its own answers are the truth.
        relative: `value` as a share of `baseline`; `relative_low` is its lower 95% bound.
    """

    metric: str
    outputs: tuple[str, ...]
    value: float
    ci_low: float
    ci_high: float
    worst: float | None
    baseline: float
    relative: float
    relative_low: float
    rows: int


@dataclass(frozen=True)
class GateResult(Record):
    """The verdict; `value` is the bound that must reach `threshold`: a share of the baseline where `relative`."""

    metric: str
    value: float
    threshold: float
    relative: bool
    passed: bool
    sample_rows: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Certificate(Record):
    """What was measured of one artifact on one sample. Seconds, megabytes, rows per second of one replica.

    Attributes:
        reference: how the baseline, which `fidelity` compares with, was held against the model's own library.
        mismatch: how what the runtime says it executed differs from what was asked for; empty where it does not.
        rows_per_second_range: slowest and fastest part of the sample.
        peak_rss_mb: most memory of a process that does nothing else but load and score.
        gpu_memory_mb: what it took of a GPU's `gpu_total_mb`; zeros on a CPU.
        row_seconds: of making a row ready and finishing it, on average; None in those of before.
        start_seconds: of the process that it was measured in, from its start to that of loading; None in those of
            before, and where it was measured in a process that did something else first.
        canaries: what every replica has to answer as it was answered here; None in those of before.
    """

    variant: str
    artifact: str
    sample: str
    precision: str
    device: str
    reference: Reference
    fidelity: Fidelity
    batch_invariant: bool
    largest_difference: float
    invariance: Mapping[str, float]
    executed: Executed
    mismatch: str
    rows_per_second: float
    rows_per_second_range: tuple[float, float]
    micro_batches: int
    micro_batch_p50_ms: float
    micro_batch_p99_ms: float
    padding_fraction: float
    threads: int
    peak_rss_mb: float
    gpu_memory_mb: float
    gpu_total_mb: float
    artifact_mb: float
    build_seconds: float
    load_seconds: float
    notes: tuple[str, ...]
    measured_at: str
    canaries: Canaries | None = None
    row_seconds: float | None = None
    start_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as records and trackers have it: without the rows of the job's table that it keeps."""
        told = super().as_dict()
        del told["canaries"]
        for later in ("row_seconds", "start_seconds"):
            if told[later] is None:
                del told[later]
        return told if self.canaries is None else {**told, "canaries": self.canaries.summary}

    def whole(self) -> dict[str, Any]:
        """Return it as it is kept, with these rows."""
        return {**self.as_dict(), "canaries": plain(self.canaries)}
