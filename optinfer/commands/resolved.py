"""One job, worked out once: everything that can be refused before anything heavy is imported or written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig
from optinfer.data import sinks, sources
from optinfer.data.binding import fingerprint
from optinfer.data.carrying import require_carried
from optinfer.data.fragments import Plan, rows_for_model
from optinfer.data.output import Output
from optinfer.data.places import require_apart
from optinfer.data.storage import absolute
from optinfer.errors import ConfigError, redact, suggest
from optinfer.families import FAMILIES
from optinfer.models import source as model_source
from optinfer.models.artifact import Artifact
from optinfer.optimization.pools import recipes_beside, wanted_beside
from optinfer.optimization.selection import recipes, wanted
from optinfer.optimization.subject import Subject, load_family
from optinfer.optimization.trial import APART
from optinfer.optimization.variants import catalog, require_fit
from optinfer.optimization.workbench import Workbench
from optinfer.tuning import kept


@dataclass(frozen=True)
class Resolved:
    """A job ready to run: its table cut, its model found, its variants known, its identity computed.

    Attributes:
        sink: kind of table that its rows go to.
        carried: the source columns in the output.
        schema: all columns of the output.
        fields: what the fingerprint is made of, readable, so that a difference can be named.
    """

    subject: Subject
    sink: str
    plan: Plan
    carried: pa.Schema
    schema: pa.Schema
    fields: dict[str, Any]

    @property
    def config(self) -> JobConfig:
        return self.subject.config

    @property
    def model(self) -> Artifact:
        """The model as it was found, on this machine."""
        return self.subject.model

    @property
    def params(self) -> dict[str, Any]:
        """Describe job, model and data for a tracker."""
        return {
            "job": self.config.name,
            "family": self.config.model.family,
            "model.path": redact(self.config.model.path),
            "model.digest": self.model.key,
            "data.digest": self.fields["source"]["files"],
        }

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)

    def bench(self, say: Callable[[str], None] = lambda line: None) -> Workbench:
        """Return the bench on which the job's variants are built and proved; it draws the sample."""
        return Workbench(self.subject, self.plan.fragments, say, kept.lookup, APART)

    def output(self) -> Output:
        return Output(self.config.sink.path, self.sink)


def resolve(config: JobConfig) -> Resolved:
    """Find the model, cut the table, check columns and variant names; write nothing.

    Raises:
        ConfigError: the job cannot work; says what to change.
        SourceError: an input file cannot be read.
        UnavailableError: the variant cannot run on this machine.
    """
    require_apart(config.source.path, config.sink.path)
    source, sink = sources.kind_of(config.source), sinks.kind_of(config.sink)
    settings, known = config.model.settings, catalog(config)
    _check_device(config)
    # What cannot run here is refused before a model is fetched.
    variants = [*wanted(config, known), *wanted_beside(config, known)]
    model = model_source.locate(config.model, config.tracking.uri)
    family = load_family(config, model, settings)
    subject = Subject(config=config, source=source, model=model, family=family, family_settings=settings, catalog=known)
    _check_roles(config, family.roles)
    _ = subject.metric
    for variant in variants:
        require_fit(variant, model.format)
    plan = _plan(config, source, model)
    family.check(plan.schema, config.source.columns)
    carried = pa.schema([plan.schema.field(name) for name in config.sink.columns])
    require_carried(carried)
    _check_sink(config, family.schema.names)
    schema = pa.schema([*carried, *family.schema])
    sinks.SINKS.get(sink).check(config.sink.path, schema)
    return Resolved(subject, sink, plan, carried, schema, _fields(subject, plan))


def _plan(config: JobConfig, source: str, model: Artifact) -> Plan:
    needed = [*config.source.columns_read, *config.sink.columns, *([config.gate.label] if config.gate.label else [])]
    rows = rows_for_model(FAMILIES.get(config.model.family).fragment_rows, model.size_bytes)
    return sources.SOURCES.get(source).plan(config.source, list(dict.fromkeys(needed)), rows)


def _fields(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Return everything that shapes the output."""
    config, further = subject.config, recipes_beside(subject.config, subject.catalog)
    return {
        "source": {
            "path": redact(absolute(config.source.path)),
            "files": _digest([asdict(f) for f in plan.files]),
            "rows": plan.rows,
            "columns": config.source.columns,
            "fragments": plan.fragments.digest(),
            "bad_files": [redact(path) for path, _ in plan.bad_files],
            **({} if plan.version is None else {"version": plan.version}),
        },
        "model": {"digest": subject.model.key, "family": config.model.family, **subject.family_settings},
        "variant": recipes(config, subject.catalog),
        "batching": config.batching.model_dump(),
        "sink": {"columns": list(config.sink.columns)},
        **({"cpu_variant": further} if further else {}),
    }


def _check_device(config: JobConfig) -> None:
    wished, known = (
        config.placement.device,
        {AUTO, *(d for name in BACKENDS.names() for d in BACKENDS.get(name).devices)},
    )
    if wished not in known:
        raise ConfigError(f"placement.device {wished!r} is no device of any backend" + suggest(wished, known))


def _check_roles(config: JobConfig, roles: tuple[str, ...]) -> None:
    needs = f"{config.model.family} needs {', '.join(roles)}"
    if missing := [role for role in roles if role not in config.source.columns]:
        raise ConfigError(f"source.columns lacks {missing[0]!r}: {needs}; add `{missing[0]}: <a source column>`")
    if unknown := [role for role in config.source.columns if role not in roles]:
        raise ConfigError(f"source.columns has {unknown[0]!r}: {needs}; other columns to keep go into sink.columns")


def _check_sink(config: JobConfig, gained: list[str]) -> None:
    columns = config.sink.columns
    added = {name.casefold() for name in gained}  # DuckDB and Spark do not tell `Label` from `label`
    if clash := sorted({name for name in columns if name.casefold() in added}):
        raise ConfigError(f"sink.columns {clash} has the name of a column the model adds; leave it out")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ConfigError(f"sink.columns names {twice} twice; name each column once")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
