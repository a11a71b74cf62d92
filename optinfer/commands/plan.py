"""plan(job): what `run` would do on this machine; starts nothing, writes nothing to the sink."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import numpy as np
import psutil

from optinfer.commands.resolved import Resolved
from optinfer.config import AUTO
from optinfer.data.account import Accounts, index_of
from optinfer.data.output import Output
from optinfer.errors import OptinferError, redact
from optinfer.execution.placement import Node
from optinfer.execution.placing import placed
from optinfer.forecast.runs import Outlook
from optinfer.optimization.pools import Pools, known_pools
from optinfer.optimization.variants import Variant, get
from optinfer.records.observation import ON_CLUSTER, ON_RAY
from optinfer.records.preview import Preview
from optinfer.system.machine import nvidia_gpus


def plan(job: Resolved, here: Node | None = None) -> Preview:
    """Describe what `run` would do on one node; imports nothing heavy and writes nothing.

    Args:
        here: the node; None is this machine, with what is free of it.
    """
    config, cut = job.config, job.plan
    chosen = None if config.variant == AUTO else get(config.variant, job.subject.catalog)
    wished = config.placement.device
    device = chosen.device if chosen else "cpu" if wished == AUTO else wished
    if here is None:
        here = Node(os.cpu_count() or 1, nvidia_gpus(), memory_mb=psutil.virtual_memory().available / 1e6)
    output = job.output()
    left, said = _left(job, output)
    warnings = [*cut.warnings, *said]
    todo, rows = int(left.sum()), (cut.fragments.stop - cut.fragments.start)[left]
    measured = _last_measured(job)
    device = measured.first.variant.device if measured else device
    placements = placed(config.placement, measured, device, [here], max(todo, 1))
    where = ON_CLUSTER if os.environ.get("RAY_ADDRESS") else ON_RAY
    outlook = Outlook(
        config.placement, job.subject.model.key, measured, placements, where=where, prepared=monotonic() - job.began
    )
    return Preview(
        job=config.name,
        rows=cut.rows,
        files=len(cut.files),
        fragments=len(cut.fragments),
        to_score=todo,
        model=f"{redact(config.model.path)} ({job.subject.model.key})",
        variant=_variant_line(chosen or (measured.first.variant if measured else None), automatic=chosen is None),
        cpu_variant=_cpu_variant(job, measured, device),
        output=f"{output.shown}: {', '.join(f'{f.name} {f.type}' for f in job.schema)}",
        fingerprint=job.fingerprint,
        placement=placements,
        forecast=outlook.of(rows),
        warnings=tuple(warnings),
    )


def _left(job: Resolved, output: Output) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return a (fragments,) mask of what is to score, and what a person should know of the output."""
    count, bound = len(job.plan.fragments), output.binding.job()
    left = np.ones(count, dtype=bool)
    if bound and bound.fingerprint != job.fingerprint:
        left[[i for i in map(index_of, output.sink.committed()) if i < count]] = False
        return left, [f"{output.shown} belongs to another job: `run` would refuse (exit 5)"]
    if bound is None and next(output.folder.entries(), None) is None:  # a new one, as most are
        return left, []
    there, wrong = output.intact(Accounts(output.folder, job.fingerprint), count)
    left[: len(there)] = ~there[:count]
    return left, [f"{output.shown} is not as it was written: {line}" for line in wrong]


def _cpu_variant(job: Resolved, measured: Pools | None, device: str) -> str | None:
    """Describe the job's second variant; None where it has none."""
    name = job.config.placement.cpu_variant
    if name is None:
        return None
    if device != "cuda":
        return f"{name}: left out where the variant runs on CPUs itself"
    second = measured.each[1].variant if measured and len(measured) > 1 else None
    chosen = get(name, job.subject.catalog) if name != AUTO else second
    return _variant_line(chosen, automatic=name == AUTO)


def _variant_line(chosen: Variant | None, automatic: bool) -> str:
    if chosen is None:
        return "auto: the fastest that passes the gate"
    line = f"{chosen.name}: {chosen.techniques}, {chosen.backend}"
    return f"auto, the fastest that passes as far as is measured: {line}" if automatic else line


def _last_measured(job: Resolved) -> Pools | None:
    """Return the pools that a run would take by what is measured already; None where nothing is."""
    if not job.plan.rows:
        return None
    try:
        return known_pools(job.bench())
    except OptinferError:  # a file that cannot be read, say: the run itself will name it
        return None
