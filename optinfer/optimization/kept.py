"""Certificates, kept in our home by artifact and sample, so that the second run of a job measures nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from optinfer.data import home_store
from optinfer.records.proof import Certificate
from optinfer.records.record import decoded
from optinfer.system import home

_log = logging.getLogger(__name__)
# File -> SHA-256 of what a replica loads, as inference/canaries.py tells it.
Files = Mapping[str, str]


def put(certificate: Certificate, files: Files) -> Certificate:
    """Keep a certificate of these files; return it, or what another machine kept of them before."""
    path = _path(certificate.artifact, certificate.sample)
    home_store.put(path, json.dumps(certificate.whole(), indent=1).encode(), _reading(path, files))
    return read(certificate.artifact, certificate.sample, files) or certificate


def read(artifact: str, key: str, files: Files) -> Certificate | None:
    """Return the certificate kept for this artifact and sample, if any; one without canaries proves no replica.

    Args:
        files: those of the artifact as it lies here now; a certificate of others is said, and counts as none.
    """
    path = _path(artifact, key)
    return home_store.read(path, _reading(path, files))


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
