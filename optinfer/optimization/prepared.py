"""A variant with its proof: built, certified and judged on one job's sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optinfer.config import AUTO
from optinfer.errors import scrubbed
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.certificate import runtime
from optinfer.optimization.gate import judge
from optinfer.optimization.race import Why
from optinfer.optimization.time_limits import time_limits
from optinfer.optimization.variants import Variant
from optinfer.optimization.workbench import Workbench
from optinfer.records.binding import Bound
from optinfer.records.proof import Certificate, GateResult
from optinfer.records.tuning import NO_LENGTHS, Lengths, Tuned


@dataclass(frozen=True)
class Prepared:
    """A variant with its proof.

    Attributes:
        runtime: package -> version of what executes it where it was proved; `cpus` are of that node.
        not_chosen: the other variants, and why; `why_not` says it in a word of race.py, for programs.
        tuned: what `optinfer tune` found for this variant and rows like these; `settings` have its micro-batches.
        lengths: tokens that the sample's rows take.
    """

    variant: Variant
    settings: ReplicaSettings
    certificate: Certificate
    gate: GateResult
    runtime: Mapping[str, str]
    cpus: int
    not_chosen: tuple[tuple[str, str], ...] = ()
    why_not: tuple[tuple[str, str], ...] = ()
    tuned: Tuned | None = None
    lengths: Lengths = NO_LENGTHS

    @property
    def artifact(self) -> Artifact:
        return self.settings.artifact

    @property
    def identity(self) -> Bound:
        """Everything that must be the same when an output is resumed, so that it holds this variant's answers only."""
        return Bound(
            variant=self.variant.name,
            artifact=self.artifact.key,
            backend=self.variant.backend,
            device=self.variant.device,
            runtime=self.runtime,
        )

    @property
    def params(self) -> dict[str, object]:
        """Describe the variant for a tracker."""
        return {
            "variant": self.variant.name,
            "techniques": self.variant.techniques,
            "backend": self.variant.backend,
            "precision": self.artifact.precision,
            "device": self.variant.device,
            "artifact": self.artifact.key,
            "batch_invariant": self.certificate.batch_invariant,
            "tuned": self.tuned.measured_at if self.tuned else "no",
        }


@dataclass(frozen=True)
class Skipped:
    """A variant that was not measured, and why: for people, and for programs."""

    name: str
    reason: str
    why: Why = Why.UNPROVABLE


def prove(bench: Workbench, variant: Variant, chosen_by_us: bool, tuned: Tuned | None = None) -> Prepared:
    """Build, certify and judge one variant; `chosen_by_us` tells whether nobody named it.

    With `tuned` it is proved with the micro-batches that `optinfer tune` found, as it will score.
    """
    settings = replace(bench.settings(variant, bench.build(variant), tuned=tuned), canary=bench.canary)
    return judged(bench, variant, settings, bench.certify(variant, settings), chosen_by_us, tuned)


def judged(
    bench: Workbench,
    variant: Variant,
    settings: ReplicaSettings,
    certificate: Certificate,
    chosen_by_us: bool,
    tuned: Tuned | None,
) -> Prepared:
    gate = bench.config.gate
    strict = chosen_by_us if gate.require_batch_invariance == AUTO else bool(gate.require_batch_invariance)
    verdict = judge(gate, certificate.fidelity, certificate.batch_invariant, strict, certificate.mismatch)
    limits = time_limits(certificate, bench.config.batching.timeout)
    proving = replace(settings, canaries=certificate.canaries, limits=limits)
    return Prepared(
        variant,
        proving,
        certificate,
        verdict,
        runtime(variant.backend, settings.family, bench.family.opened_by),
        bench.cpus,
        tuned=tuned,
        lengths=bench.lengths,
    )


def tried(bench: Workbench, variant: Variant, tuned: Tuned | None = None) -> Prepared | Skipped:
    try:
        return prove(bench, variant, chosen_by_us=True, tuned=tuned)
    except Exception as error:
        # One candidate that cannot be built must not keep the others from being chosen.
        return Skipped(variant.name, scrubbed(f"could not be proved: {type(error).__name__}: {error}")[:500])
