"""The forecast of a run, from its pools' proofs and placement, and from what earlier runs took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from optinfer.config import PlacementConfig
from optinfer.forecast.observed import past
from optinfer.forecast.parts import Facts, Parts, Past
from optinfer.forecast.speed import (
    Speed,
    at_lengths,
    compared,
    forecast,
    nodes_needed,
    price,
    speed_of,
    together,
    unknown,
)
from optinfer.optimization.pools import Pools
from optinfer.optimization.selection import Prepared
from optinfer.records.forecast import Compared, Forecast
from optinfer.records.observation import IN_PROCESS, ON_RAY
from optinfer.records.placement import Placement
from optinfer.system.machine import gpu
from optinfer.tuning.kept import machine

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
        where: its replicas will be: a word of records/observation.py.
        prepared: seconds that this process took to come to the proof, where it built and measured nothing for it.
    """

    wishes: PlacementConfig
    model: str
    pools: Pools | None
    placements: tuple[Placement, ...]
    where: str = ON_RAY
    prepared: float | None = None

    def of(self, rows: np.ndarray[Any, Any], without: Sequence[str] = ()) -> Forecast:
        """Forecast a run.

        Args:
            rows: (fragments,) of each that is to score.
            without: parts of a run (records/observation.py) that are left out.
        """
        count = int(rows.sum())
        if not count:
            return unknown(0, 1, "nothing is left to score")
        if self.pools is None or not self.placements:
            return unknown(count, 1, _UNMEASURED)
        if self.speed is None:
            return unknown(count, _nodes(self.placements), _UNMEASURED)
        parts = Parts(self._past, self.facts, [self.speed.basis])
        return forecast(rows, self.rates, parts, without, _nodes(self.placements), self._price())

    def against(self, told: Forecast, rows: int, seconds: float) -> Compared:
        """Return a forecast with what came of it: `rows` rows in `seconds` seconds."""
        hourly = self._price() if self.placements else None
        return compared(told, seconds, rows / seconds if seconds else 0.0, hourly)

    @property
    def facts(self) -> Facts:
        """What is known before the run; there are pools and placements."""
        assert self.pools is not None
        certificate, first = self.pools.first.certificate, self.placements[0]
        return Facts(
            machine=str(machine()),
            where=self.where,
            basis=" and ".join([self.speed.kind if self.speed else "", *sorted(self.pools.arms)]),
            replicas=sum(place.replicas for place in self.placements),
            threads=first.threads_per_replica,
            load_seconds=certificate.load_seconds,
            start_seconds=certificate.start_seconds,
            prepared=self.prepared,
        )

    @cached_property
    def speed(self) -> Speed | None:
        """The speed of all pools together, as measured, on rows of this table's lengths.

        Of the first alone where the others' is not known; None where no pool's is.
        """
        assert self.pools is not None
        speeds = [_speed(one, place) for one, place in zip(self.pools, self.placements, strict=False)]
        lengths = self.pools.first.lengths
        found = [at_lengths(speed, lengths) for speed in speeds if speed]
        if not speeds or speeds[0] is None:
            return None
        return reduce(together, found) if len(found) == len(speeds) else found[0]

    @property
    def rates(self) -> list[float]:
        """Rows per second of each replica, as measured; replicas in this process take turns, as one."""
        assert self.pools is not None
        rates: list[float] = []
        for one, place in zip(self.pools, self.placements, strict=False):
            if speed := _speed(one, place):
                each = at_lengths(speed, self.pools.first.lengths).rows_per_second / max(place.replicas, 1)
                rates += [each] * max(place.replicas, 1)
        return [sum(rates) / len(rates)] if self.where == IN_PROCESS else rates

    @cached_property
    def _past(self) -> Past:
        assert self.pools is not None
        return past(self.model, self.pools.first.variant.name, str(machine()))

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


def _speed(prepared: Prepared, placement: Placement) -> Speed | None:
    return speed_of(prepared.tuned, prepared.certificate, placement.replicas, placement.threads_per_replica)


def _nodes(placements: Sequence[Placement]) -> int:
    """Return how many nodes like this one the replicas take, and those that some are pinned to."""
    cpus = os.cpu_count() or 1
    return sum(len(place.pinned) or nodes_needed(place.replicas, place.cpus_per_replica, cpus) for place in placements)
