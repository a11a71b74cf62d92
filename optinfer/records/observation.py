"""What a run took, part by part: it is kept, and the next forecasts are corrected by it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optinfer.records.record import Record

# Where the replicas of a run are.
ON_RAY, ON_CLUSTER, IN_PROCESS = "ray here", "ray cluster", "this process"
CERTIFICATE, TUNED = "certificate", "tuned"


@dataclass(frozen=True, kw_only=True)
class Observation(Record):
    """One run that was done. Seconds, and rows per second of all replicas; None where a run does not tell.

    Attributes:
        machine: its kind; `where` its replicas were: one of the above.
        basis: what `measured` comes from, `certificate` or `tuned`, and an experiment's arms, whose rows are of another
            speed; both speeds are on rows of this table's lengths.
        prepare: command to proof, where nothing had to be built or measured for that; else None.
        ray, actors, load: the further steps of the start-up; `certified_load` is what the certificate says of the last.
        first: what the replicas' first fragments took beyond their rows.
        steady: the speed after these.
        closing: last commit to the finished account; `recording` from there to the end: Ray ended, MLflow fed.
    """

    at: str
    model: str
    variant: str
    machine: str
    where: str
    basis: str
    replicas: int
    threads: int
    rows: int
    measured: float
    certified_load: float
    prepare: float | None = None
    ray: float | None = None
    actors: float | None = None
    load: float | None = None
    first: float | None = None
    steady: float | None = None
    closing: float | None = None
    recording: float | None = None

    @property
    def is_sound(self) -> bool:
        """Tell whether all numbers are such as a run may have."""
        numbers = [value for value in vars(self).values() if isinstance(value, int | float)]
        return all(math.isfinite(number) and number >= 0 for number in numbers)

    @property
    def slowdown(self) -> float | None:
        """How many times longer rows took than was measured; None where there is nothing to compare."""
        return self.measured / self.steady if self.steady and self.measured > 0 else None

    @property
    def loading(self) -> float | None:
        """How many times longer a replica loaded than when it was certified."""
        return self.load / self.certified_load if self.load and self.certified_load > 0 else None
