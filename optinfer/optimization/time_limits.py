"""How long the steps of a replica may take, by what they took when it was certified and what the job says."""

from __future__ import annotations

from optinfer.config import AUTO, Auto
from optinfer.inference.at_work import TimeLimits
from optinfer.records.proof import Certificate

# A step that takes so many times what it took here never ends: replicas share a node, and some nodes are slow.
_TIMES, _SHORTEST_LIMIT = 50.0, 60.0
# What making a row ready may take where nobody measured it.
_ROW_SECONDS = 1.0


def time_limits(certificate: Certificate, timeout: float | Auto) -> TimeLimits:
    """Return the limits of a replica; a `timeout` that the job names is that of a micro-batch."""
    p99, row = certificate.micro_batch_p99_ms / 1e3, certificate.row_seconds
    return TimeLimits(
        micro_batch=max(_SHORTEST_LIMIT, _TIMES * p99) if timeout == AUTO else timeout,
        row=_ROW_SECONDS if row is None else _TIMES * row,
    )
