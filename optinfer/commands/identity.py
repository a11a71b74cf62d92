"""What identifies a job: all that shapes its output, readable, so that a difference can be named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from optinfer.config import ExperimentConfig
from optinfer.data.binding import fingerprint
from optinfer.data.fragments import Plan
from optinfer.data.in_place import COLUMN
from optinfer.data.storage import absolute
from optinfer.errors import redact
from optinfer.models import source as model_source
from optinfer.optimization.asked import recipes, recipes_of_further_pools
from optinfer.optimization.subject import Subject

__all__ = ["described", "files_digest", "fingerprint", "identity"]


def identity(subject: Subject, plan: Plan, arms: Mapping[str, Subject]) -> dict[str, object]:
    """Return what a job's fingerprint is made of, and what its output keeps of it; `arms` are an experiment's."""
    config, further = subject.config, recipes_of_further_pools(subject.config, subject.catalog)
    return {
        "source": {
            "path": redact(absolute(config.source.path)),
            "files": files_digest(plan),
            "rows": plan.rows,
            "columns": config.source.columns,
            "fragments": plan.fragments.digest(),
            "bad_files": [redact(path) for path, _ in plan.bad_files],
            **({} if plan.version is None else {"version": plan.version}),
        },
        "model": {"digest": subject.model.key, "family": config.model.family, **config.model.identity},
        "variant": recipes(config, subject.catalog),
        "batching": config.batching.identity,
        "sink": {
            "columns": list(config.sink.columns),
            **({"on_error": COLUMN} if config.sink.on_error == COLUMN else {}),
        },
        **({"cpu_variant": further} if further else {}),
        **({"experiment": _experiment(config.experiment, arms)} if arms else {}),
    }


def _experiment(config: ExperimentConfig, arms: Mapping[str, Subject]) -> dict[str, object]:
    """Return what deals the rows, and what scores those of each arm."""
    dealt = {
        name: {
            "share": config.arms[name].share,
            "model": arm.model.key,
            "variant": recipes(arm.config, arm.catalog),
        }
        for name, arm in arms.items()
    }
    return {"name": config.name, "key": config.key, "column": config.column, "arms": dealt}


def described(subject: Subject, files_digest: str) -> dict[str, object]:
    """Describe job, model and data for a tracker."""
    config, fetched = subject.config, model_source.origin(subject.model)
    return {
        "job": config.name,
        "family": config.model.family,
        "model.path": redact(config.model.path),
        "model.digest": subject.model.key,
        **({"model.version": fetched["version"]} if fetched else {}),
        "data.digest": files_digest,
    }


def files_digest(plan: Plan) -> str:
    """Return what identifies the input files at their versions."""
    files = json.dumps([asdict(f) for f in plan.files], sort_keys=True, default=str)
    return hashlib.sha256(files.encode()).hexdigest()[:16]
