"""The forecast of a run, from its pools' proofs and placement, and from how long earlier runs took to start."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from optinfer.config import PlacementConfig
from optinfer.errors import OptinferError
from optinfer.forecast.speed import (
    Speed,
    at_lengths,
    compared,
    forecast,
    nodes_needed,
    price,
    speed_of,
    startup_of,
    together,
)
from optinfer.optimization.pools import Pools
from optinfer.optimization.selection import Prepared
from optinfer.records.forecast import Compared, Forecast
from optinfer.records.placement import Placement
from optinfer.records.tuning import Lengths
from optinfer.system import home
from optinfer.system.machine import gpu

_UNMEASURED = (
    "unknown: no variant of this job was measured on this machine; `optinfer tune JOB.yaml` or `optinfer optimize "
    "JOB.yaml` measures, and so does a run"
)


@dataclass(frozen=True)
class Outlook:
    """What a forecast of one job is made from.

    Attributes:
        wishes: they have the prices.
        model: the model's digest.
        pools, placements: None and empty where nothing was measured yet.
    """

    wishes: PlacementConfig
    model: str
    pools: Pools | None
    placements: tuple[Placement, ...]

    def of(self, rows: int) -> Forecast:
        """Forecast a run over so many rows."""
        if self.pools is None or not self.placements:
            return forecast(rows, None, Lengths(), None, 1, None, _UNMEASURED)
        lengths = self.pools.first.lengths
        startup = startup_of(
            home.read_json(self._startup_file(self.pools), _seconds),
            home.read_json(_others_file(), _seconds),
            self.pools.first.certificate.load_seconds,
        )
        return forecast(rows, self._speed(self.pools), lengths, startup, _nodes(self.placements), self._price())

    def before_run(self, rows: int) -> Forecast:
        """Forecast a run that was not prepared, from the cache alone."""
        if rows == 0:
            return forecast(0, None, Lengths(), None, 1, None, "nothing is left to score")
        return self.of(rows)

    def against(self, rows: int, seconds: float) -> Compared:
        """Return the forecast of a run with what came of it: `rows` rows in `seconds` seconds."""
        hourly = self._price() if self.placements else None
        return compared(self.of(rows), seconds, rows / seconds if seconds else 0.0, hourly)

    def keep_startup(self, seconds: float) -> None:
        """Remember how long a run took to start, for the next forecast of this model and variant, and of others."""
        if self.pools:
            of_machine = max(0.0, seconds - self.pools.first.certificate.load_seconds)
            with contextlib.suppress(OptinferError):  # a run that is done is done without it
                home.put(self._startup_file(self.pools), json.dumps({"seconds": seconds}).encode())
                home.put(_others_file(), json.dumps({"seconds": of_machine}).encode())

    def _startup_file(self, pools: Pools) -> Path:
        return home.home() / "startup" / f"{self.model}-{pools.first.variant.name}.json"

    def _speed(self, pools: Pools) -> Speed | None:
        """Return the speed of all pools together; of the first alone where the others' is not known."""
        speeds = [_speed(one, place) for one, place in zip(pools, self.placements, strict=False)]
        found = [speed for speed in speeds if speed]
        if len(found) < 2 or len(found) < len(speeds):
            return speeds[0]
        lengths = pools.first.lengths
        return reduce(together, (at_lengths(speed, lengths) for speed in found))

    def _price(self) -> float | None:
        """Return what an hour of a node costs; of several kinds, on average."""
        if not self.wishes.cost_per_hour:
            return None
        first, *rest = self.placements
        own = price(self.wishes, gpu() if first.device == "cuda" else None)
        if not rest or own is None:
            return own
        second, total, others = price(self.wishes, None), _nodes(self.placements), _nodes(rest)
        return None if second is None else (own * (total - others) + second * others) / total


def _others_file() -> Path:
    return home.home() / "startup" / "without-loading.json"


def _seconds(raw: dict[str, float]) -> float:
    return float(raw["seconds"])


def _speed(prepared: Prepared, placement: Placement) -> Speed | None:
    return speed_of(prepared.tuned, prepared.certificate, placement.replicas, placement.threads_per_replica)


def _nodes(placements: Sequence[Placement]) -> int:
    """Return how many nodes like this one the replicas take, and those that some are pinned to."""
    cpus = os.cpu_count() or 1
    return sum(len(place.pinned) or nodes_needed(place.replicas, place.cpus_per_replica, cpus) for place in placements)
