"""What `tune` found, kept for the jobs that come after: by model, machine, lengths of the rows, and what the job fixes.

A later job need not have the very same rows: lengths are kept in half-octave buckets, and the next bucket still counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optinfer import plugins
from optinfer.config import AUTO, JobConfig
from optinfer.system import home
from optinfer.system.machine import cpu_features, gpu, installed, nvidia_gpus

_LAYOUT = 1
# Lengths may differ by one bucket, which is a factor of 1.4 to 2.
_NEAR = 1


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens a row takes, as quantiles; all 0 where rows have no lengths."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0

    @classmethod
    def of(cls, lengths: np.ndarray[Any, Any] | None) -> Lengths:
        if lengths is None or not len(lengths):
            return cls()
        p50, p90, p99 = (float(q) for q in np.percentile(lengths, [50, 90, 99]))
        return cls(mean=float(lengths.mean()), p50=p50, p90=p90, p99=p99)

    @property
    def bucket(self) -> tuple[int, int]:
        """Where mean and p90 lie, in half octaves."""
        mean, p90 = (round(2 * math.log2(max(value, 1.0))) for value in (self.mean, self.p90))
        return mean, p90


NO_LENGTHS = Lengths()


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best settings of one model on one kind of node, and what they gave.

    Attributes:
        max_batch_tokens, max_batch_size: 0 leaves the backend's or the family's own.
        replicas: on one node.
        rows_per_second: of the node; `peak_rss_mb` of one replica.
        default_rows_per_second: of the defaults, measured beside it; None where they could not run.
        versions: packages that the speed depends on.
    """

    variant: str
    max_batch_tokens: int
    max_batch_size: int
    replicas: int
    threads_per_replica: int
    rows_per_second: float
    default_rows_per_second: float | None
    peak_rss_mb: float
    lengths: Lengths
    measured_at: str
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def stale(self) -> str:
        """Say how the packages it was measured with differ from those here; nothing where they do not."""
        changed = [
            f"{name} {was}, here {installed(name)}" for name, was in self.versions.items() if installed(name) != was
        ]
        return ", ".join(changed)


def versions(backend: str) -> dict[str, str]:
    return {name: installed(name) for name in plugins.load("backends", backend).REQUIRES}


def write(tuned: Tuned, model: str, config: JobConfig, metric: str) -> Path:
    """Keep a record for jobs with this model, on this kind of machine, with these fixed settings."""
    path = _folder() / f"{_key(model, config, metric)}-{'-'.join(map(str, tuned.lengths.bucket))}.json"
    home.put(path, json.dumps(tuned.as_dict(), indent=1).encode())
    return path


def read(path: Path) -> Tuned | None:
    """Return a record, None where it is damaged."""
    return home.read_json(path, lambda raw: Tuned(**{**raw, "lengths": Lengths(**raw["lengths"])}))


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
    for path in _folder().glob(f"{key}-*.json"):
        there = [int(part) for part in path.stem.split("-")[1:]]
        apart = [abs(a - b) for a, b in zip(here, there, strict=True)]
        if max(apart) <= _NEAR and (there == [0, 0]) == (here == (0, 0)):
            near.append((sum(apart), path))
    return [path for _, path in sorted(near)]


def fixed(config: JobConfig) -> dict[str, Any]:
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


def machine() -> dict[str, Any]:
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


def _folder() -> Path:
    return home.home() / "tuned"
