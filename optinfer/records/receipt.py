"""What committing a fragment returns, from the replica to the driver."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optinfer.records.part import Part
from optinfer.records.stats import Stats


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """What had become of a fragment when the replica that made it took it up.

    Attributes:
        why: `left`: its node was told to leave, and it was given back; `lost`: its node went without that;
            `died`: its replica did.
        rows: that a model had been given before; None where whoever had them could not say.
        seconds: from when it was given back until it was taken up, by the clocks of both nodes; None as above.
    """

    why: str
    rows: int | None = None
    seconds: float | None = None


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
        taken_over: None where nobody had begun with it before.
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
    taken_over: TakenOver | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it flat, as journals have it."""
        own = {name: value for name, value in vars(self).items() if name not in ("made", "stats", "taken_over")}
        made = {name: value for name, value in vars(self.made).items() if name not in ("fingerprint", "sketch")}
        before = {"taken_over": vars(self.taken_over)} if self.taken_over else {}
        return {**made, **own, **before, "stats": self.stats.as_dict()}

    def told(self) -> dict[str, Any]:
        """Return it as plain values, which travel."""
        return {**asdict(self), "stats": self.stats.as_dict()}

    @classmethod
    def heard(cls, raw: dict[str, Any]) -> Receipt:
        """Return the receipt that `told` made values of."""
        before = TakenOver(**raw["taken_over"]) if raw.get("taken_over") else None
        heard = {"made": Part(**raw["made"]), "stats": Stats.from_dict(raw["stats"]), "taken_over": before}
        return cls(**{**raw, **heard})
