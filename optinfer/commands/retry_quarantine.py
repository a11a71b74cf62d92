"""Quarantined rows, tried again: into the output they were left out of, whose other rows stay as they are.

For what is mended outside the rows and the model: memory, time, a library, the code that a class calls. The job has to
be the one that the output is bound to; another model, or another version of the table, is another output.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from optinfer.commands.asked_for import target
from optinfer.commands.job_of import job_of
from optinfer.commands.run import run
from optinfer.execution.executor import Executor
from optinfer.records.run import RunRecord


def retry_quarantine(
    named: str,
    night: date | None,
    address: str | None,
    say: Callable[[str], None],
    executor: Executor | None = None,
) -> RunRecord:
    """Score the quarantined rows of an output again, and what it lacks; return the record of the whole of it.

    Args:
        named: a job file, or the folder of a finished job.

    Raises:
        ConfigError: the folder does not say which job it is of.
    """
    asked = target(named, night)
    config = asked.config or job_of(asked.url, "give the job file instead: optinfer retry-quarantine JOB.yaml")[2]
    return run(config, address, say, executor, retry=True)
