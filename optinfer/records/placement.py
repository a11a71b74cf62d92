"""What Ray is asked for, pool by pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Placement:
    """The replicas of one pool; `reasons` says where each number comes from.

    Attributes:
        replicas: those that start; up to `max_replicas` join them as nodes do.
        pinned: replicas by the node that they are to be on; empty where Ray may choose.
    """

    device: str
    replicas: int
    max_replicas: int
    threads_per_replica: int
    cpus_per_replica: float
    gpus_per_replica: float
    reasons: tuple[str, ...]
    accelerator_type: str | None = None
    resources: dict[str, float] = field(default_factory=dict)
    pinned: dict[str, int] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """Describe it for a tracker."""
        return {name: value for name, value in asdict(self).items() if name != "pinned"}


def told(placements: Sequence[Placement]) -> dict[str, Any]:
    """Return placements as `--json` has them: each further pool's inside the one before, as `beside`."""
    if not placements:
        return {}
    first, *rest = placements
    return {**asdict(first), "beside": told(rest) or None}
