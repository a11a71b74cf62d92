"""The two tables of a job: the source, cut into fragments, and the columns that the sink will have."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from optinfer.config import JobConfig
from optinfer.data import sinks, sources
from optinfer.data.carrying import require_carried
from optinfer.data.fragments import Plan, rows_for_model
from optinfer.data.in_place import gained
from optinfer.data.output import Output
from optinfer.data.places import require_apart
from optinfer.data.storage import absolute
from optinfer.errors import ConfigError, redact
from optinfer.execution.arms import require_key
from optinfer.families import FAMILIES, Family
from optinfer.models.artifact import Artifact
from optinfer.system.outages import reaching


def kinds(config: JobConfig) -> tuple[str, str]:
    """Return what kinds of table the job reads and writes.

    Raises:
        ConfigError: there is none of that kind, or one lies in the other.
    """
    require_apart(config.source.path, config.sink.path)
    return sources.kind_of(config.source), sinks.kind_of(config.sink)


def cut(config: JobConfig, source: str, sink: str, model: Artifact) -> Plan:
    """List the source and cut it: smaller fragments for a larger model.

    An output that was begun goes on with the version of the table that it began with.

    Raises:
        SourceError: a file cannot be read.
    """
    version = config.source.version
    begun = _begun(config, source, sink) if version is None else None
    if begun is not None:
        at_begin = config.source.model_copy(update={"version": begun})
        plan = _cut(config.model_copy(update={"source": at_begin}), source, model)
        said = (
            f"{redact(config.source.path)} is read at version {begun}, with which {redact(config.sink.path)} was begun"
        )
        return replace(plan, warnings=(*plan.warnings, f"{said}; later rows are for a job with another sink.path"))
    return _cut(config, source, model)


def _begun(config: JobConfig, source: str, sink: str) -> int | None:
    """Return the version of the table that the output holds rows of, and not yet all; None where there is none."""
    if not sources.SOURCES.get(source).versioned:
        return None
    output = Output(config.sink.path, sink)
    with reaching(config.sink.path):
        job = output.binding.job()
        version = job.version_of(redact(absolute(config.source.path))) if job else None
        unfinished = version is not None and output.manifest() is None and bool(output.sink.committed())
    return version if unfinished else None


def _cut(config: JobConfig, source: str, model: Artifact) -> Plan:
    named = [name for name in (config.gate.label, config.experiment.key) if name]
    needed = [*config.source.columns_read, *config.sink.columns, *named]
    rows = rows_for_model(FAMILIES.get(config.model.family).fragment_rows, model.size_bytes)
    return sources.SOURCES.get(source).plan(config.source, list(dict.fromkeys(needed)), rows)


def with_columns_by_name(config: JobConfig, family: Family) -> JobConfig:
    """Return the job with every role mapped that it leaves to the family: to the source column of the same name."""
    if not FAMILIES.get(config.model.family).roles_are_columns:
        return config
    columns = {**{role: role for role in family.roles}, **config.source.columns}
    return config.model_copy(update={"source": config.source.model_copy(update={"columns": columns})})


def require_roles(config: JobConfig, family: Family) -> None:
    """Refuse source columns that do not map just the family's roles."""
    roles = family.roles
    needs = f"{config.model.family} needs {', '.join(roles)}"
    if missing := [role for role in roles if role not in config.source.columns]:
        raise ConfigError(f"source.columns lacks {missing[0]!r}: {needs}; add `{missing[0]}: <a source column>`")
    if unknown := [role for role in config.source.columns if role not in roles]:
        raise ConfigError(f"source.columns has {unknown[0]!r}: {needs}; other columns to keep go into sink.columns")


def output_columns(config: JobConfig, family: Family, source: pa.Schema, sink: str) -> tuple[pa.Schema, pa.Schema]:
    """Return the columns of the output that say whose a row is (source columns, an experiment's), and all of it.

    Raises:
        ConfigError: the model cannot take a source column, or the sink cannot hold one.
    """
    family.check(source, config.source.columns)
    carried = pa.schema([source.field(name) for name in config.sink.columns])
    require_carried(carried)
    added, experiment = gained(family.schema, config.sink.on_error), config.experiment
    names = added.names
    if experiment.key is not None:
        _require_deals(config, source, names)
        carried, names = carried.append(pa.field(experiment.column, pa.string())), [*names, experiment.column]
    _require_distinct(config.sink.columns, names)
    schema = pa.schema([*carried, *added])
    sinks.SINKS.get(sink).check(config.sink.path, schema)
    return carried, schema


def _require_deals(config: JobConfig, source: pa.Schema, added: list[str]) -> None:
    """Refuse an experiment whose key deals nothing, or whose column is another's."""
    key, column = str(config.experiment.key), config.experiment.column
    require_key(source, key)
    for taken, whose in (([*config.source.columns_read, key], "the job reads"), (added, "the model adds")):
        if column in taken:
            raise ConfigError(f"experiment.column {column!r} is a column that {whose}; name another")


def _require_distinct(columns: tuple[str, ...], names: list[str]) -> None:
    added = {name.casefold() for name in names}  # DuckDB and Spark do not tell `Label` from `label`
    if clash := sorted({name for name in columns if name.casefold() in added}):
        raise ConfigError(f"sink.columns {clash} has the name of a column that the job adds; leave it out")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ConfigError(f"sink.columns names {twice} twice; name each column once")
