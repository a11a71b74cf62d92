"""Which variants may win a search."""

from __future__ import annotations

from optinfer.config import AUTO
from optinfer.errors import GateError
from optinfer.optimization.prepared import Prepared, prove
from optinfer.optimization.selection import rank
from optinfer.optimization.variants import require
from optinfer.optimization.workbench import Workbench

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
