"""A job's model, found and read as its family, whatever becomes of its table."""

from __future__ import annotations

from optinfer.commands import tables
from optinfer.config import JobConfig
from optinfer.data.places import require_apart
from optinfer.models.registered import pinned
from optinfer.models.source import locate
from optinfer.optimization.subject import Subject, load_family
from optinfer.optimization.variants import Catalog


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
