"""Which settings of those that met again at a search's end may be used: the best that still keep the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

from optinfer.errors import GateError, OptinferError
from optinfer.records.tuning import Point, Tuned
from optinfer.tuning.node_trials import NodeTrials
from optinfer.tuning.nodes import Node
from optinfer.tuning.search import Rounds, preferred

Say = Callable[[str], None]


def chosen_settings(node: Node, trials: NodeTrials, rounds: Rounds, say: Say) -> Tuned:
    """Return the best settings that keep the gate with their own micro-batches; their proof stays in the node's home.

    Raises:
        GateError: none does.
    """
    default = trials.default(next(iter(trials.proved)))
    reasons = []
    for point in preferred(rounds, default):
        found = _as_record(trials, rounds, point, default)
        try:
            proof = node.prove(found)
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
        lengths=trials.facts.sample.lengths,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=dict(trials.facts.versions[trials.proved[point.variant].settings.backend]),
        node=trials.facts.kind,
    )
