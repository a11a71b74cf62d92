"""What scored an output, once more: its artifact by digest, on today's machine, and what is not as it was then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from optinfer.commands.finished import Finished
from optinfer.errors import ConfigError, suggest
from optinfer.inference.canaries import contents, ground
from optinfer.inference.isolation import IsolatedReplica
from optinfer.inference.settings import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.build import already, by_key
from optinfer.optimization.certificate import runtime
from optinfer.optimization.proving import Proving
from optinfer.optimization.trial import APART
from optinfer.optimization.variants import Variant
from optinfer.records.inspection import Changed
from optinfer.records.part import Part
from optinfer.records.proof import Certificate
from optinfer.tuning import kept

_ABSENT = "missing"


@dataclass(frozen=True)
class Scorer:
    """What scores rows again as they were scored.

    Attributes:
        settings: of a replica that does not prove itself first: whether it is what it was, is the question.
        certificate: of what scored them; None where the output's last run kept none.
        changed: what is not as it was then.
    """

    settings: ReplicaSettings
    certificate: Certificate | None
    changed: tuple[Changed, ...]

    @property
    def tolerance(self) -> float:
        """How far a number may move without being another answer; nothing where nobody measured."""
        canaries = self.certificate.canaries if self.certificate else None
        return canaries.tolerance if canaries else 0.0


class Scorers:
    """What scored the parts of an output, each found and loaded once.

    Args:
        stack: ends what was loaded.
    """

    def __init__(self, done: Finished, stack: ExitStack, say: Callable[[str], None]) -> None:
        self._done, self._stack, self._say = done, stack, say
        self._found: dict[tuple[str, str], tuple[Scorer, IsolatedReplica]] = {}

    def of(self, made: Part) -> tuple[Scorer, IsolatedReplica]:
        """Return what scored a part, and a replica of it in a process of its own.

        Raises:
            ConfigError: as `scorer_of` does.
        """
        key = bound_to(self._done, made)
        if key not in self._found:
            scorer = scorer_of(self._done, *key, self._say)
            self._found[key] = scorer, self._stack.enter_context(IsolatedReplica(scorer.settings))
        return self._found[key]

    @property
    def found(self) -> list[Scorer]:
        """Those that were asked for."""
        return [scorer for scorer, _ in self._found.values()]

    @property
    def changed(self) -> tuple[Changed, ...]:
        """What is not as it was, of all of them, once."""
        return tuple(dict.fromkeys(one for scorer in self.found for one in scorer.changed))


def bound_to(done: Finished, made: Part) -> tuple[str, str]:
    """Return variant and artifact of a part; those of the whole output, where an early version's part does not say."""
    one = next(iter(done.output.binding.bound()), None)
    variant = made.variant or (one.variant if one else done.manifest.run.variant)
    return variant, made.artifact or (one.artifact if one else "")


def scorer_of(done: Finished, name: str, artifact: str, say: Callable[[str], None]) -> Scorer:
    """Return what scored the parts of an output that have this variant and artifact.

    The artifact is taken by its digest from where it is kept. Where it is not, it is built anew, which is said where
    another one comes of it.

    Raises:
        ConfigError: the variant is not known here, or its artifact can be neither found nor built.
    """
    known = done.subject.catalog
    if name not in known:
        raise ConfigError(f"{done.output.shown} was scored by {name!r}, which is no variant here{suggest(name, known)}")
    settings = done.subject.replica(known[name], _artifact(done, known[name], artifact, say), _threads(done))
    certificate = _certificate(done, name, artifact)
    return Scorer(settings, certificate, tuple(_changed(done, settings, artifact, certificate)))


def _artifact(done: Finished, variant: Variant, key: str, say: Callable[[str], None]) -> Artifact:
    model = done.subject.keyed
    if all(already(step["technique"], model.format) for step in variant.recipe["steps"]):
        return model
    if found := by_key(key, model):
        return found
    if done.source.plan is None:
        raise ConfigError(
            f"the artifact {key} is not kept here, and cannot be built without its table: run this where the "
            "job ran, or with the OPTINFER_HOME that it had"
        )
    say(f"the artifact {key} is not kept here: {variant.name} is built anew")
    return Proving(done.subject, done.source.plan.sample_from, kept.lookup, APART).bench(say).build(variant)


def _threads(done: Finished) -> int:
    placed = done.manifest.run.placement
    return placed[0].threads_per_replica if placed else 1


def _certificate(done: Finished, name: str, artifact: str) -> Certificate | None:
    run = done.manifest.run
    found = [run.certificate, run.beside.certificate if run.beside else None]
    return next((one for one in found if one and (one.variant, one.artifact) == (name, artifact)), None)


def _changed(
    done: Finished, settings: ReplicaSettings, artifact: str, certificate: Certificate | None
) -> Iterator[Changed]:
    identity = done.manifest.identity.get("model")
    then, now = (identity.get("digest") if isinstance(identity, dict) else None), done.subject.model.key
    if then is not None and then != now:
        yield Changed(kind="model", name=done.config.model.path, was=str(then), now=now)
    elif settings.artifact.key != artifact:
        yield Changed(kind="artifact", name=settings.variant, was=artifact, now=settings.artifact.key)
    yield from _runtime(done, settings, certificate)
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


def _runtime(done: Finished, settings: ReplicaSettings, certificate: Certificate | None) -> Iterator[Changed]:
    """Yield packages whose versions differ, plugins of others by their code, too."""
    bound = next((one for one in done.output.binding.bound() if one.variant == settings.variant), None)
    canaries = certificate.canaries if certificate else None
    then = {**(canaries.ground.runtime if canaries else {}), **((bound.runtime or {}) if bound else {})}
    opened_by = done.subject.family.opened_by
    now = {**ground(settings.device, then).runtime, **runtime(settings.backend, settings.family, opened_by)}
    for name, version in sorted(then.items()):
        if now.get(name, _ABSENT) != version:
            yield Changed(kind="package", name=name, was=version, now=now.get(name, _ABSENT))


def _has(there: bool) -> str:
    return "there" if there else _ABSENT


def _cut(sha256: str | None) -> str:
    return f"SHA-256 {sha256[:12]}" if sha256 else _ABSENT
