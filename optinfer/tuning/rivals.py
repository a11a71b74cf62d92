"""Which variants may win a search, and which settings of those that met again at its end may be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

from optinfer.config import AUTO
from optinfer.errors import GateError, OptinferError
from optinfer.optimization.prepared import Prepared, prove
from optinfer.optimization.selection import rank
from optinfer.optimization.variants import require
from optinfer.optimization.workbench import Workbench
from optinfer.records.tuning import Point, Tuned
from optinfer.tuning import kept
from optinfer.tuning.node_trials import NodeTrials
from optinfer.tuning.search import Rounds, preferred

Say = Callable[[str], None]

# A variant so many times slower than the best, one replica alone, is not made the fastest by its micro-batches.
_PLAUSIBLE = 2.0


def plausible_variants(bench: Workbench) -> tuple[list[Prepared], dict[str, str]]:
    """Prove what the job allows; return what may win, fastest replica first, and why the others are left out."""
    config = bench.config
    if config.variant != AUTO:
        named = prove(bench, require(config.variant, bench.catalog, bench.model.format), chosen_by_us=False)
        if not named.gate.passed:
            raise GateError(f"{config.variant} does not pass the gate: {named.gate.reason}; nothing was searched")
        return [named], {}
    ranked, refused = rank(bench)
    left_out, plausible, best = dict(refused), [], ranked[0]
    for prepared in ranked:
        speed, most = prepared.certificate.rows_per_second, best.certificate.rows_per_second
        if prepared.variant.device != best.variant.device:
            left_out[prepared.variant.name] = f"runs on {prepared.variant.device}, the best on {best.variant.device}"
        elif speed * _PLAUSIBLE < most:
            left_out[prepared.variant.name] = (
                f"{speed:.1f} rows/s a replica, {best.variant.name} {most:.1f}: more than {_PLAUSIBLE:g}x slower"
            )
        else:
            plausible.append(prepared)
    return plausible, left_out


def chosen_settings(bench: Workbench, trials: NodeTrials, rounds: Rounds, say: Say) -> Tuned:
    """Return the best settings that keep the gate with their own micro-batches; their proof stays in the cache."""
    default = trials.default(next(iter(trials.proved)))
    reasons = []
    for point in preferred(rounds, default):
        found = _as_record(trials, rounds, point, default)
        variant = trials.proved[point.variant].variant
        try:
            proof = prove(bench, variant, chosen_by_us=bench.config.variant == AUTO, tuned=found)
        except OptinferError as error:
            reasons.append(f"{point}: {error}")
            continue
        if proof.gate.passed:
            return replace(found, peak_rss_mb=max(found.peak_rss_mb, proof.certificate.peak_rss_mb))
        reasons.append(f"{point}: {proof.gate.reason}")
        say(f"does not pass with these micro-batches: {reasons[-1]}")
    raise GateError("no setting passes the gate with its own micro-batches:\n  " + "\n  ".join(reasons))


def _as_record(trials: NodeTrials, rounds: Rounds, point: Point, default: Point) -> Tuned:
    tokens, size = trials.limits(point)
    return Tuned(
        variant=point.variant,
        max_batch_tokens=tokens,
        max_batch_size=size,
        replicas=point.replicas,
        threads_per_replica=point.threads,
        rows_per_second=median(rounds[point]),
        default_rows_per_second=median(rounds[default]) if default in rounds else None,
        peak_rss_mb=0.0,
        lengths=trials.sample.lengths,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=kept.versions(trials.proved[point.variant].settings.backend),
    )
