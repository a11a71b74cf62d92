"""What optinfer keeps between runs, made before anything is timed: artifact, certificate, MLflow's tables.

The last stdout line is JSON: {"variant", "build_seconds", "gate"}, with `variant: auto` of the one that was chosen; or
{"refused": reason} for a variant that may not score.

Usage: python -m preparation JOB.yaml
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from optinfer.commands.resolved import Resolved, resolve
from optinfer.config import JobConfig
from optinfer.errors import NoVariantError, UnavailableError
from optinfer.execution.placement import Node, place
from optinfer.execution.placing import needs_of
from optinfer.inference.replica import ReplicaSettings
from optinfer.job_file import load_job
from optinfer.optimization.selection import Prepared, candidates
from optinfer.records.placement import Placement
from optinfer.system import home
from optinfer.system.machine import nvidia_gpus


@dataclass(frozen=True)
class PreparedJob:
    """A job as optinfer would run it on this machine alone."""

    planned: Resolved
    prepared: Prepared
    placement: Placement

    @property
    def config(self) -> JobConfig:
        return self.planned.config

    @property
    def settings(self) -> ReplicaSettings:
        return self.prepared.settings


def prepare_job(path: str) -> PreparedJob:
    config = load_job(path)
    planned = resolve(config)
    fragments = planned.plan.fragments
    prepared = next(candidates(planned.bench(_say)))
    here = Node(os.cpu_count() or 1, nvidia_gpus())
    placement = place(
        config.placement,
        prepared.variant.device,
        [here],
        len(fragments),
        needs_of(prepared, config.placement.max_replicas),
    )
    return PreparedJob(planned, prepared, placement)


def create_tracking_tables(uri: str) -> None:
    """Let MLflow create its tables: the first run of all pays for that once, no job after it does."""
    import mlflow

    mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main(job: str) -> dict[str, Any]:
    try:
        ready = prepare_job(job)
    except (NoVariantError, UnavailableError) as error:
        return {"refused": str(error)}
    create_tracking_tables(ready.config.tracking.uri or home.default_tracking_uri())
    return {
        "variant": ready.prepared.variant.name,
        "build_seconds": round(ready.prepared.certificate.build_seconds, 2),
        "gate": asdict(ready.prepared.gate),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
