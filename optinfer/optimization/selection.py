"""Which variant scores: the named one or its fallback; or, with `variant: auto`, the fastest that passes.

Choosing is ordinary proving: every candidate is built, certified and judged like a named variant, so a second job on
the same rows chooses from the certificates it finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from optinfer.backends import BACKENDS
from optinfer.config import AUTO
from optinfer.errors import GateError, NoVariantError, scrubbed
from optinfer.families import FAMILIES
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.gate import judge
from optinfer.optimization.time_limits import time_limits
from optinfer.optimization.variants import BASELINES, VARIANTS, Variant, require
from optinfer.optimization.workbench import Workbench
from optinfer.records.binding import Bound
from optinfer.records.proof import Certificate, GateResult
from optinfer.records.tuning import NO_LENGTHS, Lengths, Tuned
from optinfer.system.machine import installed


@dataclass(frozen=True)
class Prepared:
    """A variant with its proof.

    Attributes:
        runtime: package -> version of what executes it where it was proved; `cpus` are of that node.
        not_chosen: the other variants, and why.
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
    """A variant that was not measured, and why."""

    name: str
    reason: str


def candidates(bench: Workbench, only: str | None = None) -> Iterator[Prepared]:
    """Yield the variants that may score the job, best first; a later one is for when an earlier one cannot load.

    With `variant: auto` the best is what `optinfer tune` found, where it did.

    Args:
        bench: builds and certifies.
        only: the variant an output is bound to by earlier attempts; no other is considered.

    Raises:
        UnavailableError: a named variant cannot run on this machine.
        GateError: none passes, or the baseline is not the model as its own library reads it.
    """
    config = bench.config
    _ = bench.baseline  # the model itself is proved first, and says which rows of the sample can be scored
    if only is None and config.variant == AUTO:
        return _fastest_first(bench)
    named = [only] if only else [config.variant, *([config.gate.fallback] if config.gate.fallback else [])]
    return _in_order(bench, named)


def prove_all(
    bench: Workbench,
    names: Iterable[str] | None = None,
    time_budget: float | None = None,
    clock: Callable[[], float] = monotonic,
) -> Iterator[Prepared | Skipped]:
    """Prove variants one after another, the baseline first: it passes whatever the others do.

    Args:
        names: those to try; None tries all that the job knows.
        time_budget: seconds after which no further variant is tried, as long as one has passed.
    """
    _ = bench.baseline
    started, passed = clock(), False
    wanted = bench.catalog if names is None else names
    baseline = BASELINES[bench.model.format]
    # Then the job's own recipes: whoever wrote them wants them tried.
    for name in sorted(wanted, key=lambda n: (n != baseline, n in VARIANTS)):
        variant = bench.catalog[name]
        if reason := variant.unavailable() or variant.unfit(bench.model.format):
            yield Skipped(name, f"not available: {reason}")
        elif not _on_device(bench, variant):
            yield Skipped(name, f"runs on {variant.device}, placement.device is {bench.config.placement.device}")
        elif passed and time_budget is not None and clock() - started > time_budget:
            yield Skipped(name, "not tried: selection.time_budget was spent")
        else:
            result = _tried(bench, variant)
            passed = passed or (isinstance(result, Prepared) and result.gate.passed)
            yield result


def prove(bench: Workbench, variant: Variant, chosen_by_us: bool, tuned: Tuned | None = None) -> Prepared:
    """Build, certify and judge one variant; `chosen_by_us` tells whether nobody named it.

    With `tuned` it is proved with the micro-batches that `optinfer tune` found, as it will score.
    """
    settings = replace(bench.settings(variant, bench.build(variant), tuned=tuned), canary=bench.canary)
    return _judged(bench, variant, settings, bench.certify(variant, settings), chosen_by_us, tuned)


def known(bench: Workbench) -> Prepared | None:
    """Return what `candidates` would yield first as far as the cache tells; build and measure nothing."""
    named = bench.config.variant
    found = []
    for variant in [bench.catalog[name] for name in (_likely(bench) if named == AUTO else [named])]:
        if variant.unavailable() or variant.unfit(bench.model.format) or not _on_device(bench, variant):
            continue
        artifact, tuned = bench.cached(variant), _tuned_for(bench, variant)
        settings = bench.settings(variant, artifact, tuned=tuned) if artifact else None
        if settings and (certificate := bench.certificate(settings)):
            judged = _judged(bench, variant, settings, certificate, named == AUTO, tuned)
            found += [judged] if judged.gate.passed else []
    return max(found, key=lambda p: (p.tuned is not None, p.certificate.rows_per_second), default=None)


