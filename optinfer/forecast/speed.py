"""How long a job takes and what it costs, told before it runs, from what was measured earlier. Pure.

Speed comes from `optinfer tune` (a whole node, measured together) or else from the variant's certificate (one replica
alone, multiplied, which flatters replicas that share caches), corrected by what earlier runs made of it (parts.py).
Where neither exists there is no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optinfer.config import PlacementConfig
from optinfer.forecast.parts import Parts
from optinfer.forecast.ranges import makespan, total
from optinfer.records.forecast import Actual, Compared, Forecast
from optinfer.records.observation import CERTIFICATE, TUNED
from optinfer.records.proof import Certificate
from optinfer.records.tuning import NO_LENGTHS, Lengths, Tuned

CPU_NODE = "cpu"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Rows per second of all replicas, where it comes from, and the lengths it was measured with.

    Attributes:
        kind: of basis, a word of records/observation.py.
    """

    rows_per_second: float
    basis: str
    kind: str = CERTIFICATE
    lengths: Lengths = NO_LENGTHS


def speed_of(tuned: Tuned | None, certificate: Certificate | None, replicas: int, threads: int) -> Speed | None:
    """Return the best-founded speed; a tuning record counts where its node has this many threads a replica."""
    if tuned and tuned.threads_per_replica == threads and replicas >= tuned.replicas:
        nodes = replicas / tuned.replicas
        basis = (
            f"tuned on {tuned.measured_at[:10]}: {tuned.rows_per_second:.1f} rows/s a node of {tuned.replicas} replicas"
        )
        rate = tuned.rows_per_second * nodes
        return Speed(rows_per_second=rate, basis=basis, kind=TUNED, lengths=tuned.lengths)
    if certificate and certificate.rows_per_second > 0:
        basis = f"certificate: {certificate.rows_per_second:.1f} rows/s of one replica alone, times {replicas}"
        return Speed(rows_per_second=certificate.rows_per_second * replicas, basis=basis)
    return None


def at_lengths(speed: Speed, table: Lengths) -> Speed:
    """Return the speed on rows of this table's lengths: rows twice as long take twice as long."""
    if not table.mean or not speed.lengths.mean or round(table.mean / speed.lengths.mean, 2) == 1:
        return speed
    rate = speed.rows_per_second * speed.lengths.mean / table.mean
    basis = f"{speed.basis}, for {table.mean:.0f} tokens a row instead of {speed.lengths.mean:.0f}"
    return Speed(rows_per_second=rate, basis=basis, kind=speed.kind, lengths=table)


def together(first: Speed, second: Speed) -> Speed:
    """Return the speed of two variants' replicas beside each other, both on rows of the same lengths."""
    rate, basis = first.rows_per_second + second.rows_per_second, f"{first.basis}; beside it {second.basis}"
    return Speed(rows_per_second=rate, basis=basis, kind=first.kind)


def unknown(rows: int, nodes: int, basis: str) -> Forecast:
    """Return the forecast of a run of which nothing was measured; `basis` says what to do."""
    return Forecast(
        rows=rows, seconds=None, startup_seconds=None, rows_per_second=None, nodes=nodes, cost=None, basis=basis
    )


def forecast(
    rows: np.ndarray[Any, Any],
    rates: Sequence[float],
    parts: Parts,
    without: Sequence[str],
    nodes: int,
    cost_per_hour: float | None,
) -> Forecast:
    """Forecast a run: its start-up, the fragments in as many waves as its replicas need, and its end.

    Args:
        rows: (fragments,) of each that is to score.
        rates: rows per second of each replica, as measured, on rows of this table's lengths.
        parts: what other runs, and the variant's certificate, tell of the rest.
        without: parts of `Observation` that are left out.
        nodes: machines that are paid for.
        cost_per_hour: of one of them, None where the job does not say.
    """
    slower, as_measured = parts.slowdown(), makespan(rows, rates)
    startup, scoring, closing = parts.startup(without), slower.times(as_measured), parts.closing(without)
    whole = total([*startup, scoring, *closing])
    count = int(rows.sum())
    return Forecast(
        rows=count,
        seconds=whole.likely,
        low_seconds=whole.low,
        high_seconds=whole.high,
        startup_seconds=total(startup).likely,
        scoring_seconds=scoring.likely,
        closing_seconds=total(closing).likely,
        rows_per_second=count / whole.likely if count else sum(rates) / slower.likely,
        nodes=nodes,
        cost=cost(whole.likely, nodes, cost_per_hour),
        basis="; ".join(parts.said),
    )


def cost(seconds: float, nodes: int, cost_per_hour: float | None) -> float | None:
    return None if cost_per_hour is None else seconds / 3600 * nodes * cost_per_hour


def per_million(rows_per_second: float, cost_per_hour: float) -> float:
    """Return the cost of a million rows on one node."""
    return 1e6 / rows_per_second / 3600 * cost_per_hour


def price(placement: PlacementConfig, gpu: str | None) -> float | None:
    """Return what an hour of a node costs; `gpu` is the name its driver gives, None for a node without one."""
    prices = placement.cost_per_hour
    if gpu is None:
        return prices.get(CPU_NODE)
    if placement.accelerator_type in prices:
        return prices[str(placement.accelerator_type)]
    # Ray's name (H100, A100-80G) begins with a word of the driver's (NVIDIA H100 80GB HBM3).
    words = gpu.upper().replace("-", " ").split()
    return next((value for name, value in prices.items() if name.upper().split("-")[0] in words), None)


def nodes_needed(replicas: int, cpus_per_replica: float, cpus: int) -> int:
    """Return how many nodes like this one so many replicas take."""
    return max(1, math.ceil(replicas / max(int(cpus // max(cpus_per_replica, 1e-9)), 1)))


def compared(told: Forecast, seconds: float, rows_per_second: float, cost_per_hour: float | None) -> Compared:
    """Return the forecast with what came of it; one that was unknown has no error."""
    return Compared(
        **vars(told),
        actual=Actual(seconds=seconds, rows_per_second=rows_per_second, cost=cost(seconds, told.nodes, cost_per_hour)),
        error_percent=None if told.seconds is None or not seconds else (told.seconds - seconds) / seconds * 100,
    )
