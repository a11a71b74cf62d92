"""How long a job takes and what it costs, told before it runs, from what was measured earlier. Pure.

Speed comes from `optinfer tune` (a whole node, measured together) or else from the variant's certificate (one replica
alone, multiplied, which flatters replicas that share caches). Where neither exists there is no number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optinfer.config import PlacementConfig
from optinfer.records.forecast import Actual, Compared, Forecast
from optinfer.records.proof import Certificate
from optinfer.records.tuning import NO_LENGTHS, Lengths, Tuned

CPU_NODE = "cpu"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Rows per second of all replicas, where it comes from, and the lengths it was measured with."""

    rows_per_second: float
    basis: str
    lengths: Lengths = NO_LENGTHS


@dataclass(frozen=True)
class Startup:
    """Seconds until the first row is scored, and where they come from."""

    seconds: float
    basis: str


def startup_of(last: float | None, others: float | None, load_seconds: float) -> Startup | None:
    """Return how long a run takes to start; None where none ran on this machine.

    Args:
        last: seconds of the last run of this model and variant.
        others: seconds that the last run on this machine, of whatever model, took to start without loading its model.
        load_seconds: of this variant, as it was certified.
    """
    if last is not None:
        return Startup(last, "start-up as in the last run")
    if others is not None:
        return Startup(others + load_seconds, "start-up of other runs here, and this variant's certified loading")
    return None


def speed_of(tuned: Tuned | None, certificate: Certificate | None, replicas: int, threads: int) -> Speed | None:
    """Return the best-founded speed; a tuning record counts where its node has this many threads a replica."""
    if tuned and tuned.threads_per_replica == threads and replicas >= tuned.replicas:
        nodes = replicas / tuned.replicas
        basis = (
            f"tuned on {tuned.measured_at[:10]}: {tuned.rows_per_second:.1f} rows/s a node of {tuned.replicas} replicas"
        )
        rate = tuned.rows_per_second * nodes
        return Speed(rows_per_second=rate, basis=basis, lengths=tuned.lengths)
    if certificate:
        basis = f"certificate: {certificate.rows_per_second:.1f} rows/s of one replica alone, times {replicas}"
        return Speed(rows_per_second=certificate.rows_per_second * replicas, basis=basis)
    return None


def at_lengths(speed: Speed, table: Lengths) -> Speed:
    """Return the speed on rows of this table's lengths: rows twice as long take twice as long."""
    if not table.mean or not speed.lengths.mean or round(table.mean / speed.lengths.mean, 2) == 1:
        return speed
    rate = speed.rows_per_second * speed.lengths.mean / table.mean
    basis = f"{speed.basis}, for {table.mean:.0f} tokens a row instead of {speed.lengths.mean:.0f}"
    return Speed(rows_per_second=rate, basis=basis, lengths=table)


def together(first: Speed, second: Speed) -> Speed:
    """Return the speed of two variants' replicas beside each other, both on rows of the same lengths."""
    rate, basis = first.rows_per_second + second.rows_per_second, f"{first.basis}; beside it {second.basis}"
    return Speed(rows_per_second=rate, basis=basis)


def forecast(
    rows: int,
    speed: Speed | None,
    table: Lengths,
    startup: Startup | None,
    nodes: int,
    cost_per_hour: float | None,
    missing: str = "",
) -> Forecast:
    """Forecast a run over `rows` rows.

    Args:
        rows: rows to score.
        speed: None where nothing was measured; `missing` then says what to do.
        table: lengths of this table.
        startup: None where nothing is known of it: then it counts as nothing, and the forecast is no promise.
        nodes: machines that are paid for.
        cost_per_hour: of one of them, None where the job does not say.
    """
    known = startup.seconds if startup else None
    if speed is None:
        return Forecast(
            rows=rows, seconds=None, startup_seconds=known, rows_per_second=None, nodes=nodes, cost=None,
            basis=missing,
        )  # fmt: skip
    adjusted = at_lengths(speed, table)
    rate, basis = adjusted.rows_per_second, adjusted.basis
    basis += f"; {startup.basis}" if startup else "; start-up unknown, left out"
    seconds = (known or 0.0) + rows / rate
    return Forecast(
        rows=rows,
        seconds=seconds,
        startup_seconds=known,
        rows_per_second=rows / seconds if rows else rate,
        nodes=nodes,
        cost=cost(seconds, nodes, cost_per_hour),
        basis=basis,
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
    """Return the forecast with what came of it; one that left the start-up out, as unknown, has no error."""
    judged = told.seconds is not None and told.startup_seconds is not None and seconds
    return Compared(
        **vars(told),
        actual=Actual(seconds=seconds, rows_per_second=rows_per_second, cost=cost(seconds, told.nodes, cost_per_hour)),
        error_percent=((told.seconds or 0.0) - seconds) / seconds * 100 if judged else None,
    )
