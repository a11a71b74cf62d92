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
from optinfer.optimization.race import Dropped, Why
from optinfer.optimization.variants import BASELINES, VARIANTS, Catalog, Variant, require
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
    for name in in_order(bench.catalog, bench.model.format, names):
        variant = bench.catalog[name]
        if out := barred(bench, variant):
            yield Skipped(name, out.reason, out.why)
        elif passed and time_budget is not None and clock() - started > time_budget:
            yield out_of_time(name)
        else:
            result = tried(bench, variant)
            passed = passed or (isinstance(result, Prepared) and result.gate.passed)
            yield result


def in_order(catalog: Catalog, model_format: str, names: Iterable[str] | None = None) -> list[str]:
    """Return variants in the order in which they are tried, the baseline first; None takes all that the job knows."""
    baseline = BASELINES[model_format]
    # Then the job's own recipes: whoever wrote them wants them tried.
    return sorted(catalog if names is None else names, key=lambda n: (n != baseline, n in VARIANTS))


def out_of_time(name: str) -> Skipped:
    return Skipped(name, "not tried: selection.time_budget was spent", Why.OUT_OF_TIME)


def known(bench: Workbench) -> Prepared | None:
    """Return what `candidates` would yield first as far as the cache tells; build and measure nothing."""
    named = bench.config.variant
    found = []
    for variant in [bench.catalog[name] for name in (likely(bench.catalog) if named == AUTO else [named])]:
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
    results = prove_all(bench, likely(bench.catalog), bench.config.selection.time_budget)
    proved, refused = _ranked(results, bench.model.format)
    return proved, [(one.name, one.reason) for one in refused]


def _ranked(results: Iterable[Prepared | Skipped], model_format: str) -> tuple[list[Prepared], list[Dropped]]:
    proved: list[Prepared] = []
    refused: list[Dropped] = []
    for result in results:
        if isinstance(result, Skipped):
            refused.append(Dropped(result.name, result.why, result.reason))
        elif result.gate.passed:
            proved.append(result)
        else:
            refused.append(Dropped(result.variant.name, Why.BELOW_GATE, result.gate.reason))
    if not proved:
        raise _none_passes([(one.name, one.reason) for one in refused], model_format)
    return sorted(proved, key=lambda p: -p.certificate.rows_per_second), refused


def likely(catalog: Catalog) -> list[str]:
    """Return the variants that are tried without being named."""
    return [name for name, variant in catalog.items() if not variant.exploratory]


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
        raise _none_passes(refused, bench.model.format)


def _fastest_first(bench: Workbench) -> Iterator[Prepared]:
    failed: list[Skipped] = []
    for first in as_tuned(bench):
        if isinstance(first, Prepared):
            yield first
        else:
            failed.append(first)
    if _all_certified(bench):
        results = prove_all(bench, likely(bench.catalog), bench.config.selection.time_budget)
        yield from best_first(results, bench.model.format, failed)
    else:
        yield from _raced(bench, failed)


def as_tuned(bench: Workbench) -> Iterator[Prepared | Skipped]:
    """Yield what `tune` found for jobs like this one, proved, or why it cannot be used; nothing where it found none."""
    if bench.tuned is not None:
        yield _as_tuned(bench, bench.tuned)


def best_first(
    results: Iterable[Prepared | Skipped], model_format: str, failed: Iterable[Skipped] = ()
) -> Iterator[Prepared]:
    """Yield what passes, fastest first, each with the others and why they are not chosen.

    Args:
        results: in the order in which variants are tried: of two that are as fast, the earlier one comes first.
        failed: what was tuned and cannot be used any more.

    Raises:
        GateError: none passes.
    """
    ranked, refused = _ranked(results, model_format)
    for i, best in enumerate(ranked):
        slower = [
            Dropped(p.variant.name, Why.SLOWER, f"slower: {_speed(p)}, {best.variant.name} {_speed(best)}")
            for p in ranked[i + 1 :]
        ]
        others = [*slower, *refused]
        yield replace(
            best,
            not_chosen=(*_untuned(failed), *((one.name, one.reason) for one in others)),
            why_not=tuple((one.name, one.why) for one in others),
        )


def _all_certified(bench: Workbench) -> bool:
    """Tell whether every candidate was measured on these rows before, as `optinfer optimize` does."""
    candidates = [bench.catalog[name] for name in likely(bench.catalog)]
    return all(_certified(bench, variant) for variant in candidates if not barred(bench, variant))


def _certified(bench: Workbench, variant: Variant) -> bool:
    artifact = bench.cached(variant)
    return artifact is not None and bench.certificate(bench.settings(variant, artifact)) is not None


def _contest(bench: Workbench) -> Contest:
    return Contest(
        bench, [bench.catalog[name] for name in likely(bench.catalog)], lambda variant: tried(bench, variant)
    )


def _raced(bench: Workbench, failed: Iterable[Skipped]) -> Iterator[Prepared]:
    contest, found = _contest(bench), False
    for prepared in contest:
        found = True
        yield replace(prepared, not_chosen=(*_untuned(failed), *prepared.not_chosen))
    if not found:
        raise _none_passes([(one.name, one.reason) for one in contest.fallen], bench.model.format)


def _untuned(failed: Iterable[Skipped]) -> list[tuple[str, str]]:
    return [(f"{one.name} as tuned", one.reason) for one in failed]


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
    return replace(result, not_chosen=tuple((name, why) for name in likely(bench.catalog) if name != tuned.variant))


def _tuned_for(bench: Workbench, variant: Variant) -> Tuned | None:
    return bench.tuned if bench.tuned and bench.tuned.variant == variant.name else None


def _speed(prepared: Prepared) -> str:
    return f"{prepared.certificate.rows_per_second:.1f} rows/s a replica"


def _none_passes(refused: list[tuple[str, str]], model_format: str) -> GateError:
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused)
    return GateError(
        f"no variant passes the gate, nothing was scored:\n{reasons}",
        "lower what the gate asks for, choose another variant, or name one that passes as gate.fallback "
        f"({BASELINES[model_format]} is the baseline itself)",
    )
