"""What an output is bound to: a frozen job, and the artifact that fills it, pool by pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """

    variant: str
    artifact: str
    backend: str = ""
    device: str = ""
    runtime: Mapping[str, str] | None = None
    beside: Bound | None = None

    def __iter__(self) -> Iterator[Bound]:
        """Yield what each pool is bound to."""
        yield self
        yield from self.beside or ()

    @property
    def named(self) -> str:
        """Name what fills an output: one variant, or more."""
        return " and ".join(f"{one.variant} (artifact {one.artifact})" for one in self)

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if value is not None}
