"""What `tune` found, kept for later jobs: by model, kind of node, lengths of the rows, and what the job fixes.

A later job need not have the very same rows: lengths are kept in half-octave buckets, and the next bucket still counts.
Records lie in the home of whoever tuned; a node that proves variants for another's job is sent them (`carried`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig
from optinfer.data import home_store
from optinfer.records.record import decoded
from optinfer.records.tuning import Lengths, NodeKind, Tuned
from optinfer.system import home
from optinfer.system.machine import cpu_features, gpu, installed, nvidia_gpus

_LAYOUT = 1
# Lengths may differ by one bucket, which is a factor of 1.4 to 2.
_NEAR = 1


def versions(backend: str) -> dict[str, str]:
    return {name: installed(name) for name in BACKENDS.get(backend).requires}


def write(tuned: Tuned, model: str, config: JobConfig, metric: str) -> Path:
    """Keep a record for jobs with this model, on the kind of node it names, with these fixed settings."""
    key = _key(model, config, metric, tuned.node or machine())
    path = _folder() / f"{key}-{'-'.join(map(str, tuned.lengths.bucket))}.json"
    home_store.replace(path, json.dumps(tuned.as_dict(), indent=1).encode())
    return path


def read(path: Path) -> Tuned | None:
    """Return a record, None where it is damaged."""
    return home_store.read_newest(path, lambda file: home.read_json(file, partial(decoded, Tuned)))


def lookup(model: str, config: JobConfig, metric: str, lengths: Lengths, cpus: int | None = None) -> Tuned | None:
    """Return the record of this home whose rows are most like this job's, if one fits this machine.

    A job that names a variant may use what was found with `variant: auto`, where that is the same variant.

    Args:
        cpus: those that replicas share here; None takes all.
    """
    paths = _paths()
    found = (read(paths[name]) for name in _fitting(paths, model, config, metric, lengths, machine(cpus)))
    return next((tuned for tuned in found if tuned and config.variant in (AUTO, tuned.variant)), None)


@dataclass(frozen=True)
class Carried:
    """The records of a home, by the name of their file, as they travel to a node that proves."""

    records: Mapping[str, Tuned]

    def lookup(self, model: str, config: JobConfig, metric: str, lengths: Lengths, cpus: int) -> Tuned | None:
        """Do there what `lookup` does here."""
        names = _fitting(self.records, model, config, metric, lengths, machine(cpus))
        found = (self.records[name] for name in names)
        return next((tuned for tuned in found if config.variant in (AUTO, tuned.variant)), None)


def carried() -> Carried:
    """Return the records of this home; those that are damaged stay where they are."""
    read_here = {name: read(path) for name, path in _paths().items()}
    return Carried({name: tuned for name, tuned in read_here.items() if tuned})


def _paths() -> dict[str, Path]:
    """Return where the records of this home are, by name."""
    return {Path(name).stem: _folder() / name for name in sorted(home_store.names(_folder(), "*.json"))}


def _fitting(
    names: Iterable[str], model: str, config: JobConfig, metric: str, lengths: Lengths, node: NodeKind
) -> list[str]:
    """Return which of the records are for such a job on such a node, those with the likest rows first."""
    asked = [config]
    if config.variant != AUTO:
        asked.append(config.model_copy(update={"variant": AUTO}))
    return [name for one in asked for name in _nearest(names, _key(model, one, metric, node), lengths)]


def _nearest(names: Iterable[str], key: str, lengths: Lengths) -> list[str]:
    here, near = lengths.bucket, []
    for name in names:
        if not name.startswith(f"{key}-"):
            continue
        there = [int(part) for part in name.split("-")[1:]]
        apart = [abs(a - b) for a, b in zip(here, there, strict=True)]
        if max(apart) <= _NEAR and (there == [0, 0]) == (here == (0, 0)):
            near.append((sum(apart), name))
    return [name for _, name in sorted(near)]


def fixed(config: JobConfig) -> dict[str, object]:
    """Return the settings of a job that a search leaves alone, as the user gave them."""
    placement, batching = config.placement, config.batching
    return {
        "variant": config.variant,
        "variants": {name: recipe.model_dump(mode="json") for name, recipe in config.variants.items()},
        "device": placement.device,
        "replicas": placement.replicas,
        "max_replicas": placement.max_replicas,
        "threads_per_replica": placement.threads_per_replica,
        "gpus_per_replica": placement.gpus_per_replica,
        "max_batch_tokens": batching.max_batch_tokens,
        "max_batch_size": batching.max_batch_size,
    }


def machine(cpus: int | None = None) -> NodeKind:
    """Return the kind of node that this is.

    Args:
        cpus: those that replicas share here; None takes all.
    """
    gpus = nvidia_gpus()
    count = os.cpu_count() or 1 if cpus is None else cpus
    return NodeKind(cpu_features=tuple(cpu_features()), cpus=count, gpus=gpus, gpu=gpu() if gpus else "")


def identity(node: NodeKind) -> dict[str, object]:
    """Return a kind of node as keys have it."""
    return {"cpu": node.cpu_features, "cpus": node.cpus, "gpus": node.gpus, "gpu": node.gpu or None}


def _key(model: str, config: JobConfig, metric: str, node: NodeKind) -> str:
    gate: Mapping[str, Any] = config.gate.model_dump(mode="json", exclude={"sample_rows", "fallback", "metric"})
    shaped_by = {
        "layout": _LAYOUT,
        "model": model,
        "machine": identity(node),
        "gate": {**gate, "metric": metric},
        "fixed": fixed(config),
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode()).hexdigest()[:16]


def study(model: str) -> Path:
    """Return where a search for this model's settings is kept, so that one that was cut off goes on."""
    return home.home() / "studies" / f"{model}.log"


def _folder() -> Path:
    return home.home() / "tuned"
