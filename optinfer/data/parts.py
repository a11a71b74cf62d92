"""The committed parts of an output: each is put once, conditionally, and the file IS the commit.

A fragment's quarantine file comes first, so that no part names one that is not there. Its name says which rows it
holds, not why: an attempt that comes after one that died between the two takes over the file it finds, whatever words
its own reasons have, and no row is quarantined twice. Where two attempts do not agree on the rows, each has a file of
its own, and who loses the commit removes his.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.account import PART
from optinfer.data.fragments import Fragment, Plan
from optinfer.data.output_listing import QUARANTINE
from optinfer.data.storage import STATE, Folder, is_local
from optinfer.errors import OutputConflictError, redact

FOOTER_KEY = b"optinfer"
_ATTEMPTS = f"{STATE}/attempts"
_FOOTER_THREADS = 16
# Each time, somebody has put a file at the part's name that is none, or taken it away again.
_MOST_TRIES = 5
_log = logging.getLogger(__name__)


class Parts:
    """The parts of one output folder."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url)

    @property
    def shown(self) -> str:
        return redact(self.folder.url)

    def committed(self) -> set[str]:
        """Return the names of the committed parts: one listing."""
        return set(self.folder.names(PART))

    def begin(self, part: str) -> bool:
        """Mark that a part is being made; return False where an attempt of this run began it and did not end."""
        return self.folder.put_new(f"{_ATTEMPTS}/{part}", b"begun")

    def forget_attempts(self) -> None:
        """Start a run with a clean slate: what an earlier run left half done says nothing about its rows."""
        self.folder.delete(_ATTEMPTS)

    def commit(
        self,
        plan_name: str,
        fragment: Fragment,
        fingerprint: str,
        artifact: str,
        scored: pa.Table,
        quarantined: pa.Table | None,
        variant: str | None = None,
        allowed: Collection[str] = (),
    ) -> dict[str, Any]:
        """Put the fragment's part, once; return its footer record (the winner's, where another was first).

        Args:
            quarantined: rows that could not be scored; `_row` tells them apart.
            artifact, variant: what scored the rows.
            allowed: artifacts whose answers may be there instead: they need not quarantine the same rows.

        Raises:
            OutputConflictError: the part exists and was made from another fingerprint, by an artifact that is not
                allowed, or by this one with other counts.
        """
        record: dict[str, Any] = {
            "fragment": fragment.index,
            "fingerprint": fingerprint,
            "artifact": artifact,
            "variant": variant,
            "rows_in": fragment.rows,
            "rows_out": scored.num_rows,
            "rows_quarantined": quarantined.num_rows if quarantined is not None else 0,
            "quarantine_file": None,
            "quarantine_bytes": None,
        }
        if quarantined is not None and quarantined.num_rows:
            record |= self._set_aside(plan_name, quarantined)
        data = parquet_bytes(scored.replace_schema_metadata({FOOTER_KEY: as_json(record)}))
        for _ in range(_MOST_TRIES):
            if (stamp := self.folder.create(plan_name, data)) is not None:
                return {**record, **_measured(data), "stamp": stamp}
            winner = self.committed_record(plan_name)
            copied = (
                winner is not None and winner["fingerprint"] == fingerprint and winner["fragment"] != fragment.index
            )
            if winner is not None and not copied:
                return self._give_way(plan_name, record, winner, allowed)
            _log.warning("%s/%s is not the part of its fragment: it is removed and put again", self.shown, plan_name)
            self.folder.delete(plan_name)
        raise OutputConflictError(
            f"{self.shown}/{plan_name} is replaced by something else again and again; "
            "stop whoever writes there and run the same command again, or choose a new sink.path"
        )

    def _set_aside(self, part: str, quarantined: pa.Table) -> dict[str, Any]:
        """Put the quarantine file, or take over that of an earlier attempt at the same rows."""
        rows = _rows(quarantined)
        stem, told = part.removesuffix(".parquet"), hashlib.sha256(rows.tobytes()).hexdigest()[:12]
        name, data = f"{QUARANTINE}/{stem}-{told}.parquet", parquet_bytes(quarantined)
        if not self.folder.put_new(name, data):
            there = self.folder.read(name)
            if there is not None and _holds(there, rows):
                data = there
            else:
                self.folder.put(name, data)
        return {"quarantine_file": name, "quarantine_bytes": len(data)}

    def _give_way(
        self, part: str, record: dict[str, Any], winner: dict[str, Any], allowed: Collection[str]
    ) -> dict[str, Any]:
        """Return the winner's record, and leave no quarantine file that no part names."""
        if not _stands_for(winner, record, allowed):
            raise OutputConflictError(
                f"{self.shown}/{part} was committed by another run with other content ({winner}); "
                "nothing was overwritten: choose a new sink.path"
            )
        ours = record["quarantine_file"]
        if ours and ours != winner["quarantine_file"]:
            self.folder.delete(ours)
        return winner

    def commit_empty(self, plan: Plan, fingerprint: str, schema: pa.Schema) -> dict[str, Any]:
        """Commit one part without rows: an empty table gives an output with a schema, not one that readers refuse."""
        return self.commit(plan.part_name(0), Fragment(0, "", 0, 0), fingerprint, "", schema.empty_table(), None)

    def footer(self, part: str) -> dict[str, Any]:
        """Return what a part's footer says of its fragment.

        Raises:
            OutputConflictError: the file is no part.
        """
        with self.folder.open(part) as file:
            record = _record_in(file)
        if record is None:
            raise OutputConflictError(f"{self.shown}/{part} was not written by optinfer; choose a new sink.path")
        return record

    def committed_record(self, part: str) -> dict[str, Any] | None:
        """Return the record of a part as its commit returned it, None where no such part is committed."""
        if (data := self.folder.read(part)) is None:
            return None
        try:
            record = _record_in(io.BytesIO(data))
        except OSError:  # Arrow raises it for some damaged footers, too
            return None
        return None if record is None else {**record, **_measured(data)}

    def footers(self, parts: Iterable[str]) -> list[dict[str, Any]]:
        return self._each(self.footer, sorted(parts))

    def records(self, parts: list[str], whole: bool) -> list[dict[str, Any] | None]:
        """Return the records of parts, None for what is no part; `whole`: with size and digest, all of each is read."""
        return self._each(self.committed_record if whole else self.peek, parts)

    def peek(self, part: str) -> dict[str, Any] | None:
        """Return what a part's footer says, None where it is no part."""
        try:
            with self.folder.open(part) as file:
                return _record_in(file)
        except OSError:  # the storage's, or Arrow's for some damaged footers: reading all of it tells which
            return self.committed_record(part)

    def digests(self, parts: list[str]) -> list[str | None]:
        """Return the sha256 of parts as they lie there, None for what is gone."""

        def digest(part: str) -> str | None:
            data = self.folder.read(part)
            return None if data is None else str(_measured(data)["sha256"])

        return self._each(digest, parts)

    def _each(self, work: Any, parts: list[str]) -> list[Any]:
        if is_local(self.folder.url):  # threads would wait for each other's Python, not for the disk
            return list(map(work, parts))
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            return list(pool.map(work, parts))


