"""What `tune` found for one model on one kind of node, and the lengths of the rows it was found with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from optinfer.system.machine import installed


@dataclass(frozen=True, kw_only=True)
class Lengths:
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
class Tuned:
    """The best settings of one model on one kind of node, and what they gave.

    Attributes:
        max_batch_tokens, max_batch_size: 0 leaves the backend's or the family's own.
        replicas: on one node.
        rows_per_second: of the node; `peak_rss_mb` of one replica.
        default_rows_per_second: of the defaults, measured beside it; None where they could not run.
        versions: packages that the speed depends on.
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

    @property
    def stale(self) -> str:
        """Say how the packages it was measured with differ from those here; nothing where they do not."""
        changed = [
            f"{name} {was}, here {installed(name)}" for name, was in self.versions.items() if installed(name) != was
        ]
        return ", ".join(changed)
