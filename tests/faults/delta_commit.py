"""Run a job in this process and kill it at a moment of its table's commit: `python -m tests.faults.delta_commit JOB MOMENT`.

before    nothing of the commit has begun
during    the log's folder is there: its entry is being written
after     the version is committed, and nobody has heard of it
never     the job ends
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import deltalake.transaction

import optinfer
from optinfer.config import JobConfig
from optinfer.execution.in_process import InProcess
from optinfer.job_file import load_job
from optinfer.optimization.variants import VARIANTS, Variant


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_the_log(sink: Path) -> None:
    while not (sink / "_delta_log").exists():
        pass
    die()


def run(job: JobConfig, moment: str) -> None:
    commit = deltalake.transaction.create_table_with_add_actions

    def committing(*arguments: Any, **options: Any) -> None:
        if moment == "before":
            die()
        if moment == "during":
            threading.Thread(target=die_with_the_log, args=(Path(job.sink.path),), daemon=True).start()
        commit(*arguments, **options)
        if moment == "after":
            die()
        if moment == "during":  # it was quicker than the watcher
            threading.Event().wait()

    deltalake.transaction.create_table_with_add_actions = committing
    VARIANTS["fake"] = Variant(name="fake", backend="fake", about="for tests")
    optinfer.run(job, executor=InProcess())


if __name__ == "__main__":
    run(load_job(sys.argv[1]), sys.argv[2])
