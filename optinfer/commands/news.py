"""Tells those outside how a run goes: the job's webhook, and OpenLineage where the environment names an endpoint.

Nothing here changes a run: what an endpoint does or does not do costs a bounded wait at the end, and one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import pyarrow as pa

from optinfer.commands.last_news import WAIT_SECONDS, failure, keep
from optinfer.commands.resolved import Resolved
from optinfer.config import JobConfig
from optinfer.data.storage import absolute
from optinfer.errors import ConfigError, redact
from optinfer.records.news import DONE, Begun, Dataset, Ended
from optinfer.records.run import RunRecord
from optinfer.secrets import clean
from optinfer.system import will
from optinfer.tracking import lineage
from optinfer.tracking.courier import Courier
from optinfer.tracking.webhook import Webhook


class News:
    """The news of one run; a `with` block sends its end, with the error that ended it.

    Args:
        say: is told what did not arrive.
        environ: has the webhook's secret, and what OpenLineage is told.
    """

    def __init__(
        self, config: JobConfig, run_id: str, say: Callable[[str], None], environ: Mapping[str, str] = os.environ
    ) -> None:
        self._config, self._run_id, self._say, self._environ = config, run_id, say, environ
        self._webhook = _webhook(config, environ)
        self._to_webhook, self._to_lineage = Courier("notify"), Courier("lineage")
        self._lineage: lineage.Lineage | None = None
        self._done = False
        if self._webhook:
            notify = config.notify
            will.leave(
                will.NEWS, run_id=run_id, job=config.name, output=redact(_full(config.sink.path)), url=str(notify.url),
                secret_env=notify.secret_env or "", on=" ".join(notify.on),
            )  # fmt: skip

    def __enter__(self) -> News:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            output = redact(_full(self._config.sink.path))
            self._send(failure(self._run_id, self._config.name, output, error))
        until = time.monotonic() + WAIT_SECONDS
        late = [one for to in (self._to_webhook, self._to_lineage) for one in to.close(until - time.monotonic())]
        if late:
            keep(self._run_id, late, self._say)
        will.leave(will.TOLD)

    def started(self, job: Resolved) -> None:
        """Tell that a run has begun."""
        self._config = job.config  # an output by the model's version has its name now
        if not lineage.wanted(self._environ):
            return
        if not lineage.installed():
            self._say(
                f"warning: {lineage.URL} is set and openlineage-python is not installed, so no lineage is sent; "
                "`pip install 'optinfer[lineage]'`, or unset it"
            )
            return
        begun = Begun(
            run_id=self._run_id,
            job=self._config.name,
            time=time.time(),
            source=_dataset(self._config.source.path, job.plan.schema),
            sink=_dataset(self._config.sink.path, job.schema),
        )
        self._lineage = lineage.Lineage(clean(begun), self._environ)
        self._to_lineage.send(self._lineage.start())

    def done(self, record: RunRecord) -> RunRecord:
        """Tell, once, that a run is done; return its record."""
        if not self._done:
            self._done = True
            self._send(Ended(kind=DONE, time=time.time(), record=record.as_dict(), rows=record.rows_out))
        return record

    def _send(self, told: Ended) -> None:
        ended = clean(told)
        if self._webhook:
            will.leave(will.TOLD, end=ended.kind, record=json.dumps(ended.record, default=str))
            if ended.kind in self._config.notify.on:
                self._to_webhook.send(self._webhook.letter(self._run_id, ended))
        if self._lineage:
            self._to_lineage.send(self._lineage.end(ended))


def _webhook(config: JobConfig, environ: Mapping[str, str]) -> Webhook | None:
    """Return the job's webhook, None where it names none.

    Raises:
        ConfigError: its secret is not there.
    """
    notify = config.notify
    if notify.url is None:
        return None
    secret = environ.get(notify.secret_env, "") if notify.secret_env else ""
    if notify.secret_env and not secret:
        raise ConfigError(
            f"notify.secret_env names {notify.secret_env}, and this environment has no such variable, or an empty one; "
            "export it where `optinfer run` starts, or remove notify.secret_env to post unsigned"
        )
    return Webhook(notify.url, secret)


def _dataset(path: str, schema: pa.Schema) -> Dataset:
    return Dataset(url=redact(absolute(path)), fields=tuple((field.name, str(field.type)) for field in schema))


def _full(path: str) -> str:
    with contextlib.suppress(ConfigError):  # it cannot be told, which may be what ended the run
        return absolute(path)
    return path
