"""Certificates, kept in our home by artifact and sample, so that the second run of a job measures nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from optinfer.data import home_store
from optinfer.inference.canaries import contents
from optinfer.inference.settings import ReplicaSettings
from optinfer.records.proof import Certificate
from optinfer.records.record import decoded
from optinfer.system import home

_log = logging.getLogger(__name__)
# File -> SHA-256 of what a replica loads, as inference/canaries.py tells it.
Files = Mapping[str, str]


def put(certificate: Certificate, settings: ReplicaSettings, anew: bool = False) -> Certificate:
    """Keep a replica's certificate; return it, or what another machine kept of the same files before.

    Args:
        anew: what was kept before counts for nothing.
    """
    path, content = _path(certificate.artifact, certificate.sample), json.dumps(certificate.whole(), indent=1).encode()
    if anew:
        home_store.replace(path, content)
        return certificate
    home_store.put(path, content, _reading(path, contents(settings)))
    return read(settings, certificate.sample) or certificate


def read(settings: ReplicaSettings, key: str) -> Certificate | None:
    """Return the certificate kept of a replica's files as they lie here now, for the sample of a key, if any.

    One of other files is said, and counts as none; one without canaries proves no replica.
    """
    path = _path(settings.artifact.key, key)
    return home_store.read(path, _reading(path, contents(settings)))


def _reading(path: Path, files: Files) -> Callable[[Path], Certificate | None]:
    def make(raw: object) -> Certificate | None:
        found = decoded(Certificate, raw)
        if found.canaries is None:  # of before
            return None
        found.canaries.require_whole()
        if other := _first_difference(found.canaries.files, files):
            _log.warning("warning: %s is of another %s than lies here now: the variant is measured anew", path, other)
            return None
        return found

    return lambda file: home.read_json(file, make)


def _first_difference(certified: Files, here: Files) -> str:
    return next((name for name in sorted({*certified, *here}) if certified.get(name) != here.get(name)), "")


def _path(artifact: str, key: str) -> Path:
    return home.home() / "certificates" / artifact / f"{key}.json"
