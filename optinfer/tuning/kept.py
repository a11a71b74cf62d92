"""What `tune` found, kept for the jobs that come after: by model, machine, lengths of the rows, and what the job fixes.

A later job need not have the very same rows: lengths are kept in half-octave buckets, and the next bucket still counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig
from optinfer.data import home_store
from optinfer.records.record import decoded
from optinfer.records.tuning import Lengths, Tuned
from optinfer.system import home
from optinfer.system.machine import cpu_features, gpu, installed, nvidia_gpus

_LAYOUT = 1
# Lengths may differ by one bucket, which is a factor of 1.4 to 2.
_NEAR = 1


def versions(backend: str) -> dict[str, str]:
    return {name: installed(name) for name in BACKENDS.get(backend).requires}


def write(tuned: Tuned, model: str, config: JobConfig, metric: str) -> Path:
    """Keep a record for jobs with this model, on this kind of machine, with these fixed settings."""
    path = _folder() / f"{_key(model, config, metric)}-{'-'.join(map(str, tuned.lengths.bucket))}.json"
    home_store.replace(path, json.dumps(tuned.as_dict(), indent=1).encode())
    return path


def read(path: Path) -> Tuned | None:
    """Return a record, None where it is damaged."""
    return home_store.read_newest(path, lambda file: home.read_json(file, partial(decoded, Tuned)))


def lookup(model: str, config: JobConfig, metric: str, lengths: Lengths) -> Tuned | None:
    """Return the record whose rows are most like this job's, if one fits.

    A job that names a variant may use what was found with `variant: auto`, where that is the same variant.
    """
    asked = [config]
    if config.variant != AUTO:
        asked.append(config.model_copy(update={"variant": AUTO}))
    for one in asked:
        for path in _nearest(_key(model, one, metric), lengths):
            tuned = read(path)
            if tuned and config.variant in (AUTO, tuned.variant):
                return tuned
    return None


def _nearest(key: str, lengths: Lengths) -> list[Path]:
    here, near = lengths.bucket, []
    for path in [_folder() / name for name in home_store.names(_folder(), f"{key}-*.json")]:
        there = [int(part) for part in path.stem.split("-")[1:]]
        apart = [abs(a - b) for a, b in zip(here, there, strict=True)]
        if max(apart) <= _NEAR and (there == [0, 0]) == (here == (0, 0)):
            near.append((sum(apart), path))
    return [path for _, path in sorted(near)]


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


def machine() -> dict[str, object]:
    """Return what of this machine a speed depends on."""
    gpus = nvidia_gpus()
    return {"cpu": cpu_features(), "cpus": os.cpu_count(), "gpus": gpus, "gpu": gpu() if gpus else None}


def _key(model: str, config: JobConfig, metric: str) -> str:
    gate: Mapping[str, Any] = config.gate.model_dump(mode="json", exclude={"sample_rows", "fallback", "metric"})
    shaped_by = {
        "layout": _LAYOUT,
        "model": model,
        "machine": machine(),
        "gate": {**gate, "metric": metric},
        "fixed": fixed(config),
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode()).hexdigest()[:16]


def study(model: str) -> Path:
    """Return where a search for this model's settings is kept, so that one that was cut off goes on."""
    return home.home() / "studies" / f"{model}.log"


def _folder() -> Path:
    return home.home() / "tuned"
