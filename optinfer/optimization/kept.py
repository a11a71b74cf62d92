"""Certificates, kept in our home by artifact and sample, so that the second run of a job measures nothing."""

from __future__ import annotations

import json
from pathlib import Path

from optinfer.records.proof import Certificate
from optinfer.records.record import decoded
from optinfer.system import home


def put(certificate: Certificate) -> None:
    content = json.dumps(certificate.whole(), indent=1).encode()
    home.put(_path(certificate.artifact, certificate.sample), content)


def read(artifact: str, key: str) -> Certificate | None:
    """Return the certificate kept for this artifact and sample, if any; one without canaries proves no replica."""
    return home.read_json(_path(artifact, key), _with_canaries)


def _with_canaries(raw: object) -> Certificate | None:
    found = decoded(Certificate, raw)
    if found.canaries is None:  # of before
        return None
    found.canaries.require_whole()
    return found


def _path(artifact: str, key: str) -> Path:
    return home.home() / "certificates" / artifact / f"{key}.json"
