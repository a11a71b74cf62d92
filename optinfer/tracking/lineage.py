"""A run as OpenLineage events: what it reads and writes, under the names that the specification gives such tables.

The package is only imported where events are sent, on the courier's thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from optinfer.errors import without_secrets
from optinfer.records.news import DONE, FAILED, Begun, Dataset, Ended
from optinfer.system.machine import installed as version_of
from optinfer.tracking.courier import Letter, Refused, origin

URL = "OPENLINEAGE_URL"
_DISABLED, _NAMESPACE = "OPENLINEAGE_DISABLED", "OPENLINEAGE_NAMESPACE"
_PRODUCER = f"urn:optinfer:{version_of('optinfer')}"
_SAME_STORE = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}


def wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether events are to be sent."""
    return bool(environ.get(URL)) and environ.get(_DISABLED, "").lower() not in ("true", "1")


def installed() -> bool:
    return find_spec("openlineage") is not None and find_spec("openlineage.client") is not None


def named(url: str) -> tuple[str, str]:
    """Return the namespace and the name of a table by its absolute path or URL, without credentials."""
    if "://" not in url or url.startswith("file://"):
        return "file", url.removeprefix("file://").rstrip("/")
    parts = urlsplit(url)
    scheme = _SAME_STORE.get(parts.scheme, parts.scheme)
    user, _, host = parts.netloc.rpartition("@")
    place = host if ":" in user or not scheme.startswith("abfs") else parts.netloc  # there it is the container
    return f"{scheme}://{place}", parts.path.strip("/") if scheme in ("s3", "gs") else parts.path.rstrip("/")


class Lineage:
    """The events of one run."""

    def __init__(self, begun: Begun, environ: Mapping[str, str]) -> None:
        self._begun, self._url = begun, environ[URL]
        self._namespace = environ.get(_NAMESPACE) or "default"
        self._client: Any = None

    def start(self) -> Letter:
        return self._letter("START", self._begun.time, None)

    def end(self, ended: Ended) -> Letter:
        kind = {DONE: "COMPLETE", FAILED: "FAIL"}.get(ended.kind, "ABORT")
        return self._letter(kind, ended.time, ended)

    def _letter(self, kind: str, time: float, ended: Ended | None) -> Letter:
        told = {"event": kind, "time": time, **asdict(self._begun), "message": ended.message if ended else ""}
        return Letter(
            what=f"the lineage event {kind}",
            to=origin(self._url),
            body=json.dumps(told, default=str),
            deliver=lambda given_up: self._emit(kind, time, ended, given_up),
        )

    def _emit(self, kind: str, time: float, ended: Ended | None, given_up: threading.Event) -> None:
        from openlineage.client import OpenLineageClient

        from optinfer.system.quiet import hush

        hush()
        try:
            self._client = self._client or OpenLineageClient()
            if not given_up.is_set():
                self._client.emit(self._event(kind, time, ended))
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {without_secrets(self._url, str(error))}") from error

    def _event(self, kind: str, time: float, ended: Ended | None) -> Any:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState, set_producer
        from openlineage.client.facet_v2 import error_message_run, job_type_job
        from openlineage.client.uuid import generate_static_uuid

        set_producer(_PRODUCER)
        begun = self._begun
        failed = ended is not None and bool(ended.message)
        message = error_message_run.ErrorMessageRunFacet(ended.message, "python") if ended and failed else None
        batch = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="OPTINFER", jobType="JOB")
        run_id = generate_static_uuid(_instant(begun.time), begun.run_id.encode())
        return RunEvent(
            eventType=RunState[kind],
            eventTime=_instant(time).isoformat(),
            run=Run(str(run_id), {"errorMessage": message} if message else {}),
            job=Job(self._namespace, begun.job, {"jobType": batch}),
            producer=_PRODUCER,
            inputs=[_input(begun.source)],
            outputs=[_output(begun.sink, ended)],
        )


def _instant(time: float) -> datetime:
    return datetime.fromtimestamp(time, tz=UTC)


def _schema(table: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import schema_dataset

    fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in table.fields]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}


def _input(table: Dataset) -> Any:
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(*named(table.url), facets=_schema(table))


def _output(table: Dataset, ended: Ended | None) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    rows = statistics.OutputStatisticsOutputDatasetFacet(rowCount=ended.rows) if ended and ended.rows else None
    return OutputDataset(
        *named(table.url), facets=_schema(table), outputFacets={"outputStatistics": rows} if rows else {}
    )