def _record_in(file: Any) -> dict[str, Any] | None:
    """Return the record in a part's footer; None for a file that is cut short, empty, or not ours.

    A file that somebody wrote again from our rows keeps our record, and may have lost rows on the way.
    """
    try:
        metadata = pq.read_metadata(file)
        record: dict[str, Any] = json.loads((metadata.metadata or {})[FOOTER_KEY])
        return (
            record
            if record["rows_out"] == metadata.num_rows and {"fragment", "fingerprint", "rows_in"} <= {*record}
            else None
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError):
        return None


def _holds(quarantine: bytes, rows: np.ndarray[Any, Any]) -> bool:
    """Tell whether a quarantine file is whole and holds these rows."""
    try:
        return np.array_equal(_rows(pq.ParquetFile(io.BytesIO(quarantine)).read()), rows)
    except (pa.ArrowException, OSError, IndexError):
        return False


def _rows(quarantined: pa.Table) -> np.ndarray[Any, Any]:
    """Return the numbers of quarantined rows; a source column may have that name, too, and comes first."""
    return np.asarray(quarantined.column(quarantined.schema.get_all_field_indices("_row")[-1]), dtype="<i8")


def _measured(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _stands_for(winner: dict[str, Any], record: dict[str, Any], allowed: Collection[str]) -> bool:
    """Tell whether a part that was committed first holds this fragment's answers.

    They are by the same variant, with as many rows, or by another variant of the same job.
    """
    counts = ("fragment", "fingerprint", "artifact", "variant", "rows_in", "rows_out", "rows_quarantined")
    if all(winner.get(k) == record[k] for k in counts):
        return True
    same = all(winner.get(k) == record[k] for k in ("fragment", "fingerprint", "rows_in"))
    made, ours = ((of.get("artifact"), of.get("variant")) for of in (winner, record))
    return same and made != ours and made[0] in allowed and made[1] is not None


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, default=str).encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """Build the file in memory: a writer that dies half way leaves nothing behind."""
    # Numbers out of a model hardly repeat: a dictionary of them takes five times as long and a third more room.
    repeating = [f.name for f in table.schema if not (pa.types.is_nested(f.type) or pa.types.is_floating(f.type))]
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeating or False)
    return sink.getvalue()
