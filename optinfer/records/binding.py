"""What an output is bound to: a frozen job, and the artifact that fills it, pool by pool, or one for each arm."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class FrozenJob(Record):
    """The job of an output: its fingerprint, and what that is made of, so that a difference can be named."""

    fingerprint: str
    fields: Mapping[str, object]

    @property
    def rows(self) -> int | None:
        """The rows of its table; None where the record does not say."""
        rows = self._source.get("rows")
        return rows if isinstance(rows, int) else None

    def version_of(self, path: str) -> int | None:
        """Return the version of its table, if that lies at `path`; None also where such tables keep none."""
        version = self._source.get("version")
        return version if isinstance(version, int) and self._source.get("path") == path else None

    @property
    def _source(self) -> Mapping[str, object]:
        source = self.fields.get("source")
        return source if isinstance(source, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class Bound(Record):
    """What fills one pool of an output: all that must be the same when it is resumed; `beside` is the next pool's.

    Attributes:
        runtime: the backend's packages, with their versions.
        arm: what the next arm of an experiment has, whose rows lie among these.
    """

    variant: str
    artifact: str
    backend: str = ""
    device: str = ""
    runtime: Mapping[str, str] | None = None
    beside: Bound | None = None
    arm: Bound | None = None

    @property
    def arms(self) -> tuple[Bound, ...]:
        """What the further arms have."""
        return (self.arm, *self.arm.arms) if self.arm else ()

    @property
    def artifacts(self) -> list[str]:
        """What made the parts, as they say: pool by pool, or all arms of an experiment together."""
        if self.arm:
            return [of_arms([one.artifact for one in (self, *self.arms)])]
        return [one.artifact for one in self]

    def __iter__(self) -> Iterator[Bound]:
        """Yield what each pool is bound to."""
        yield self
        yield from self.beside or ()

    def agrees(self, other: Bound) -> bool:
        """Tell whether two are the same, as far as both say: earlier versions name fewer of what a variant runs on."""
        mine, theirs = self.runtime or {}, other.runtime or {}
        runtime = all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())
        own = (self.variant, self.artifact, self.backend, self.device)
        alike = runtime and own == (other.variant, other.artifact, other.backend, other.device)
        return alike and _agree(self.beside, other.beside) and _agree(self.arm, other.arm)

    @property
    def named(self) -> str:
        """Name what fills an output: one variant, or more."""
        return " and ".join(f"{one.variant} (artifact {one.artifact})" for one in (*self, *self.arms))

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if value is not None}


def _agree(one: Bound | None, other: Bound | None) -> bool:
    return one is other if one is None or other is None else one.agrees(other)


def of_arms(artifacts: Sequence[str]) -> str:
    """Return what names the artifacts of an experiment's arms together, in their order."""
    return hashlib.sha256("+".join(artifacts).encode()).hexdigest()[:16]
