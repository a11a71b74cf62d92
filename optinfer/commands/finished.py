"""A finished output with its job, as both are today: what verify and explain score rows again with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optinfer.commands import tables
from optinfer.commands.identity import files_digest
from optinfer.commands.resolved import subject_of
from optinfer.config import JobConfig
from optinfer.data import sinks, sources
from optinfer.data.in_place import COLUMN
from optinfer.data.output import Output
from optinfer.data.storage import is_local
from optinfer.data.stored import SourceNow, StoredPart, read_part, source_now
from optinfer.errors import ConfigError, SourceError, redact
from optinfer.job_file import parse_job
from optinfer.optimization.subject import Subject
from optinfer.optimization.variants import catalog
from optinfer.records.manifest import Manifest
from optinfer.system.outages import reaching


@dataclass(frozen=True, eq=False)
class Finished:
    """An output that is done.

    Attributes:
        config: the job, as its manifest has it.
        subject: its model, as it is found today.
        source: its table, as it lies there today.
    """

    output: Output
    manifest: Manifest
    config: JobConfig
    subject: Subject
    source: SourceNow

    @property
    def total(self) -> int:
        """How many fragments it has."""
        return len(self.source.frozen)

    def part(self, name: str, index: int) -> StoredPart:
        """Return a fragment as it is stored.

        Raises:
            AccountingError: its part is gone, or none any more.
        """
        start = int(self.source.frozen.start[index])
        return read_part(self.output, name, start, self.config.sink.on_error == COLUMN)


def job_of(url: str, instead: str) -> tuple[Output, Manifest, JobConfig]:
    """Return an output, its manifest, and the job as that has it.

    Whoever was notified is not in it, as no manifest has the whole URL.

    Args:
        instead: what to do where there is none, in an error.

    Raises:
        ConfigError: the folder has no manifest that names a job.
    """
    with reaching(url):
        output = Output(url)
        manifest = output.manifest()
    if manifest is None or not isinstance(sink := manifest.job.get("sink"), dict):
        raise ConfigError(f"{redact(url)} has no manifest that names its job, as it is not finished; {instead}")
    known = {name: value for name, value in manifest.job.items() if name != "notify"}
    return output, manifest, parse_job({**known, "sink": {**sink, "path": url}})


def finished(url: str, say: Callable[[str], None]) -> Finished:
    """Open a finished output, find its model, and plan its table anew.

    Raises:
        ConfigError: it is none, or its model is not there.
    """
    output, manifest, config = job_of(url, "run its job to the end first")
    with reaching(url):
        frozen, job = output.binding.planned(), output.binding.job()
    if frozen is None or job is None:
        raise ConfigError(
            f"{output.shown} does not say what it was cut from, as its _optinfer/plan.pq or job.json is gone; run the "
            "job again, which puts them back"
        )
    config = _source_as_it_was(config, job.fields)
    say(f"finding the model and the table of {config.name}")
    subject = subject_of(config, sources.kind_of(config.source), catalog(config))
    try:
        today = tables.cut(subject.config, subject.source, sinks.kind_of(config.sink), subject.model)
        same = files_digest(today) == _source(job.fields).get("files")
        source = source_now(frozen, today, same)
    except (SourceError, ConfigError) as error:
        source = source_now(frozen, str(error), same_files=False)
    return Finished(output, manifest, subject.config, subject, source)


def _source_as_it_was(config: JobConfig, fields: Mapping[str, object]) -> JobConfig:
    """Return the job with the full path of its table, and the version of it that was scored."""
    known = _source(fields)
    changes = {"version": known["version"]} if "version" in known else {}
    if is_local(config.source.path) and "path" in known:
        changes["path"] = known["path"]
    return config.model_copy(update={"source": config.source.model_copy(update=changes)})


def _source(fields: Mapping[str, object]) -> Mapping[str, object]:
    known = fields.get("source")
    return known if isinstance(known, Mapping) else {}
