"""The job that an output is of, as its manifest has it."""

from __future__ import annotations

from collections.abc import Mapping

from optinfer.config import JobConfig
from optinfer.data.output import Output
from optinfer.data.storage import is_local
from optinfer.errors import ConfigError, redact
from optinfer.job_file import parse_job
from optinfer.records.manifest import Manifest
from optinfer.system.outages import reaching


def job_of(url: str, instead: str) -> tuple[Output, Manifest, JobConfig]:
    """Return an output, its manifest, and the job as that has it.

    Whoever was notified is not in it, as no manifest has the whole URL.

    Args:
        instead: what to do where there is none, in an error.

    Raises:
        ConfigError: the folder has no manifest that names a job, or one of another version.
    """
    with reaching(url):
        output = Output(url)
        manifest = output.manifest()
    if manifest is None or not isinstance(sink := manifest.job.get("sink"), dict):
        raise ConfigError(f"{redact(url)} has no manifest that names its job, as it is not finished; {instead}")
    known = {name: value for name, value in manifest.job.items() if name != "notify"}
    try:
        return output, manifest, parse_job({**known, "sink": {**sink, "path": url}})
    except ConfigError as error:
        raise ConfigError(
            f"the manifest of {redact(url)} has its job as another version of optinfer read it ({error}); score the "
            "table with this one, into another sink.path"
        ) from error


def with_source_as_it_was(config: JobConfig, fields: Mapping[str, object]) -> JobConfig:
    """Return the job with the full path of its table, and the version of it that was scored."""
    known = source_fields(fields)
    changes = {"version": known["version"]} if "version" in known else {}
    if is_local(config.source.path) and "path" in known:
        changes["path"] = known["path"]
    return config.model_copy(update={"source": config.source.model_copy(update=changes)})


def source_fields(fields: Mapping[str, object]) -> Mapping[str, object]:
    known = fields.get("source")
    return known if isinstance(known, Mapping) else {}
