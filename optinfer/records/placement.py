"""What Ray is asked for, pool by pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optinfer.records.record import Record, decoded


@dataclass(frozen=True)
class Placement(Record):
    """The replicas of one pool; `reasons` says where each number comes from.

    Attributes:
        replicas: those that start; up to `max_replicas` join them as nodes do.
        pinned: replicas by the node that they are to be on; empty where Ray may choose.
        left_out: nodes that are not to have any.
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
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as records have it: nodes are named only where some are left out, as few jobs do."""
        told = super().as_dict()
        if not self.left_out:
            del told["left_out"]
        return told

    @property
    def params(self) -> Mapping[str, object]:
        """Describe it for a tracker."""
        return {name: value for name, value in self.as_dict().items() if name not in ("pinned", "left_out")}


def told(each: Sequence[Placement]) -> dict[str, Any]:
    """Return placements as `--json` has them: each further pool's inside the one before, as `beside`."""
    if not each:
        return {}
    first, *rest = each
    return {**first.as_dict(), "beside": told(rest) or None}


def placements(raw: object) -> tuple[Placement, ...]:
    """Return the placements that `told` made plain; none where they are none."""
    found = []
    while isinstance(raw, Mapping) and raw:
        try:
            found.append(decoded(Placement, raw))
        except ValueError:
            return ()
        raw = raw.get("beside")
    return tuple(found)


def on_one_core(device: str, threads: int) -> bool:
    """Tell whether a replica has a single core, on which preprocessing and the model take turns."""
    return device == "cpu" and threads == 1
