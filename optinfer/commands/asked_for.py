"""What a command is pointed at: a job file, or the folder that a job writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from optinfer.config import MODEL_VERSION, JobConfig
from optinfer.errors import ConfigError
from optinfer.job_file import load_job
from optinfer.models.registered import pinned
from optinfer.system import dates

_JOB_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Target:
    """An output, with its job where that was named."""

    url: str
    config: JobConfig | None = None


def target(text: str, night: date | None = None) -> Target:
    """Return what a job file or a folder's path or URL names; `night` is the logical date of what is dated.

    Raises:
        ConfigError: it is a job file that cannot be read, or nothing at all.
    """
    if not text.strip():
        raise ConfigError("nothing is named; give a job file, or the job's sink.path")
    if text.lower().endswith(_JOB_FILES):
        config = load_job(text, (), night)
        if MODEL_VERSION in config.sink.path:
            config = pinned(config)[0]
        return Target(config.sink.path, config)
    return Target(dates.argument(text, night))
