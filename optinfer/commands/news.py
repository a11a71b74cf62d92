"""Tells those outside how a run goes: the job's webhook, and OpenLineage where the environment names an endpoint.

Nothing here changes a run: what an endpoint does or does not do costs a bounded wait at the end, and one line.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import pyarrow as pa

from optinfer.commands.resolved import Resolved
from optinfer.config import JobConfig
from optinfer.data.storage import absolute
from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.records.news import DONE, FAILED, INTERRUPTED, Begun, Dataset, Ended
from optinfer.records.run import RunRecord
from optinfer.secrets import clean
from optinfer.system import home, last_resort
from optinfer.tracking import lineage
from optinfer.tracking.courier import Courier, Undelivered
from optinfer.tracking.events import NotDelivered
from optinfer.tracking.journal import Journal
from optinfer.tracking.webhook import Webhook

# The end of a job is delayed by no more than this.
_WAIT_SECONDS = 1.5


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

    def __enter__(self) -> News:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._send(_failure(self._config, self._run_id, error))
        until = time.monotonic() + _WAIT_SECONDS
        late = [one for to in (self._to_webhook, self._to_lineage) for one in to.close(until - time.monotonic())]
        if late:
            self._keep(late)

    def started(self, job: Resolved) -> None:
        """Tell that a run has begun."""
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
        if self._webhook and ended.kind in self._config.notify.on:
            self._to_webhook.send(self._webhook.letter(self._run_id, ended))
        if self._lineage:
            self._to_lineage.send(self._lineage.end(ended))

    def _keep(self, late: list[Undelivered]) -> None:
        path = home.runs() / self._run_id / "journal.jsonl"
        kept = "it is not kept, as the journal cannot be written"
        with contextlib.suppress(OptinferError), Journal(path, time.time) as journal:
            for one in late:
                letter = one.letter
                journal.write(NotDelivered(what=letter.what, to=letter.to, reason=one.reason, body=letter.body))
            kept = f"kept in {path}"
        for one in late:
            self._say(f"warning: {one.letter.what} did not reach {one.letter.to}: {one.reason}; {kept}")


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


def _failure(config: JobConfig, run_id: str, error: BaseException) -> Ended:
    """Return the end of a run as `run --json` tells it, with the run's own names beside it."""
    code, message = last_resort.ended(error)
    kind = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    record = {
        "status": kind,
        "run_id": run_id,
        "job": config.name,
        "output": redact(_full(config.sink.path)),
        "error": type(error).__name__,
        "message": message,
        "exit_code": code,
    }
    return Ended(kind=kind, time=time.time(), record=record, message=message)
