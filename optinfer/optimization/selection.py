"""Which variant scores: the named one or its fallback; or, with `variant: auto`, the fastest that passes.

Choosing is ordinary proving: whoever is chosen was built, certified and judged like a named variant, so a second job on
the same rows chooses from the certificates it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from time import monotonic

from optinfer.config import AUTO
from optinfer.errors import GateError, NoVariantError
from optinfer.optimization.contest import Contest, barred
from optinfer.optimization.prepared import Prepared as Prepared
from optinfer.optimization.prepared import Skipped as Skipped
from optinfer.optimization.prepared import judged, prove, tried
from optinfer.optimization.race import Why
from optinfer.optimization.variants import BASELINES, VARIANTS, Variant, require
from optinfer.optimization.workbench import Workbench
from optinfer.records.tuning import Tuned


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
        if out := barred(bench, variant):
            yield Skipped(name, out.reason)
        elif passed and time_budget is not None and clock() - started > time_budget:
            yield Skipped(name, "not tried: selection.time_budget was spent")
        else:
            result = tried(bench, variant)
            passed = passed or (isinstance(result, Prepared) and result.gate.passed)
            yield result


def known(bench: Workbench) -> Prepared | None:
    """Return what `candidates` would yield first as far as the cache tells; build and measure nothing."""
    named = bench.config.variant
    found = []
    for variant in [bench.catalog[name] for name in (_likely(bench) if named == AUTO else [named])]:
        if barred(bench, variant):
            continue
        artifact, tuned = bench.cached(variant), _tuned_for(bench, variant)
        settings = bench.settings(variant, artifact, tuned=tuned) if artifact else None
        if settings and (certificate := bench.certificate(settings)):
            proof = judged(bench, variant, settings, certificate, named == AUTO, tuned)
            found += [proof] if proof.gate.passed else []
    first = _contest(bench).remembered if named == AUTO and len(found) > 1 else None
    return max(
        found, key=lambda p: (p.tuned is not None, p.variant.name == first, p.certificate.rows_per_second), default=None
    )


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


def _likely(bench: Workbench) -> list[str]:
    return [name for name, variant in bench.catalog.items() if not variant.exploratory]


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
    if _all_certified(bench):
        yield from _by_certificate(bench, failed)
    else:
        yield from _raced(bench, failed)


def _all_certified(bench: Workbench) -> bool:
    """Tell whether every candidate was measured on these rows before, as `optinfer optimize` does."""
    likely = [bench.catalog[name] for name in _likely(bench)]
    return all(_certified(bench, variant) for variant in likely if not barred(bench, variant))


def _certified(bench: Workbench, variant: Variant) -> bool:
    artifact = bench.cached(variant)
    return artifact is not None and bench.certificate(bench.settings(variant, artifact)) is not None


def _by_certificate(bench: Workbench, failed: list[tuple[str, str]]) -> Iterator[Prepared]:
    ranked, fell = rank(bench)
    for i, best in enumerate(ranked):
        slower = [(p.variant.name, f"slower: {_speed(p)}, {best.variant.name} {_speed(best)}") for p in ranked[i + 1 :]]
        yield replace(
            best,
            not_chosen=(*failed, *slower, *fell),
            why_not=tuple((name, Why.SLOWER) for name, _ in slower),
        )


def _contest(bench: Workbench) -> Contest:
    return Contest(bench, [bench.catalog[name] for name in _likely(bench)], lambda variant: tried(bench, variant))


def _raced(bench: Workbench, failed: list[tuple[str, str]]) -> Iterator[Prepared]:
    contest, found = _contest(bench), False
    for prepared in contest:
        found = True
        yield replace(prepared, not_chosen=(*failed, *prepared.not_chosen))
    if not found:
        raise _none_passes([(one.name, one.reason) for one in contest.fallen], bench)


def _as_tuned(bench: Workbench, tuned: Tuned) -> Prepared | Skipped:
    """Prove what `tune` found anew: a record says how fast a variant is, never that it may score."""
    variant = bench.catalog.get(tuned.variant)
    if variant is None or (reason := variant.unavailable()):
        return Skipped(tuned.variant, "not there any more" if variant is None else str(reason))
    result = tried(bench, variant, tuned)
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