def _judged(
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
        _runtime(variant, settings.family, bench.family.opened_by),
        os.cpu_count() or 1,
        tuned=tuned,
        lengths=bench.lengths,
    )


def _runtime(variant: Variant, family: str, opened_by: Sequence[str]) -> dict[str, str]:
    """Return what executes the variant here: packages with their versions, plugins of others with their code."""
    required = {name: installed(name) for name in (*BACKENDS.get(variant.backend).requires, *opened_by)}
    return required | BACKENDS.provenance(variant.backend) | FAMILIES.provenance(family)


def rank(bench: Workbench) -> tuple[list[Prepared], list[tuple[str, str]]]:
    """Prove every variant that is likely to gain; return those that pass, fastest first, and the others with reasons.

    Raises:
        GateError: none passes.
    """
    proved: list[Prepared] = []
    refused: list[tuple[str, str]] = []
    for result in prove_all(bench, _likely(bench), bench.config.selection.time_budget):
        if isinstance(result, Skipped):
            refused.append((result.name, result.reason))
        elif result.gate.passed:
            proved.append(result)
        else:
            refused.append((result.variant.name, result.gate.reason))
    if not proved:
        raise _none_passes(refused, bench)
    return sorted(proved, key=lambda p: -p.certificate.rows_per_second), refused


def _on_device(bench: Workbench, variant: Variant) -> bool:
    return bench.config.placement.device in (AUTO, variant.device)


def _likely(bench: Workbench) -> list[str]:
    return [name for name, variant in bench.catalog.items() if not variant.exploratory]


def _tried(bench: Workbench, variant: Variant, tuned: Tuned | None = None) -> Prepared | Skipped:
    try:
        return prove(bench, variant, chosen_by_us=True, tuned=tuned)
    except Exception as error:
        # One candidate that cannot be built must not keep the others from being chosen.
        return Skipped(variant.name, scrubbed(f"could not be proved: {type(error).__name__}: {error}")[:500])


def _in_order(bench: Workbench, names: list[str]) -> Iterator[Prepared]:
    refused: list[tuple[str, str]] = []
    found = False
    for variant in [require(name, bench.catalog, bench.model.format) for name in names]:
        try:
            prepared = prove(bench, variant, chosen_by_us=False, tuned=_tuned_for(bench, variant))
        except NoVariantError as error:
            if variant.name == names[-1] and not refused:
                raise
            refused.append((variant.name, str(error)))
            continue
        if prepared.gate.passed:
            found = True
            yield replace(prepared, not_chosen=tuple(refused))
        else:
            refused.append((variant.name, prepared.gate.reason))
    if not found:
        raise _none_passes(refused, bench)


def _fastest_first(bench: Workbench) -> Iterator[Prepared]:
    failed: list[tuple[str, str]] = []
    if bench.tuned is not None:
        first = _as_tuned(bench, bench.tuned)
        if isinstance(first, Prepared):
            yield first
        else:
            failed.append((f"{first.name} as tuned", first.reason))
    ranked, refused = rank(bench)
    for i, best in enumerate(ranked):
        slower = [(p.variant.name, f"slower: {_speed(p)}, {best.variant.name} {_speed(best)}") for p in ranked[i + 1 :]]
        yield replace(best, not_chosen=(*failed, *slower, *refused))


def _as_tuned(bench: Workbench, tuned: Tuned) -> Prepared | Skipped:
    """Prove what `tune` found anew: a record says how fast a variant is, never that it may score."""
    variant = bench.catalog.get(tuned.variant)
    if variant is None or (reason := variant.unavailable()):
        return Skipped(tuned.variant, "not there any more" if variant is None else str(reason))
    result = _tried(bench, variant, tuned)
    if isinstance(result, Skipped):
        return result
    if not result.gate.passed:
        return Skipped(tuned.variant, result.gate.reason)
    why = f"{tuned.variant} won `optinfer tune` on {tuned.measured_at[:10]}"
    return replace(result, not_chosen=tuple((name, why) for name in _likely(bench) if name != tuned.variant))


def _tuned_for(bench: Workbench, variant: Variant) -> Tuned | None:
    return bench.tuned if bench.tuned and bench.tuned.variant == variant.name else None


def _speed(prepared: Prepared) -> str:
    return f"{prepared.certificate.rows_per_second:.1f} rows/s a replica"


def _none_passes(refused: list[tuple[str, str]], bench: Workbench) -> GateError:
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused)
    return GateError(
        f"no variant passes the gate, nothing was scored:\n{reasons}",
        "lower what the gate asks for, choose another variant, or name one that passes as gate.fallback "
        f"({BASELINES[bench.model.format]} is the baseline itself)",
    )
