"""What MLflow is told of a job when one of its runs begins, whatever the command, and when its table is scored."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from optinfer.commands.resolved import Resolved
from optinfer.data.storage import absolute
from optinfer.models import source as model_source
from optinfer.records.manifest import Manifest
from optinfer.records.notes import begun, run_note
from optinfer.secrets import redact
from optinfer.system import home
from optinfer.system.machine import peak_rss_mb
from optinfer.tracking import origin
from optinfer.tracking.events import Dataset, Finished, Params, Started
from optinfer.tracking.measured import of_drift, of_run
from optinfer.tracking.mlflow_run import run_name
from optinfer.tracking.mlflow_store import RUN_ID
from optinfer.tracking.tally import Tally


def command_begun(job: Resolved, run_id: str, command: str, doing: str, params: Mapping[str, object]) -> Started:
    """Return the beginning of a run that scores no table: of `optimize`, say.

    Args:
        doing: what it does with the job, for its description until it ends.
        params: beside those of the job.
    """
    known = {**job.params, **params}
    return Started(
        run_name=run_name(known, command),
        params=known,
        tags={RUN_ID: run_id, **origin.tags()},
        note=begun(job.config.name, doing),
        model_id=_model_id(job),
    )


def run_begun(job: Resolved, run_id: str) -> Started:
    """Return the beginning of a run of the job itself."""
    config, rows = job.config, job.plan.rows
    params: Params = {
        **job.params,
        "variant.asked": config.variant,
        "data.rows": rows,
        "data.files": len(job.plan.files),
        "fragments": len(job.plan.fragments),
        "batching.max_batch_tokens": config.batching.max_batch_tokens,
        "batching.max_batch_size": config.batching.max_batch_size,
        "batching.dedupe": config.batching.dedupe,
    }
    table = _table(config.source.path, job.files_digest, "input", rows, job.plan.schema)
    return Started(
        run_name=run_name(params, config.variant),
        params=params,
        tags={RUN_ID: run_id, "optinfer.fingerprint": job.fingerprint, **origin.tags()},
        inputs=(table,),
        note=begun(config.name, f"scores {rows:,} rows of `{table.name}` with `{config.variant}`"),
        model_id=_model_id(job),
    )


def run_ended(job: Resolved, tally: Tally, manifest: Manifest, artifacts: Mapping[str, str]) -> Finished:
    """Return the end of a run that scored all rows."""
    run, config = manifest.run, job.config
    return Finished(
        metrics={**of_run(run, tally, peak_rss_mb()), **of_drift(run.drift)},
        outputs=(_table(config.sink.path, job.fingerprint, "output", run.rows_out, job.schema),),
        artifacts=artifacts,
        note=run_note(run, _name(config.source.path)),
    )


def _model_id(job: Resolved) -> str:
    """Return the id of the logged model that the job scores with, where its MLflow has that; "" elsewhere."""
    fetched = model_source.origin(job.subject.model)
    here = redact(job.config.tracking.uri or home.default_tracking_uri())
    return fetched["model_id"] if fetched and fetched["tracking"] == here else ""


def _table(path: str, digest: str, context: str, rows: int, schema: pa.Schema) -> Dataset:
    columns = {field.name: str(field.type) for field in schema}
    source = redact(absolute(path))
    return Dataset(name=_name(path), digest=digest, source=source, context=context, rows=rows, columns=columns)


def _name(path: str) -> str:
    return redact(absolute(path)).rstrip("/").rpartition("/")[2]
