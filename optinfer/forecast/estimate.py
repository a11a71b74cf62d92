"""A job's forecast, gathered from what this machine keeps: tuning records, certificates, the last run's start-up.

It reads the cache and a sample of the table; it builds, measures and imports nothing heavy, so that `plan` may call it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optinfer.errors import OptinferError
from optinfer.execution.placement import Needs, Node, Placement, place, place_mixed
from optinfer.forecast.forecast import (
    Forecast,
    Speed,
    at_lengths,
    compared,
    forecast,
    nodes_needed,
    price,
    speed_of,
    together,
)
from optinfer.optimization.mixed import known_beside
from optinfer.optimization.selection import Prepared, known
from optinfer.optimization.workbench import Workbench
from optinfer.system import home
from optinfer.system.machine import gpu
from optinfer.tuning.kept import Lengths, Tuned

if TYPE_CHECKING:  # it forecasts what planning shows
    from optinfer.commands.planning import Planned

_UNMEASURED = (
    "unknown: no variant of this job was measured on this machine; `optinfer tune JOB.yaml` or `optinfer optimize "
    "JOB.yaml` measures, and so does a run"
)


def last_measured(planned: Planned) -> Prepared | None:
    """Return the variant that a run would take by what is measured already; None where nothing is."""
    if not planned.plan.rows:
        return None
    try:
        bench = Workbench(planned.config, planned.model, planned.plan.fragments, lambda line: None)
        found = known(bench)
        return replace(found, beside=known_beside(bench, found)) if found else None
    except OptinferError:  # a file that cannot be read, say: the run itself will name it
        return None


def needs_of(prepared: Prepared | None, most_replicas: int | None = None) -> Needs:
    """Return what a replica of this variant was measured to need, in a job that allows `most_replicas`."""
    if prepared is None:
        return Needs()
    tuned = prepared.tuned
    return Needs(
        threads=tuned.threads_per_replica if tuned else 0,
        cpus=cpus_when_tuned(tuned, os.cpu_count() or 1, most_replicas) if tuned else 0,
        memory_mb=prepared.certificate.peak_rss_mb,
        gpu_memory_mb=prepared.certificate.gpu_memory_mb,
        gpu_total_mb=prepared.certificate.gpu_total_mb,
    )


def cpus_when_tuned(tuned: Tuned, cpus: int, most_replicas: int | None) -> int:
    """Return the CPUs that each replica had: more than its threads where fewer replicas won than would have fit.

    Args:
        cpus: of the node it was tuned on.
    """
    fit = cpus // tuned.threads_per_replica
    return tuned.threads_per_replica * max(1, min(fit, most_replicas or fit) // tuned.replicas)


def placed(
    planned: Planned,
    prepared: Prepared | None,
    device: str,
    nodes: Sequence[Node],
    fragments: int,
    growing: bool = False,
) -> Placement:
    """Fit replicas of the job's variant, or of both, onto nodes; the arguments are those of `place`.

    Raises:
        PlacementError: the job's wishes do not fit.
    """
    wishes = planned.config.placement
    needs = needs_of(prepared, wishes.max_replicas)
    if wishes.cpu_variant and device == "cuda":
        second = needs_of(prepared.beside if prepared else None)
        return place_mixed(wishes, nodes, fragments, needs, second, growing)
    return place(wishes, device, nodes, fragments, needs, growing)


def before_run(planned: Planned, prepared: Prepared | None, placement: Placement, rows: int) -> Forecast:
    """Forecast a run that was not prepared, from the cache alone."""
    if rows == 0:
        return forecast(0, None, Lengths(), None, 1, None, "nothing is left to score")
    return of_run(planned, prepared, placement, rows)


def of_run(planned: Planned, prepared: Prepared | None, placement: Placement | None, rows: int) -> Forecast:
    """Forecast a run over `rows` rows with the variant that scores, on its placement."""
    if prepared is None or placement is None:
        return forecast(rows, None, Lengths(), None, 1, None, _UNMEASURED)
    speed = _speed(prepared, placement)
    if speed and prepared.beside and placement.beside and (second := _speed(prepared.beside, placement.beside)):
        speed = together(at_lengths(speed, prepared.lengths), at_lengths(second, prepared.lengths))
    startup = _last_startup(planned, prepared)
    return forecast(rows, speed, prepared.lengths, startup, _nodes(placement), _price(planned, placement))


def _speed(prepared: Prepared, placement: Placement) -> Speed | None:
    return speed_of(prepared.tuned, prepared.certificate, placement.replicas, placement.threads_per_replica)


def against(
    planned: Planned, prepared: Prepared | None, placement: Placement | None, rows: int, seconds: float
) -> dict[str, Any]:
    """Return the forecast of a run beside what came of it: `rows` rows in `seconds` seconds."""
    told = of_run(planned, prepared, placement, rows)
    hourly = _price(planned, placement) if placement else None
    return compared(told, seconds, rows / seconds if seconds else 0.0, hourly)


def keep_startup(planned: Planned, prepared: Prepared, seconds: float) -> None:
    """Remember how long a run of this model and variant took to start, for the next forecast."""
    home.put(_startup_file(planned, prepared), json.dumps({"seconds": seconds}).encode())


def _last_startup(planned: Planned, prepared: Prepared) -> float | None:
    """Return how long it took last time; a record that is garbage is as good as none, and the run writes it anew."""
    return home.read_json(_startup_file(planned, prepared), lambda raw: float(raw["seconds"]))


def _startup_file(planned: Planned, prepared: Prepared) -> Path:
    return home.home() / "startup" / f"{planned.model.key}-{prepared.variant.name}.json"


def _nodes(placement: Placement) -> int:
    """Return how many nodes like this one the replicas take, and those that some are pinned to."""
    own = len(placement.pinned) or nodes_needed(placement.replicas, placement.cpus_per_replica, os.cpu_count() or 1)
    return own + (_nodes(placement.beside) if placement.beside else 0)


def _price(planned: Planned, placement: Placement) -> float | None:
    """Return what an hour of a node costs; of two kinds, on average."""
    prices = planned.config.placement
    if not prices.cost_per_hour:
        return None
    own = price(prices, gpu() if placement.device == "cuda" else None)
    if placement.beside is None or own is None:
        return own
    nodes, second = _nodes(placement.beside), price(prices, None)
    total = _nodes(placement)
    return None if second is None else (own * (total - nodes) + second * nodes) / total
