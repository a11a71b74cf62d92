"""One variant that scored rows of an output, as it scores them again: its artifact by digest, on today's machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optinfer.commands.changes import changes
from optinfer.commands.finished import Finished
from optinfer.errors import ConfigError, suggest
from optinfer.inference.settings import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.build import already, by_key
from optinfer.optimization.proving import Proving
from optinfer.optimization.subject import Subject
from optinfer.optimization.trial import APART
from optinfer.records.binding import Bound
from optinfer.records.inspection import Changed
from optinfer.records.proof import Certificate
from optinfer.tuning import kept


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


def scorer_of(done: Finished, subject: Subject, bound: Bound, arm: str, say: Callable[[str], None]) -> Scorer:
    """Return what scored rows of an output.

    The artifact is taken by its digest from where it is kept. Where it is not, it is built anew, which is said where
    another one comes of it.

    Args:
        subject: the model, as it is found today.
        bound: the variant and the artifact that scored them.
        arm: of an experiment, beside the control; else nothing.

    Raises:
        ConfigError: the variant is not known here, or its artifact can be neither found nor built.
    """
    known, name = subject.catalog, bound.variant
    if name not in known:
        raise ConfigError(f"{done.output.shown} was scored by {name!r}, which is no variant here{suggest(name, known)}")
    settings = subject.replica(known[name], _artifact(done, subject, bound, say), _threads(done))
    certificate = _certificate(done, bound, arm)
    digest = None if arm else _digest(done)
    return Scorer(settings, certificate, tuple(changes(subject, settings, bound, certificate, digest)))


def _artifact(done: Finished, subject: Subject, bound: Bound, say: Callable[[str], None]) -> Artifact:
    model, variant = subject.keyed, subject.catalog[bound.variant]
    if all(already(step["technique"], model.format) for step in variant.recipe["steps"]):
        return model
    if found := by_key(bound.artifact, model):
        return found
    if done.source.plan is None:
        raise ConfigError(
            f"the artifact {bound.artifact} is not kept here, and cannot be built without its table: run this where "
            "the job ran, or with the OPTINFER_HOME that it had"
        )
    say(f"the artifact {bound.artifact} is not kept here: {variant.name} is built anew")
    return Proving(subject, done.source.plan.sample_from, kept.lookup, APART).bench(say).build(variant)


def _threads(done: Finished) -> int:
    placed = done.manifest.run.placement
    return placed[0].threads_per_replica if placed else 1


def _certificate(done: Finished, bound: Bound, arm: str) -> Certificate | None:
    run = done.manifest.run
    proofs = [run.arms.get(arm)] if arm else [run, run.beside]
    found = [one.certificate for one in proofs if one]
    wanted = (bound.variant, bound.artifact)
    return next((one for one in found if one and (one.variant, one.artifact) == wanted), None)


def _digest(done: Finished) -> object:
    identity = done.manifest.identity.get("model")
    return identity.get("digest") if isinstance(identity, dict) else None
