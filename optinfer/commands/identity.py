"""What identifies a job: all that shapes its output, readable, so that a difference can be named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from optinfer.data.binding import fingerprint
from optinfer.data.fragments import Plan
from optinfer.data.storage import absolute
from optinfer.errors import redact
from optinfer.optimization.asked import recipes, recipes_of_further_pools
from optinfer.optimization.subject import Subject

__all__ = ["described", "fingerprint", "identity"]


def identity(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Return what a job's fingerprint is made of, and what its output keeps of it."""
    config, further = subject.config, recipes_of_further_pools(subject.config, subject.catalog)
    return {
        "source": {
            "path": redact(absolute(config.source.path)),
            "files": _digest([asdict(f) for f in plan.files]),
            "rows": plan.rows,
            "columns": config.source.columns,
            "fragments": plan.fragments.digest(),
            "bad_files": [redact(path) for path, _ in plan.bad_files],
            **({} if plan.version is None else {"version": plan.version}),
        },
        "model": {"digest": subject.model.key, "family": config.model.family, **subject.family_settings},
        "variant": recipes(config, subject.catalog),
        "batching": config.batching.model_dump(),
        "sink": {"columns": list(config.sink.columns)},
        **({"cpu_variant": further} if further else {}),
    }


def described(subject: Subject, fields: dict[str, Any]) -> dict[str, Any]:
    """Describe job, model and data for a tracker; `fields` are those of `identity`."""
    config = subject.config
    return {
        "job": config.name,
        "family": config.model.family,
        "model.path": redact(config.model.path),
        "model.digest": subject.model.key,
        "data.digest": fields["source"]["files"],
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
