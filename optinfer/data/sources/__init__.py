"""Where rows come from. One file a kind of table; this is the contract between them and the rest.

A module here holds `source = Source(...)`. Planning imports nothing heavy and writes nothing; a reader is made where
rows are scored, and reads what was planned or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from optinfer.config import AUTO, SourceConfig
from optinfer.data.fragments import Fragment, Plan
from optinfer.errors import ConfigError
from optinfer.plugins import Kind


class Reader(Protocol):
    """Reads fragments of one plan; several threads may call it."""

    def read(self, fragment: Fragment) -> pa.Table:
        """Return the fragment's rows in the plan's types, in order.

        Raises:
            CorruptFileError: it is the planned one and cannot be decoded.
            SourceError: it is not the planned one any more, or out of reach.
        """


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of table.

    Attributes:
        about: what it is, in a line.
        claims: tells from a path whether it is such a table, for `source.format: auto`.
        plan: (the job's source, columns that it reads, rows that a fragment should have) -> the table, cut, at one
            version of its files. Raises ConfigError for a table that cannot be read, with the fix.
        reader: (columns) -> what reads fragments of such a plan.
        versioned: it keeps several versions, of which `source.version` names one, and its plans say which.
    """

    about: str
    claims: Callable[[str], bool]
    plan: Callable[[SourceConfig, Sequence[str], int], Plan]
    reader: Callable[[Sequence[str]], Reader]
    versioned: bool = False


SOURCES: Kind[Source] = Kind("source", "sources", __name__, Source)
# What a path holds that no kind claims.
DEFAULT = "parquet"


def kind_of(config: SourceConfig) -> str:
    """Return the name of the job's kind of table: the one it names, or the one that claims its path.

    Raises:
        ConfigError: there is no such kind, or one that cannot hold versions is asked for one.
    """
    name = config.format
    if name == AUTO:
        claiming = (known for known in SOURCES.names() if known != DEFAULT and SOURCES.get(known).claims(config.path))
        name = next(claiming, DEFAULT)
    kind = SOURCES.get(name)
    if config.version is not None and not kind.versioned:
        raise ConfigError(f"source.version has no use with a {name} source, whose files have no versions; remove it")
    return name
