"""Ray's Jobs API over HTTP: the one file that knows it.

Ray's client asks without a time limit and takes a variable above the address that is given; both are put right here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optinfer.deployment.jobs import Entry, JobState, UnknownJobError, UnreachableError, UnreadableLogError
from optinfer.errors import ConfigError, OptinferError, redact, scrubbed
from optinfer.execution.reach import require_reachable

T = TypeVar("T")
_OPTION, _VARIABLES = "--address", ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_HEADERS_VARIABLE = "RAY_JOB_HEADERS"
_CONNECT_SECONDS, _ANSWER_SECONDS, _UPLOAD_SECONDS = 10.0, 60.0, 600.0
_STATUS = re.compile(r"status code (\d+)")
_NO_SUCH, _SERVER_ERROR = 404, 500
_TAKEN = "already exists"
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
_FORMS = "http://HOST:8265, https://…, ray://HOST:10001, HOST:6379 or auto"
_TOKEN = (
    "set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH=FILE or ~/.ray/auth_token to the cluster's token (on its head: "
    "`ray get-auth-token`), with RAY_AUTH_MODE=token"
)


@dataclass(frozen=True)
class Reach:
    """How a cluster is reached: as `ray job submit` is told."""

    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    verify: bool | str = True


class RayJobs:
    """The jobs of one Ray cluster.

    Raises:
        ConfigError: the cluster wants a token and none or another one is given.
        UnreachableError: nobody answers at the address.
    """

    def __init__(self, reach: Reach) -> None:
        self._where, self._named_by = _chosen(reach.address)
        if "://" not in self._where or self._where.startswith("ray://"):
            self._require_head()
        headers = dict(reach.headers) or _headers_of_environment()
        if reach.verify is False:
            _leave_out_warnings()
        with _as_variable(self._where):
            self._client = self._asked(lambda: _client(headers, reach.verify))

    @property
    def address(self) -> str:
        return redact(str(self._client.get_address()))

    def starting_with(self, prefix: str) -> list[JobState]:
        found = self._asked(self._client.list_jobs)
        return [_state(job) for job in found if (job.submission_id or "").startswith(prefix)]

    def state(self, id: str) -> JobState:
        return _state(self._asked(lambda: self._client.get_job_info(id)))

    def send(self, id: str, entry: Entry) -> bool:
        def submit() -> bool:
            self._client.submit_job(
                entrypoint=entry.command,
                submission_id=id,
                runtime_env={"working_dir": str(entry.folder), "env_vars": dict(entry.env)},
                metadata=dict(entry.metadata),
            )
            return True

        try:
            return self._asked(submit)
        except OptinferError as error:
            if _TAKEN in str(error.__cause__):
                return False
            raise

    def log(self, id: str) -> str:
        try:
            return str(self._asked(lambda: self._client.get_job_logs(id)))
        except UnreachableError as error:
            if _status_of(error.__cause__) == _SERVER_ERROR:
                raise UnreadableLogError(f"the log of {id} cannot be read: {_said(error.__cause__)}") from error
            raise

    def stop(self, id: str) -> None:
        self._asked(lambda: self._client.stop_job(id))

    def _require_head(self) -> None:
        """Refuse what Ray would ask for the better part of a minute."""
        try:
            require_reachable(self._where, self._named_by)
        except OptinferError as error:
            raise UnreachableError(f"{error}; the Jobs API is at http://HOST:8265") from error

    def _asked(self, call: Callable[[], T]) -> T:
        """Return what `call` does, with Ray's errors as ours."""
        from ray.exceptions import AuthenticationError, RayError
        from requests.exceptions import RequestException, SSLError

        try:
            return call()
        except AuthenticationError as error:
            # Raised before anybody is asked, too: where RAY_AUTH_MODE=token and there is none.
            problem = (
                "does not take this token" if "failed" in str(error)[:40] else "wants a token, and there is none here"
            )
            raise ConfigError(f"the cluster at {self._shown} {problem}; {_TOKEN}") from error
        except (RequestException, ConnectionError, RayError) as error:
            # Ray's client hides what happened behind an error of its own.
            cause = error.__context__ or error
            fix = f"check {self._named_by} ({_FORMS}) and that the cluster runs"
            if isinstance(error, SSLError) or isinstance(cause, SSLError):
                fix = "give --verify FILE with the certificate of its authority"
            raise UnreachableError(f"no Jobs API answers at {self._shown}: {_said(cause)}; {fix}") from error
        except RuntimeError as error:
            raise self._answered(error) from error
        except (ValueError, AssertionError, FileNotFoundError) as error:
            raise ConfigError(f"{self._shown}: {_said(error)}; check {self._named_by} ({_FORMS})") from error

    def _answered(self, error: RuntimeError) -> OptinferError:
        status = _status_of(error)
        if status == _NO_SUCH:
            return UnknownJobError(f"the cluster at {self._shown} knows no such job")
        if status is not None and status >= _SERVER_ERROR:
            return UnreachableError(f"the cluster at {self._shown} cannot answer: {_said(error)}")
        return OptinferError(f"the cluster at {self._shown} refuses this: {_said(error)}")

    @property
    def _shown(self) -> str:
        return redact(self._where)


def _chosen(given: str | None) -> tuple[str, str]:
    """Return the address, and what named it: the option, a variable, or Ray's own search of this machine."""
    named = [(given or "", _OPTION), *((os.environ.get(name, ""), name) for name in _VARIABLES)]
    return next(((address.strip(), by) for address, by in named if address.strip()), ("auto", _OPTION))


def _client(headers: dict[str, str], verify: bool | str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
            # What has no limit waits for ever where a connection is half open.
            answer = _ANSWER_SECONDS if method == "GET" else _UPLOAD_SECONDS
            return super()._do_request(method, endpoint, timeout=(_CONNECT_SECONDS, answer), **given)

    return Client(headers=headers, verify=verify)


@contextlib.contextmanager
def _as_variable(address: str) -> Iterator[None]:
    """Name an address where Ray's client looks first."""
    name = _VARIABLES[0]
    before = os.environ.get(name)
    if address != "auto":
        os.environ[name] = address
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _leave_out_warnings() -> None:
    """Leave out the line that each request would print where nobody looks at certificates, as was asked."""
    from urllib3 import disable_warnings

    disable_warnings()


def _headers_of_environment() -> dict[str, str]:
    text = os.environ.get(_HEADERS_VARIABLE)
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f'{_HEADERS_VARIABLE} is no JSON object of texts; write it as {{"NAME": "VALUE"}}')
    return {str(name): str(value) for name, value in found.items()}


def _state(job: Any) -> JobState:
    return JobState(
        id=job.submission_id or "",
        status=str(job.status),
        exit_code=job.driver_exit_code,
        message=job.message or "",
    )


def _status_of(error: BaseException | None) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _said(error: BaseException | None) -> str:
    """Return the last line of an error, which may hold a traceback of the server's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return scrubbed(lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
