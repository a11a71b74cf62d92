"""What committing a fragment returns, from the replica to the driver."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optinfer.records.part import Part
from optinfer.records.stats import Stats


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One committed fragment.

    Attributes:
        part: the name of its file.
        made: the part; by another replica's variant where that one was first.
        reasons: why rows are quarantined, with how many.
        replica: the process that made it, `pid@node`.
        load_started: when its actor began to load the model, in seconds since the epoch, as is `committed`.
        max_batch_tokens, max_batch_size: the limits of a micro-batch that its replica has come to.
    """

    part: str
    made: Part
    stats: Stats
    reasons: dict[str, int]
    replica: str
    node: str
    load_started: float
    load_seconds: float
    committed: float
    peak_rss_mb: float
    max_batch_tokens: int
    max_batch_size: int

    def as_dict(self) -> dict[str, Any]:
        """Return it flat, as journals have it."""
        own = {name: value for name, value in vars(self).items() if name not in ("made", "stats")}
        made = {name: value for name, value in vars(self.made).items() if name not in ("fingerprint", "sketch")}
        return {**made, **own, "stats": self.stats.as_dict()}

    def told(self) -> dict[str, Any]:
        """Return it as plain values, which travel."""
        return {**asdict(self), "stats": self.stats.as_dict()}

    @classmethod
    def heard(cls, raw: dict[str, Any]) -> Receipt:
        """Return the receipt that `told` made values of."""
        return cls(**{**raw, "made": Part(**raw["made"]), "stats": Stats.from_dict(raw["stats"])})
