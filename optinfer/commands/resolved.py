"""One job, worked out once: everything that can be refused before anything heavy is imported or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic

import pyarrow as pa

from optinfer.commands import tables
from optinfer.commands.arms import jobs_of_arms, require_alike
from optinfer.commands.identity import described, files_digest, fingerprint, identity
from optinfer.commands.subject_of import usable_subject
from optinfer.config import JobConfig
from optinfer.data.fragments import Plan
from optinfer.data.output import Output
from optinfer.optimization.proving import Proving
from optinfer.optimization.subject import Subject
from optinfer.optimization.trial import APART
from optinfer.optimization.workbench import Workbench
from optinfer.records.binding import FrozenJob
from optinfer.tuning import kept


@dataclass(frozen=True)
class Resolved:
    """A job ready to run: its table cut, its model found, its variants known, its identity computed.

    Attributes:
        sink: kind of table that its rows go to.
        carried: the source columns in the output.
        schema: all columns of the output.
        fields: what the fingerprint is made of, readable, so that a difference can be named.
        files_digest: of the input files at their versions.
        arms: of an experiment, by name: what each is made from and judged by.
        began: when it was begun to work it out, on the monotonic clock.
    """

    subject: Subject
    sink: str
    plan: Plan
    carried: pa.Schema
    schema: pa.Schema
    fields: Mapping[str, object]
    files_digest: str
    arms: Mapping[str, Subject] = field(default_factory=dict)
    began: float = field(default_factory=monotonic)

    @property
    def config(self) -> JobConfig:
        return self.subject.config

    @property
    def params(self) -> Mapping[str, object]:
        """Describe job, model and data for a tracker."""
        return described(self.subject, self.files_digest)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)

    @property
    def frozen(self) -> FrozenJob:
        """Return what the output is bound to."""
        return FrozenJob(fingerprint=self.fingerprint, fields=self.fields)

    @property
    def proving(self) -> Proving:
        """Return what the job's variants are proved with, wherever that is."""
        return Proving(self.subject, self.plan.sample_from, kept.lookup, APART)

    @property
    def proving_of_arms(self) -> dict[str, Proving]:
        """Return the same of each arm of an experiment; the sample is the job's."""
        return {name: replace(self.proving, subject=arm) for name, arm in self.arms.items()}

    def bench(self, say: Callable[[str], None] = lambda line: None) -> Workbench:
        """Return the bench on which the job's variants are built and proved here; it draws the sample."""
        return self.proving.bench(say)

    def output(self) -> Output:
        return Output(self.config.sink.path, self.sink)


def resolve(config: JobConfig, runs_here: bool = True) -> Resolved:
    """Find the model, cut the table, check columns and variant names; write nothing.

    Args:
        runs_here: a variant that it names has to run on this machine.

    Raises:
        ConfigError: the job cannot work; says what to change.
        SourceError: an input file cannot be read.
        UnavailableError: the variant cannot run on this machine.
    """
    began = monotonic()
    source, sink = tables.kinds(config)
    subject = usable_subject(config, source, runs_here)
    arms = {name: usable_subject(job, source, runs_here) for name, job in jobs_of_arms(subject.config).items()}
    plan = tables.cut(subject.config, source, sink, subject.model)
    carried, schema = tables.output_columns(subject.config, subject.family, plan.schema, sink)
    for name, arm in arms.items():
        require_alike(name, arm, subject, plan.schema)
    fields, files = identity(subject, plan, arms), files_digest(plan)
    return Resolved(subject, sink, plan, carried, schema, fields, files, arms, began)
