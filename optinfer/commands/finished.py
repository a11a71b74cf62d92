"""A finished output with its job, as both are today: what verify and explain score rows again with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optinfer.commands import tables
from optinfer.commands.identity import files_digest
from optinfer.commands.job_of import job_of, source_fields, with_source_as_it_was
from optinfer.commands.subject_of import subject_of
from optinfer.config import JobConfig
from optinfer.data.output import Output
from optinfer.data.stored import SourceNow, StoredPart, read_part, source_now
from optinfer.errors import ConfigError, SourceError
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
        return read_part(self.output, name, start, self.config.sink.on_error)


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
    config = with_source_as_it_was(config, job.fields)
    say(f"finding the model and the table of {config.name}")
    kind, sink = tables.kinds(config)
    subject = subject_of(config, kind, catalog(config))
    try:
        today = tables.cut(subject.config, kind, sink, subject.model)
        same = files_digest(today) == source_fields(job.fields).get("files")
        source = source_now(frozen, today, same)
    except (SourceError, ConfigError) as error:
        source = source_now(frozen, str(error), same_files=False)
    return Finished(output, manifest, subject.config, subject, source)
