"""What committed parts hold, without opening each: the listing says which are there, accounts say what is in them.

The driver adds an account, a small Parquet file, for every few hundred receipts. An account is only a shortcut: a part
that no account names (the driver died before writing it) is opened, a part that is not listed does not count whatever
an account says. Without accounts a resume of half a million parts would open half a million files.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.storage import STATE, Folder

PART = r"part-\d{6,}\.parquet"
_FOLDER = f"{STATE}/accounts"
_RECEIPTS_AN_ACCOUNT = 500
_COUNTS = ("fragment", "rows_in", "rows_out", "rows_quarantined")
_MAKERS = ("artifact", "variant")
_UNNAMED = "unnamed"  # by a part, or its account, of before variants were recorded
_SCHEMA = pa.schema([*((name, pa.int64()) for name in _COUNTS), *((name, pa.string()) for name in _MAKERS)])


@dataclass(frozen=True, eq=False)
class Committed:
    """Fragments committed by earlier attempts and their rows; `artifacts` made them.

    Attributes:
        rows_by_variant: rows in the output by the variant that answered.
    """

    fragments: np.ndarray[Any, Any]
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    artifacts: frozenset[str] = frozenset()
    rows_by_variant: dict[str, int] = field(default_factory=dict)


NOTHING = Committed(np.array([], dtype=np.int64))


def committed(table: pa.Table) -> Committed:
    """Add up a table of accounts."""
    sums = {name: int(np.sum(table.column(name).to_numpy())) for name in _COUNTS[1:]}
    artifacts = frozenset(table.column("artifact").unique().to_pylist())
    rows = pa.table({"of": table.column("variant").fill_null(_UNNAMED), "rows": table.column("rows_out")})
    summed = rows.group_by("of").aggregate([("rows", "sum")])
    by_variant = dict(zip(summed.column("of").to_pylist(), summed.column("rows_sum").to_pylist(), strict=True))
    return Committed(table.column("fragment").to_numpy(), **sums, artifacts=artifacts, rows_by_variant=by_variant)


def from_footers(footers: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{name: f.get(name) for name in _SCHEMA.names} for f in footers], schema=_SCHEMA)


def index_of(part: str) -> int:
    """Return the fragment that a part's name stands for."""
    number = part.removeprefix("part-").removesuffix(".parquet")
    if not number.isdigit():
        raise ValueError(f"{part} is no part's name")
    return int(number)


class Accounts:
    """The accounts of one output, of one fingerprint."""

    def __init__(self, folder: Folder, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._open: list[dict[str, Any]] = []

    def add(
        self,
        artifact: str,
        fragment: int,
        rows_in: int,
        rows_out: int,
        rows_quarantined: int,
        variant: str | None = None,
    ) -> None:
        """Count one committed fragment; it is written with others."""
        counts = (fragment, rows_in, rows_out, rows_quarantined)
        self._open.append({**dict(zip(_COUNTS, counts, strict=True)), "artifact": artifact, "variant": variant})
        if len(self._open) >= _RECEIPTS_AN_ACCOUNT:
            self.flush()

    def flush(self) -> None:
        """Write what is counted and not written yet."""
        if not self._open:
            return
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._open, schema=_SCHEMA), sink, compression="zstd")
        self._folder.put(f"{_FOLDER}/{self._fingerprint}-{uuid.uuid4().hex}.parquet", sink.getvalue())
        self._open = []

    def read(self) -> pa.Table:
        """Return all accounts as one table; a fragment may be in several, with the same counts."""
        names = self._folder.names(rf"{self._fingerprint}-\w+\.parquet", under=_FOLDER)
        tables = [_SCHEMA.empty_table()]
        for name in names:
            with self._folder.open(f"{_FOLDER}/{name}") as file:
                tables.append(pq.read_table(file, schema=_SCHEMA))
        return pa.concat_tables(tables)
