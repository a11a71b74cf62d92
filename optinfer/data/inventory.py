"""The inventory of a finished output: every part with its size and digest, in `_optinfer/parts.pq`.

A million entries would make the manifest a hundred megabytes of JSON, so it holds the inventory's own digest, and what
its columns add up to. With it one listing tells whether the output still is what was finished; nothing is opened.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from optinfer.data.fragments import part_name
from optinfer.data.output_listing import Differences, Listing, differences, listed
from optinfer.data.state import parquet_bytes
from optinfer.data.storage import ASIDE, ASIDE_BEFORE, STATE, Folder
from optinfer.records.manifest import Inventory, Manifest

INVENTORY, INVENTORY_BEFORE = (f"{STATE}/parts{suffix}" for suffix in (ASIDE, ASIDE_BEFORE))
_TAKEN_OVER = ("fragment", "bytes", "sha256", "quarantine_file", "quarantine_bytes")


def of(committed: pa.Table, total: int) -> pa.Table:
    """Return the inventory of accounts: what lies in the folder for each fragment, in order."""
    committed = committed.sort_by("fragment")
    names = [part_name(index, total) for index in committed.column("fragment").to_pylist()]
    rows = pc.add(committed.column("rows_out"), committed.column("rows_in_place").fill_null(0))
    columns = {"part": pa.array(names, pa.string()), "rows": rows}
    return pa.table({**columns, **{name: committed.column(name) for name in _TAKEN_OVER}})


def keep(folder: Folder, table: pa.Table) -> Inventory:
    """Write an inventory; return what the manifest says of it."""
    data = parquet_bytes(table)
    folder.put(INVENTORY, data)
    return Inventory(
        file=INVENTORY,
        sha256=hashlib.sha256(data).hexdigest(),
        count=table.num_rows,
        bytes=_sum(table, "bytes"),
        quarantine_files=len(table) - table.column("quarantine_file").null_count,
        quarantine_bytes=_sum(table, "quarantine_bytes"),
    )


def _sum(table: pa.Table, column: str) -> int:
    return int(pc.sum(table.column(column)).as_py() or 0)


def damage(folder: Folder, manifest: Manifest) -> tuple[Listing, Differences]:
    """List a finished output and hold it against its inventory, or its plan where it was finished without one."""
    total = manifest.run.fragments
    listing = listed(folder, total)
    if manifest.parts is None:
        return listing, _unlike_the_plan(listing, total)
    known = _read(folder, manifest.parts)
    if known is None:
        lost = f"{manifest.parts.file} is missing, or not the one that was written"
        return listing, Differences(np.array([], dtype=np.int64), (lost,), (), listing.foreign)
    return listing, differences(listing, known, total)


def _unlike_the_plan(listing: Listing, total: int) -> Differences:
    """Ask for a part of each fragment; nobody knows their sizes, nor which quarantine files they name."""
    count = len(listing.sizes)
    unknown = {"fragment": np.arange(count), "bytes": pa.nulls(count, pa.int64())}
    files = {"quarantine_file": pa.nulls(count, pa.string()), "quarantine_bytes": pa.nulls(count, pa.int64())}
    found = differences(listing, pa.table({**unknown, **files}), total)
    return Differences(found.lost, found.reasons, (), listing.foreign)


def _read(folder: Folder, told: Inventory) -> pa.Table | None:
    data = folder.read(told.file)
    if data is None or hashlib.sha256(data).hexdigest() != told.sha256:
        return None
    return pq.read_table(io.BytesIO(data), columns=list(_TAKEN_OVER))
