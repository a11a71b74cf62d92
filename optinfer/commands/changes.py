"""What answers depend on, and is not as it was when an output was scored: by name, with what it was and is."""

from __future__ import annotations

from collections.abc import Iterator

from optinfer.inference.canaries import contents, ground
from optinfer.inference.settings import ReplicaSettings
from optinfer.optimization.certificate import runtime
from optinfer.optimization.subject import Subject
from optinfer.records.binding import Bound
from optinfer.records.inspection import Changed
from optinfer.records.proof import Certificate

_ABSENT = "missing"


def changes(
    subject: Subject, settings: ReplicaSettings, bound: Bound, certificate: Certificate | None, digest: object
) -> Iterator[Changed]:
    """Yield what differs between then and now.

    Args:
        subject: the model, as it is found today, and `settings` of a replica of it.
        bound: what scored the output.
        certificate: of that; None where nobody kept one, and then less is known.
        digest: of the model then; None where the output does not say.
    """
    if digest is not None and digest != subject.model.key:
        yield Changed(kind="model", name=subject.config.model.path, was=str(digest), now=subject.model.key)
    elif settings.artifact.key != bound.artifact:
        yield Changed(kind="artifact", name=settings.variant, was=bound.artifact, now=settings.artifact.key)
    yield from _runtime(subject, settings, bound, certificate)
    canaries = certificate.canaries if certificate else None
    if canaries is None:
        return
    here = ground(settings.device, ())
    for feature in sorted({*canaries.ground.cpu_features} ^ {*here.cpu_features}):
        there = feature in canaries.ground.cpu_features
        yield Changed(kind="cpu feature", name=feature, was=_has(there), now=_has(not there))
    if canaries.ground.gpu != here.gpu:
        yield Changed(kind="gpu", name="gpu", was=canaries.ground.gpu or "none", now=here.gpu or "none")
    files = contents(settings)
    for name in sorted({*canaries.files, *files}):
        if (was := canaries.files.get(name)) != (is_now := files.get(name)):
            yield Changed(kind="file", name=name, was=_cut(was), now=_cut(is_now))


def _runtime(
    subject: Subject, settings: ReplicaSettings, bound: Bound, certificate: Certificate | None
) -> Iterator[Changed]:
    """Yield packages whose versions differ, plugins of others by their code, too."""
    canaries = certificate.canaries if certificate else None
    then = {**(canaries.ground.runtime if canaries else {}), **(bound.runtime or {})}
    opened_by = subject.family.opened_by
    now = {**ground(settings.device, then).runtime, **runtime(settings.backend, settings.family, opened_by)}
    for name, version in sorted(then.items()):
        if now.get(name, _ABSENT) != version:
            yield Changed(kind="package", name=name, was=version, now=now.get(name, _ABSENT))


def _has(there: bool) -> str:
    return "there" if there else _ABSENT


def _cut(sha256: str | None) -> str:
    return f"SHA-256 {sha256[:12]}" if sha256 else _ABSENT
