"""A job's model, found and read as its family, whatever becomes of its table."""

from __future__ import annotations

from optinfer.commands import tables
from optinfer.config import JobConfig
from optinfer.data.places import require_apart
from optinfer.models.registered import pinned
from optinfer.models.source import locate
from optinfer.optimization.asked import wanted
from optinfer.optimization.subject import Subject, load_family
from optinfer.optimization.variants import Catalog, catalog, require_fit


def subject_of(config: JobConfig, source: str, known: Catalog) -> Subject:
    """Find the model, at the version that its alias stands for now; the job that comes with it names that version.

    Args:
        source: kind of table.
        known: variants that the job may use.

    Raises:
        ConfigError: the model is not there, or none of its family; or its version makes the sink the source.
    """
    config, version = pinned(config)
    require_apart(config.source.path, config.sink.path)
    settings, model = config.model.settings, locate(config.model, config.tracking.uri)
    family = load_family(config, model, settings)
    return Subject(
        config=tables.with_columns_by_name(config, family),
        source=source,
        model=model,
        family=family,
        family_settings=settings,
        catalog=known,
        version=version,
    )


def usable_subject(config: JobConfig, source: str, runs_here: bool) -> Subject:
    """Find the model of a job that is to run, and the variants that it may use; raises as `resolve` does."""
    known = catalog(config)
    variants = wanted(config, known, runs_here)  # what cannot run here is refused before a model is fetched
    subject = subject_of(config, source, known)
    tables.require_roles(subject.config, subject.family)
    _ = subject.metric  # refuses one that the family has not
    for variant in variants:
        require_fit(variant, subject.model.format)
    return subject
