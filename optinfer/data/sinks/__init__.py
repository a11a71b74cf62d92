"""Where scored rows go. One file a kind of table; this is the contract between them and the rest.

A sink's module holds `sink = SinkKind(...)`. However it is read later, an output is a folder of parts, one a fragment,
each put once: the part IS the commit of its fragment, and a listing says what is done. What a kind adds is how the
finished parts become one table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from optinfer.config import AUTO, SinkConfig
from optinfer.errors import ConfigError
from optinfer.plugins import Kind
from optinfer.records.part import Part

DEFAULT = "parquet"
FINAL = (
    "rows of this kind of output are never written again, as its readers may be at an earlier version of it; "
    "score the rows of _quarantine as a source of their own, with another sink.path"
)


class Sink(ABC):
    """One output's rows; made wherever rows are committed or counted.

    Attributes:
        replaces: whether a part may take another's place.
    """

    replaces = False

    @abstractmethod
    def put(
        self, name: str, part: Part, scored: pa.Table, quarantined: pa.Table | None, allowed: Collection[str] = ()
    ) -> Part:
        """Commit a fragment's rows, once; return the part that is there (the winner's, where another was first).

        Args:
            name: of the part.
            part: what fragment of which job this is, and who scored it; the counts are filled in here, but for
                `rows_in_place`, which says how many of `scored` have no answer.
            quarantined: rows that could not be scored; `_row` tells them apart.
            allowed: artifacts whose answers may be there instead: they need not quarantine the same rows.

        Raises:
            OutputConflictError: the part exists and was made from another fingerprint, by an artifact that is not
                allowed, or by this one with other counts.
        """

    @abstractmethod
    def committed(self) -> set[str]:
        """Return the names of the committed parts: one listing."""

    @abstractmethod
    def read(self, names: Sequence[str], whole: bool = True) -> list[Part | None]:
        """Return what parts say of themselves, None for what is none.

        Args:
            whole: all of each is read, for its size and digest; else no more than tells what it holds.
        """

    def rows(self, name: str, part: Part) -> tuple[pa.Table, pa.Table | None]:
        """Return what a committed part holds, and its quarantined rows; for kinds that can `replace`."""
        raise ConfigError(FINAL)

    def replace(self, name: str, there: Part, part: Part, scored: pa.Table, quarantined: pa.Table | None) -> Part:
        """Put a part in the place of one of the same fragment, at once; return it.

        Raises:
            ConfigError: parts of this kind of table are final.
        """
        raise ConfigError(FINAL)

    @abstractmethod
    def finish(self, fingerprint: str, parts: pa.Table) -> None:
        """Make one table of the parts; called when all are there, and again where an earlier end was cut off.

        Args:
            fingerprint: of the job, whose rows the table holds.
            parts: columns `part` (name), `rows`, `bytes` and `sha256`, in the order of fragments.
        """


@dataclass(frozen=True, kw_only=True)
class SinkKind:
    """A kind of table.

    Attributes:
        about: what it is, in a line.
        open: (URL of the output) -> the sink; cheap, and done on every replica.
        check: (URL and schema of the output) -> nothing, or ConfigError for what such a table cannot hold, or be.
    """

    about: str
    open: Callable[[str], Sink]
    check: Callable[[str, pa.Schema], None]


SINKS: Kind[SinkKind] = Kind("sink", "sinks", __name__, SinkKind)


def kind_of(config: SinkConfig) -> str:
    """Return the name of the job's kind of output.

    Raises:
        ConfigError: there is no such kind.
    """
    name = DEFAULT if config.format == AUTO else config.format
    SINKS.get(name)
    return name
