"""A job in a process of its own that scores one fragment for each line on stdin (see test_follow.py).

Usage: python -m tests.commands.followed JOB.yaml; exits with the code that `optinfer run` would.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

import optinfer
from optinfer.commands import resolved
from optinfer.execution.placement import Node
from optinfer.inference.answers import Scored
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.job_file import load_job
from optinfer.optimization.trial import HERE
from optinfer.optimization.variants import VARIANTS, Variant


class Told:
    """A replica that scores when it is told to."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._replica = Replica(settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    def score(self, table: pa.Table) -> Scored:
        if not sys.stdin.readline():
            raise RuntimeError("nobody says go")
        return self._replica.score(table)


def main(path: Path) -> None:
    resolved.APART = HERE
    VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")
    job = load_job(path)
    try:
        optinfer.run(job, executor=optinfer.InProcess([Node(cpus=1)], load=Told))
    except optinfer.OptinferError as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
