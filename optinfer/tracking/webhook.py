"""Posts a run's record to a webhook, signed as the Standard Webhooks specification says, and tried again.

The receiver computes HMAC-SHA256 over `id.timestamp.body` with the shared secret and compares it with the header; a
record that is delivered twice has the same `webhook-id`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable

from optinfer.errors import ConfigError
from optinfer.records.news import Ended
from optinfer.tracking.courier import Letter, Refused, origin

_PREFIX = "whsec_"
_BUDGET_SECONDS = 10.0
_CONNECT_SECONDS, _ANSWER_SECONDS = 3.0, 5.0
# Answers that may be others the next time: overloaded, or on its way up.
_AGAIN = (408, 425, 429)


class _Again(Refused):
    """Worth another try."""


class Webhook:
    """One endpoint.

    Args:
        secret: shared with the receiver; empty signs nothing.
        clock: gives seconds since the epoch.
    """

    def __init__(self, url: str, secret: str = "", clock: Callable[[], float] = time.time) -> None:
        self._url, self._key, self._clock = url, _key(secret), clock

    def letter(self, run_id: str, ended: Ended) -> Letter:
        """Return the record of a run, to be posted."""
        body = json.dumps(ended.record, default=str)
        name = f"{run_id}-{ended.kind}"
        return Letter(
            what="the record of this run",
            to=origin(self._url),
            body=body,
            deliver=lambda given_up: self._persist(name, body.encode(), given_up),
        )

    def _persist(self, name: str, body: bytes, given_up: threading.Event) -> None:
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            sleep_using_event,
            stop_after_delay,
            stop_when_event_set,
            wait_exponential,
            wait_random,
        )

        tries = Retrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_when_event_set(given_up) | stop_after_delay(_BUDGET_SECONDS),
            wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0.0, 0.1),
            sleep=sleep_using_event(given_up),
            reraise=True,
        )
        tries(self._post, name, body)

    def _post(self, name: str, body: bytes) -> None:
        import requests

        try:
            # No redirects: what is signed for one receiver is not for another. The answer's body is not read.
            with requests.post(
                self._url,
                data=body,
                headers=self._headers(name, body),
                timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
        except requests.Timeout as error:
            raise _Again("it does not answer") from error
        except requests.ConnectionError as error:
            raise _Again("it cannot be reached, or hung up") from error
        if status >= 500 or status in _AGAIN:
            raise _Again(f"it answers {status}")
        if not 200 <= status < 300:
            raise Refused(f"it answers {status}")

    def _headers(self, name: str, body: bytes) -> dict[str, str]:
        stamp = str(int(self._clock()))
        told = {"Content-Type": "application/json", "webhook-id": name, "webhook-timestamp": stamp}
        if not self._key:
            return told
        signed = hmac.new(self._key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
        return {**told, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}


def _key(secret: str) -> bytes:
    """Return the key: what follows `whsec_` is base64, anything else is taken as it is."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            "the secret that notify.secret_env names begins with whsec_, and what follows is not base64; copy it again "
            "from where it was made"
        ) from None
