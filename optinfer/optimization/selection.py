"""Which variant scores: the named one or its fallback; or, with `variant: auto`, the fastest that passes.

Choosing is ordinary proving: every candidate is built, certified and judged like a named variant, so a second job on
the same rows chooses from the certificates it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from optinfer.artifact import Artifact
from optinfer.config import AUTO, JobConfig
from optinfer.errors import GateError
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.certificate import Certificate
from optinfer.optimization.gate import GateResult, judge
from optinfer.optimization.prepare import Workbench
from optinfer.optimization.variants import BASELINE, VARIANTS, Variant, require


@dataclass(frozen=True)
class Prepared:
    """The variant that scores, with its proof; `others` says of each variant not chosen why."""

    variant: Variant
    settings: ReplicaSettings
    certificate: Certificate
    gate: GateResult
    others: tuple[tuple[str, str], ...] = ()

    @property
    def artifact(self) -> Artifact:
        return self.settings.artifact

    @property
    def warnings(self) -> list[str]:
        """Say what a person should know before using the output."""
        if self.certificate.batch_invariant:
            return []
        return [
            f"{self.variant.name} is not batch-invariant: the same row differs by up to "
            f"{self.certificate.largest_difference:.2g} with other neighbours"
        ]

    @property
    def params(self) -> dict[str, Any]:
        """Describe the variant for a tracker."""
        return {
            "variant": self.variant.name,
            "techniques": self.variant.techniques,
            "backend": self.variant.backend,
            "precision": self.artifact.precision,
            "device": self.variant.device,
            "artifact": self.artifact.key,
            "batch_invariant": self.certificate.batch_invariant,
        }


def choose(bench: Workbench, only: str | None = None, clock: Callable[[], float] = monotonic) -> Prepared:
    """Return the variant that scores the job.

    Args:
        bench: builds and certifies.
        only: the variant an output is bound to by earlier attempts; no other is considered.
        clock: seconds, for the time budget.

    Raises:
        UnavailableError: a named variant cannot run on this machine.
        GateError: none passes.
    """
    config = bench.config
    if only is not None:
        return _first_that_passes(bench, [only])
    if config.variant == AUTO:
        return _fastest(bench, clock)
    return _first_that_passes(bench, [config.variant, *([config.gate.fallback] if config.gate.fallback else [])])


def recipes(config: JobConfig) -> dict[str, Any]:
    """Return what the job says of variants, for its fingerprint."""
    named = [name for name in (config.variant, config.gate.fallback) if name]
    return {name: AUTO if name == AUTO else require(name).recipe for name in named}


def _first_that_passes(bench: Workbench, names: list[str]) -> Prepared:
    refused: list[tuple[str, str]] = []
    for variant in [require(name) for name in names]:
        prepared = _prove(bench, variant)
        if prepared.gate.passed:
            return replace(prepared, others=tuple(refused))
        refused.append((variant.name, prepared.gate.reason))
    raise _none_passes(refused)


def _fastest(bench: Workbench, clock: Callable[[], float]) -> Prepared:
    """Prove every available variant within the time budget, the baseline first: it passes whatever the others do."""
    started = clock()
    proved: list[Prepared] = []
    others: list[tuple[str, str]] = []
    for variant in sorted(VARIANTS.values(), key=lambda v: v.name != BASELINE):
        if reason := variant.unavailable():
            others.append((variant.name, f"not available: {reason}"))
        elif bench.config.placement.device not in (AUTO, variant.device):
            others.append((variant.name, f"runs on {variant.device}, placement.device is another"))
        elif proved and clock() - started > bench.config.selection.time_budget:
            others.append((variant.name, "not tried: selection.time_budget was spent"))
        else:
            try:
                prepared = _prove(bench, variant)
            except Exception as error:
                # One candidate that cannot be built must not keep the others from being chosen.
                others.append((variant.name, f"could not be proved: {type(error).__name__}: {error}"[:500]))
                continue
            if prepared.gate.passed:
                proved.append(prepared)
            else:
                others.append((variant.name, prepared.gate.reason))
    if not proved:
        raise _none_passes(others)
    best, *slower = sorted(proved, key=lambda p: -p.certificate.rows_per_second)
    speeds = [(p.variant.name, f"slower: {_speed(p)}, {best.variant.name} {_speed(best)}") for p in slower]
    return replace(best, others=(*speeds, *others))


def _prove(bench: Workbench, variant: Variant) -> Prepared:
    settings = bench.settings(variant, bench.build(variant))
    certificate = bench.certify(variant, settings)
    gate, chosen_by_us = bench.config.gate, bench.config.variant == AUTO
    strict = chosen_by_us if gate.require_batch_invariance == AUTO else bool(gate.require_batch_invariance)
    return Prepared(
        variant, settings, certificate, judge(gate, certificate.fidelity, certificate.batch_invariant, strict)
    )


def _speed(prepared: Prepared) -> str:
    return f"{prepared.certificate.rows_per_second:.1f} rows/s a replica"


def _none_passes(refused: list[tuple[str, str]]) -> GateError:
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused)
    return GateError(
        f"no variant passes the gate, nothing was scored:\n{reasons}\n"
        f"lower gate.min, choose another variant, or name one that passes as gate.fallback ({BASELINE} always does)"
    )
