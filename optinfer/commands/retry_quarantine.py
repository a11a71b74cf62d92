"""Quarantined rows, tried again: into the output they were left out of, whose other rows stay as they are.

For what is mended outside the rows and the model: memory, time, a library, the code that a class calls. The job has to
be the one that the output is bound to; another model, or another version of the table, is another output.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from optinfer.commands.asked_for import target
from optinfer.commands.run import run
from optinfer.config import JobConfig
from optinfer.data.output import Output
from optinfer.errors import ConfigError, redact
from optinfer.execution.executor import Executor
from optinfer.job_file import parse_job
from optinfer.records.run import RunRecord
from optinfer.system.outages import reaching


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
    return run(asked.config or _job_of(asked.url), address, say, executor, retry=True)


def _job_of(url: str) -> JobConfig:
    """Return the job as the manifest has it; whoever was notified is not, as no manifest has the whole URL."""
    with reaching(url):
        manifest = Output(url).manifest()
    if manifest is None or not isinstance(sink := manifest.job.get("sink"), dict):
        raise ConfigError(
            f"{redact(url)} has no manifest that names its job, as it is not finished; give the job file instead: "
            "optinfer retry-quarantine JOB.yaml"
        )
    known = {name: value for name, value in manifest.job.items() if name != "notify"}
    return parse_job({**known, "sink": {**sink, "path": url}})
