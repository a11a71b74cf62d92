"""When storage failed, and how long it is asked again: one definition, and one policy for all that is asked of it.

A store that has answered this process is waited for, whatever it says meanwhile: outages pass, and keys are renewed.
One that never answered is waited for only while it says that it is busy, or breaks off: a wrong endpoint or key is said
at once. What a store's library tries again of its own accord, for seconds, is one try here; one that takes ten minutes
hangs, and is given up. (A disk that hangs, as a mount may, is the kernel's to end: nothing here would.)
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from urllib.parse import urlsplit

import tenacity

from optinfer.errors import StorageError, redact, without_secrets
from optinfer.system.limits import within

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
# What libraries raise for an answer that did not come, or was an error, where that is no OSError.
_FOREIGN = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
# What a person has to correct, as long as the store has never answered.
_WRONG_KEYS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
_WRONG_FROM_THE_START = ("EndpointConnectionError", *_WRONG_KEYS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of a disk of this machine, which may be another machine's in truth; all else it says, it says again.
_PASSING_ON_DISKS = (errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO)
_NEVER_PASSING = (errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE)
# Places that answered when they were last asked, by scheme and host or bucket: connections are the process's, too.
_answering: set[str] = set()


def no_answers() -> tuple[type[Exception], ...]:
    """Return what libraries of stores raise that is no OSError, as far as they are loaded."""
    known = ((sys.modules.get(module), name) for module, name in _FOREIGN)
    return (http.client.HTTPException, *(getattr(module, name) for module, name in known if module))


def failures() -> tuple[type[Exception], ...]:
    """Return what is raised where storage failed, by itself or by us after waiting for it."""
    return (StorageError, OSError, *no_answers())


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn a storage failure inside a `with` block into an error that says what to check."""
    try:
        yield
    except StorageError:
        raise
    except failures() as error:
        raise failed(url, error) from error


def reason(url: str, error: BaseException) -> str:
    """Say in a line what a store said, or what became of asking it."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {without_secrets(url, ' '.join(str(cause).split()))}"


def failed(url: str, error: BaseException, waited: float = 0.0) -> StorageError:
    """Return the error that a person reads."""
    what, shown = f"{type(error).__name__}: {without_secrets(url, ' '.join(str(error).split()))}", redact(url)
    if is_full(error):
        return StorageError(
            f"no room is left for {shown} ({what}): free some and run the same command again, what is committed is kept"
        )
    tried = f" (tried for up to {waited:.0f} s)" if waited else ""
    return StorageError(f"cannot use {shown}: {what}{tried}; check the path, its permissions, credentials and endpoint")


def is_ours_to_correct(error: StorageError) -> bool:
    """Tell a store that was reached, or asked without keys, and will never do it from one that is away."""
    cause = error.__cause__
    return isinstance(cause, (PermissionError, FileNotFoundError)) or type(cause).__name__ in _WRONG_KEYS


def has_answered(url: str) -> None:
    """Note that a store does what it is asked, as another process of the same job found: a refusal passes, then."""
    _answering.add(_place(url))


def passes(error: BaseException, url: str) -> bool:
    """Tell whether waiting may change what a store that has answered says now."""
    if not isinstance(error, failures()) or isinstance(error, (StorageError, FileNotFoundError, FileExistsError)):
        return False
    number = getattr(error, "errno", None)
    if _on_disk(url):
        return number in _PASSING_ON_DISKS
    return number not in _NEVER_PASSING


@dataclass(frozen=True)
class Waiting:
    """How long a store is asked that does not do what it is asked.

    Attributes:
        seconds: of asking one that has answered before.
        first_wait, longest_wait: seconds between two tries: random, up to the first, which doubles up to the longest.
        first_seconds: of asking one that never answered.
        longest_try: of one try, after which it hangs.
    """

    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 20.0
    first_seconds: float = 10.0
    longest_try: float = 600.0

    def ask(self, url: str, work: Callable[[], _T], anew: Callable[[], object] = lambda: None) -> _T:
        """Return what `work` returns, which is called until the store does it.

        Args:
            work: leaves what it would leave if it is done twice: an error may be told after it was done.
            anew: called before another try after a refusal, to look for keys that were renewed.

        Raises:
            FileNotFoundError, FileExistsError: the store's answer.
            StorageError: it does not do it, however often it is asked.
        """
        place = _place(url)
        known = place in _answering
        seconds = self.seconds if known else self.first_seconds

        def passing(error: BaseException) -> bool:
            return passes(error, url) and (known or not _wrong_from_the_start(error))

        try:
            answer = self.trying(
                lambda: self.limited(url, work), passing, seconds, anew, f"cannot use {redact(url)}",
                lambda error: reason(url, error),
            )  # fmt: skip
        except (FileNotFoundError, FileExistsError):
            _answering.add(place)
            raise
        except StorageError:
            raise
        except failures() as error:
            _answering.discard(place)
            raise failed(url, error, seconds if passing(error) else 0.0) from error
        _answering.add(place)
        return answer

    def limited(self, url: str, work: Callable[[], _T]) -> _T:
        """Return what one try returns; one of S3, GCS, Azure or HTTP is given up where it does not end.

        Raises:
            TimeoutError: it does not.
        """
        return within(self.longest_try, work) if _is_asynchronous(url.rpartition("://")[0]) else work()

    def trying(
        self,
        work: Callable[[], _T],
        passing: Callable[[BaseException], bool],
        seconds: float,
        anew: Callable[[], object],
        what: str,
        why: Callable[[BaseException], str],
    ) -> _T:
        """Return what `work` returns, called again for so many seconds while its errors are `passing`; said once.

        Args:
            what, why: what goes wrong, and how an error of it is said.
        """

        def before_another(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if state.attempt_number == 1 and error is not None:
                _log.warning("%s: %s; trying again for %.0f s", what, why(error), seconds)
            if error is not None and _is_refusal(error.__cause__ if isinstance(error.__cause__, OSError) else error):
                anew()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            stop=tenacity.stop_before_delay(seconds),
            wait=tenacity.wait_random_exponential(multiplier=self.first_wait, max=self.longest_wait),
            before_sleep=before_another,
            reraise=True,
        )
        return retrying(work)


WAITING = Waiting()


def _is_refusal(error: BaseException) -> bool:
    """Tell what a store says of keys: a HEAD with old ones is answered 400, without a word."""
    return isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EINVAL


def _wrong_from_the_start(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or type(error).__name__ in _WRONG_FROM_THE_START


@cache
def _is_asynchronous(scheme: str) -> bool:
    """Tell whether any thread may ask a kind of store: a connection of another kind (SFTP, SMB) is its thread's own."""
    from fsspec import get_filesystem_class

    try:
        return bool(scheme) and bool(get_filesystem_class(scheme).async_impl)
    except (ImportError, ValueError):  # who opens it is told
        return False


def _on_disk(url: str) -> bool:
    return _place(url) in ("://", "file://")


def _place(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc}"
