"""What committed parts hold, without opening each: the listing says which are there, accounts say what is in them.

The driver adds an account, a small Parquet file, for every few hundred receipts. An account is only a shortcut: a part
that no account names (the driver died before writing it) is opened, a part that is not listed does not count whatever
an account says, and an account that cannot be read is left out. Without accounts a resume of half a million parts would
open half a million files. Those of this run are also kept as columns: at its end the folder is held against them.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.storage import ASIDE, ASIDE_BEFORE, STATE, Folder
from optinfer.records.part import Part

PART = r"part-\d{6,}\.parquet"
_FOLDER = f"{STATE}/accounts"
_RECEIPTS_AN_ACCOUNT = 500
_COUNTS = ("fragment", "rows_in", "rows_out", "rows_quarantined")
_MAKERS = ("artifact", "variant")
# Of the files: size, digest and stamp of the part, name and size of its quarantine file,
# rows of the part that have no answer; what is watched of its rows. Accounts of before lack them.
_FILES = {
    "bytes": pa.int64(),
    "sha256": pa.string(),
    "stamp": pa.int64(),
    "quarantine_file": pa.string(),
    "quarantine_bytes": pa.int64(),
    "rows_in_place": pa.int64(),
    "sketch": pa.string(),
}
_UNNAMED = "unnamed"  # by a part, or its account, of before variants were recorded
SCHEMA = pa.schema(
    [*((name, pa.int64()) for name in _COUNTS), *((name, pa.string()) for name in _MAKERS), *_FILES.items()]
)


@dataclass(frozen=True, eq=False)
class Committed:
    """Fragments committed by earlier attempts and their rows; `artifacts` made them.

    Attributes:
        rows_by_variant: rows in the output by the variant that answered.
        damaged: parts that were found damaged, and what each was, in words; they do not count, and are gone.
        dropped: accounts that could not be read.
    """

    fragments: np.ndarray[Any, Any]
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    artifacts: frozenset[str] = frozenset()
    rows_by_variant: dict[str, int] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def committed(table: pa.Table, damaged: tuple[str, ...] = (), dropped: tuple[str, ...] = ()) -> Committed:
    """Add up a table of accounts."""
    sums = {name: int(np.sum(table.column(name).to_numpy())) for name in _COUNTS[1:]}
    artifacts = frozenset(table.column("artifact").unique().to_pylist())
    rows = pa.table({"of": table.column("variant").fill_null(_UNNAMED), "rows": table.column("rows_out")})
    summed = rows.group_by("of").aggregate([("rows", "sum")])
    by_variant = dict(zip(summed.column("of").to_pylist(), summed.column("rows_sum").to_pylist(), strict=True))
    return Committed(table.column("fragment").to_numpy(), **sums, artifacts=artifacts, rows_by_variant=by_variant,
                     damaged=damaged, dropped=dropped)  # fmt: skip


def as_table(parts: Sequence[Part]) -> pa.Table:
    return pa.table({name: [getattr(part, name) for part in parts] for name in SCHEMA.names}, schema=SCHEMA)


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
        self.fingerprint = fingerprint
        self._open: list[Part] = []
        self._held: list[pa.Table] = []

    def add(self, part: Part) -> None:
        """Count one committed fragment; it is written with others."""
        self._open.append(part)
        if len(self._open) >= _RECEIPTS_AN_ACCOUNT:
            self.flush()

    def flush(self) -> None:
        """Write what is counted and not written yet."""
        if not self._open:
            return
        table = as_table(self._open)
        self._write(table)
        self._held.append(table)
        self._open = []

    def hold(self, known: pa.Table, opened: pa.Table) -> None:
        """Start from what earlier attempts committed, as accounts tell and parts that were opened for want of one."""
        self._held = [known, opened]
        if opened.num_rows:
            self._write(opened)

    def write_again(self) -> None:
        """Write all that is counted, where the folder was removed."""
        if (table := self.table()).num_rows:
            self._write(table)
        self._held, self._open = [table], []

    def renew(self) -> None:
        """Leave no account on disk but of what is counted: parts of the others may change, and are opened then."""
        earlier = self._names()
        self.write_again()
        for name in earlier:
            self._folder.delete(f"{_FOLDER}/{name}")

    def table(self) -> pa.Table:
        """Return what is counted in this run, resumed fragments included; each once, as it was committed last."""
        table = pa.concat_tables([SCHEMA.empty_table(), *self._held, as_table(self._open)])
        fragments = table.column("fragment").to_numpy()
        _, last = np.unique(fragments[::-1], return_index=True)
        return table if len(last) == len(fragments) else table.take(pa.array(len(fragments) - 1 - last))

    def forget(self, fragments: np.ndarray[Any, Any]) -> Committed:
        """Count these no more, as their parts are lost; return what they held."""
        table = self.table()
        lost = np.isin(table.column("fragment").to_numpy(), fragments)
        self._held, self._open = [table.filter(pa.array(~lost))], []
        return committed(table.filter(pa.array(lost)))

    def read(self) -> tuple[pa.Table, tuple[str, ...]]:
        """Return all accounts on disk as one table, and the names of those that cannot be read.

        A fragment may be in several: with other sizes where its part was lost and made again.
        """
        tables, damaged = [SCHEMA.empty_table()], []
        for name in self._names():
            data = self._folder.read(f"{_FOLDER}/{name}")
            try:
                # Columns that an account of before lacks are null.
                tables.append(pq.read_table(io.BytesIO(data or b""), schema=SCHEMA))
            except (pa.ArrowException, OSError):
                damaged.append(f"{_FOLDER}/{name}")
        return pa.concat_tables(tables), tuple(damaged)

    def _write(self, table: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self._folder.put(f"{_FOLDER}/{self.fingerprint}-{uuid.uuid4().hex}{ASIDE}", sink.getvalue())

    def _names(self) -> list[str]:
        return self._folder.names(rf"{self.fingerprint}-\w+({ASIDE}|{ASIDE_BEFORE})", under=_FOLDER)
