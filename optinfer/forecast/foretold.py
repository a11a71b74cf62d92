"""A run's forecast: told before it scores, held against what came of it, and what it took kept for the next."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from optinfer.config import PlacementConfig
from optinfer.errors import OptinferError
from optinfer.forecast import observed
from optinfer.forecast.ranges import makespan
from optinfer.forecast.runs import Outlook
from optinfer.forecast.speed import compared, unknown
from optinfer.optimization.pools import Pools
from optinfer.records.forecast import Compared, Forecast
from optinfer.records.observation import Observation
from optinfer.records.placement import Placement
from optinfer.tracking.tally import Pace, Tally

# A replica's speed after its first fragment counts where at least this share of its rows came after it.
_AFTER_FIRST = 0.5


@dataclass(frozen=True)
class Placed:
    """The pools of a run on their nodes; `where` these are, the executor says."""

    pools: Pools
    placements: tuple[Placement, ...]
    where: str


@dataclass(frozen=True)
class Foretold:
    """What was told of a run whose replicas were placed.

    Attributes:
        rows: (fragments,) of each that was to score.
        started: of the command, and `proved` when its variant was, in seconds since the epoch.
        forecast: of what a run's record calls its seconds: until the account is made; from the proof on where it was
            made in this run, which happens once.
    """

    outlook: Outlook
    rows: np.ndarray[Any, Any]
    started: float
    proved: float
    forecast: Forecast

    @classmethod
    def of(
        cls,
        wishes: PlacementConfig,
        model: str,
        placed: Placed,
        rows: np.ndarray[Any, Any],
        started: float,
        proved: float,
    ) -> Foretold:
        """Tell it, from what earlier runs took.

        Args:
            wishes: they have the prices.
            model: its digest.
        """
        made = placed.pools.made_since(started)
        outlook = Outlook(
            wishes, model, placed.pools, placed.placements, placed.where, None if made else proved - started
        )
        without = ("prepare", "recording") if made else ("recording",)
        return cls(outlook, rows, started, proved, outlook.of(rows, without))

    def against(self, rows: int, now: float) -> Compared:
        """Return the forecast with what came of it, as the account is made."""
        begun = self.started if self.outlook.prepared is not None else self.proved
        return self.outlook.against(self.forecast, rows, now - begun)

    def keep(self, tally: Tally, marks: Mapping[str, float], accounted: float, ended: float) -> None:
        """Remember what the run took; a run that is done is done without it.

        Args:
            marks: when the steps of the start-up were done, in seconds since the epoch.
            accounted, ended: when the account was made, and the run was recorded.
        """
        if (run := self._observation(tally, marks, accounted, ended)) is not None:
            with contextlib.suppress(OptinferError):
                observed.keep(run)

    def _observation(
        self, tally: Tally, marks: Mapping[str, float], accounted: float, ended: float
    ) -> Observation | None:
        outlook = self.outlook
        if outlook.pools is None or outlook.speed is None or tally.first_load is None:
            return None
        facts, (load_started, load_seconds) = outlook.facts, tally.first_load
        ray, last = marks.get("ray", self.proved), max(pace.last for pace in tally.paces.values())
        steady = steady_speed(tally)
        share = steady / sum(outlook.rates) if steady else 0.0
        scoring = makespan(self.rows, [rate * share for rate in outlook.rates]) if share else None
        return Observation(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            model=outlook.model,
            variant=outlook.pools.first.variant.name,
            machine=facts.machine,
            where=facts.where,
            basis=facts.basis,
            replicas=facts.replicas,
            threads=facts.threads,
            rows=tally.scored.rows_in,
            measured=sum(outlook.rates),
            certified_load=facts.load_seconds,
            prepare=None if outlook.prepared is None else max(self.proved - self.started, 0.0),
            ray=max(ray - self.proved, 0.0),
            actors=max(load_started - max(ray, self.proved), 0.0),
            load=load_seconds,
            first=None if scoring is None else max(last - load_started - load_seconds - scoring, 0.0),
            steady=steady,
            closing=max(accounted - last, 0.0),
            recording=max(ended - accounted, 0.0),
        )


def nothing_told(rows: int, seconds: float) -> Compared:
    """Return what is said of a run that placed no replicas, as nothing was left to score."""
    return compared(unknown(0, 1, "nothing was left to score"), seconds, rows / seconds if seconds else 0.0, None)


def steady_speed(tally: Tally) -> float | None:
    """Return rows per second of all replicas, without what their first fragments took to come; None if none tells."""
    speeds = [_speed(pace, tally.replicas[name]) for name, pace in tally.paces.items()]
    return sum(speed for speed in speeds if speed) or None


def _speed(pace: Pace, ready: float) -> float | None:
    """Return a replica's rows per second after its first fragment, of all where most were in the first."""
    if pace.rows >= _AFTER_FIRST * pace.total and pace.last > pace.first:
        return pace.rows / (pace.last - pace.first)
    return pace.total / (pace.last - ready) if pace.last > ready else None
