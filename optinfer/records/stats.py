"""Summable measurements: a fragment's, a replica's, a job's are the same type, and `a + b` is their sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_BUCKET = math.log(1.02)  # latency buckets 2% wide: percentiles within 1%, memory independent of the number of rows


@dataclass
class Latencies:
    """A histogram of seconds with logarithmic buckets."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        self.buckets[math.floor(math.log(max(seconds, 1e-9)) / _BUCKET)] += 1

    def counted(self) -> Iterator[tuple[float, int]]:
        """Yield the seconds in the middle of each bucket, with how many were measured there."""
        for bucket, count in self.buckets.items():
            yield _middle(bucket), count

    def percentile(self, q: float) -> float:
        """Return the q-th percentile (0-100) in seconds; 0 where nothing was measured."""
        rank, seen = q / 100 * sum(self.buckets.values()), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return _middle(bucket)
        return 0.0

    def __add__(self, other: Latencies) -> Latencies:
        return Latencies(self.buckets + other.buckets)


def _middle(bucket: int) -> float:
    return math.exp((bucket + 0.5) * _BUCKET)


@dataclass
class Stats:
    """What scoring some rows took. Times are seconds of a replica.

    Attributes:
        rows_deduplicated: rows that took an identical row's answer, or its reason; tokens are those the model saw.
        out_of_memory: how often memory did not suffice for a micro-batch, or for a row alone.
        watch_seconds: of measuring what is kept of rows and answers.
        preprocess_seconds: rows to inputs; on a device, of collating only what the model had to wait for.
    """

    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_deduplicated: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    bytes_out: int = 0
    micro_batches: int = 0
    out_of_memory: int = 0
    read_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    wait_seconds: float = 0.0
    infer_seconds: float = 0.0
    postprocess_seconds: float = 0.0
    commit_seconds: float = 0.0
    watch_seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def padding_fraction(self) -> float:
        """Share of the tokens the model saw that were padding; 0 where rows have no lengths, so none is padded."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "latencies": {str(k): v for k, v in self.latencies.buckets.items()}}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Stats:
        buckets = Counter({int(k): int(v) for k, v in raw["latencies"].items()})
        return cls(**{**raw, "latencies": Latencies(buckets)})
